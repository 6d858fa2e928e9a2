import numpy as np
import pytest
import torch

from example_facts import example_facts, example_outputs, right, write_outputs
from reference import decoding as reference
from spelling_networks import LAYOUTS, Untrainable, network
from tightframe.errors import UserError
from tightframe.knowledge.answers import answer_questions, token_limit
from tightframe.knowledge.asking import prompts
from tightframe.knowledge.qa_models import Generation
from tightframe.knowledge.score_tables import read_outputs, score
from tightframe.knowledge.word_pieces import next_tokens

FACTS = example_facts()
ASKED = prompts(FACTS, "cloze_seen")


class Always(np.random.Generator):
    """A generator that gives one number."""

    def __new__(cls, number):
        return super().__new__(cls, np.random.PCG64(0))

    def __init__(self, number):
        super().__init__(np.random.PCG64(0))
        self.number = number

    def random(self):
        return self.number


@pytest.mark.parametrize(
    ("number", "token"),
    [(0.0, 1), (0.2499, 1), (0.2501, 3), (0.4999, 3), (0.5001, 4), (1 - 2**-53, 4)],
)
def test_a_token_has_its_share_of_the_numbers(number, token):
    # Shares 0, 1/4, 0, 1/4, 1/2, 0: a token without probability is never said.
    logits = torch.tensor([[0, 0.25, 0, 0.25, 0.5, 0]]).log()
    assert next_tokens(logits, [Always(number)]).tolist() == [token]
    assert next_tokens(logits, None).tolist() == [4]


def test_tokens_come_as_often_as_they_are_probable():
    shares = np.array([0.1, 0.6, 0.3])
    rows = torch.tensor(shares).log().expand(4000, 3)
    drawn = next_tokens(rows, [np.random.default_rng(7)] * 4000)
    counts = np.bincount(drawn.numpy(), minlength=3)
    # Five standard deviations of a binomial count.
    assert np.abs(counts - 4000 * shares) == pytest.approx(0, abs=5 * np.sqrt(4000 * 0.6 * 0.4))


def naive(net, one, seed, limit):
    """A token at a time, drawn by counting up probabilities."""
    from tightframe.knowledge.clozes import fact_generator

    generator, said = fact_generator(seed, one.question_id), []
    for _ in range(limit):
        every = reference.logits(net, net.tokenizer.prompt(one.prompt.text), said)
        number, total, token = generator.random(), 0.0, -1
        for share in every[-1].double().softmax(-1).tolist():
            token, total = token + 1, total + share
            if total > number:
                break
        if token == net.tokenizer.eos:
            return Generation(net.tokenizer.text(said), "end")
        said.append(token)
    return Generation(net.tokenizer.text(said), "length")


def test_a_causal_answer_is_drawn_token_by_token_from_its_questions_own_generator():
    net = network("causal")
    outputs = answer_questions(net, ASKED, max_new_tokens=9, decoding="paper", seed=3)
    expected = [naive(net, one, 3, 9) for one in ASKED]
    assert [Generation(one.text, one.finish) for one in outputs] == expected
    assert len({one.text for one in outputs}) == len(ASKED)
    assert {one.decoding for one in outputs} == {"paper"}
    again = answer_questions(net, ASKED[::-1], max_new_tokens=9, decoding="paper", seed=3)
    assert [one.text for one in again] == [one.text for one in outputs][::-1]
    other = answer_questions(net, ASKED, max_new_tokens=9, decoding="paper", seed=4)
    assert all(one.text != two.text for one, two in zip(outputs, other, strict=True))


@pytest.mark.parametrize("layout", [one for one in LAYOUTS if one != "causal"])
def test_what_reads_both_ways_stays_greedy(layout):
    net = network(layout)
    greedy = answer_questions(net, ASKED, max_new_tokens=9)
    published = answer_questions(net, ASKED, max_new_tokens=9, decoding="paper")
    assert [one.text for one in published] == [one.text for one in greedy]
    assert {one.decoding for one in greedy} == {"greedy"}


def test_published_answers_are_long_but_for_a_networks_positions():
    # A beginning, the letters of the cloze, SEP; the last token is said and not read.
    longest = max(len(one.prompt.text.replace("[MASK]", "M")) for one in ASKED) + 2
    for layout, positions, expected in (
        ("causal", 96, 96 - longest + 1),
        ("causal", 900, 256),
        ("prefix", 900, 266),
        ("encoder-decoder", 96, 96),
    ):
        assert (
            token_limit(network(layout, positions=positions), ASKED, decoding="paper") == expected
        )
    answer_questions(network("causal"), ASKED, decoding="paper")  # and there is room for them
    for kind, expected in (("causal", 256), ("seq2seq", 266)):
        learner = Untrainable()
        learner.kind = kind
        assert token_limit(learner, ASKED, decoding="paper") == expected


def test_earlier_files_are_greedy_and_other_words_are_refused(tmp_path):
    path = write_outputs(tmp_path / "a.jsonl", example_outputs(FACTS, right))
    text = path.read_text()
    assert '"decoding": "greedy"' in text
    path.write_text(text.replace(', "decoding": "greedy"', ""))
    assert read_outputs(path) == example_outputs(FACTS, right)
    path.write_text(text.replace('"greedy"', '"beam"', 1))
    with pytest.raises(UserError, match="line 1: decoding is 'beam': expected 'greedy' or 'paper'"):
        read_outputs(path)


def test_the_scores_say_how_answers_were_made_and_an_arm_has_one_way(tmp_path):
    greedy = write_outputs(tmp_path / "a.jsonl", example_outputs(FACTS, right))
    drawn = tmp_path / "b.jsonl"
    drawn.write_text(greedy.read_text().replace('"greedy"', '"paper"'))
    for path, decoding in ((greedy, "greedy"), (drawn, "paper")):
        report = score([path], FACTS)
        assert report.header.measurement["decoding"] == decoding
    score([drawn], FACTS, against=[greedy])
    with pytest.raises(
        UserError, match=r"b\.jsonl: answers by --paper-decoding beside greedy ones"
    ):
        score([greedy, drawn], FACTS)
