import pytest
import torch

from reference import decoding as reference
from spelling_networks import EOS, LAYOUTS, Speller, network
from tightframe.errors import UserError
from tightframe.knowledge import layouts
from tightframe.knowledge.qa_models import Prompt

WORDS = ("a", "the bridge of Oak", "Ada Quill painted it", "in 1921, it fell", "x?")
CLOZES = [Prompt("cloze", f"{one}[MASK] {other}") for one in WORDS for other in WORDS[::2]]
OPENINGS = [Prompt("continuation", f"{one} and {other}") for one in WORDS for other in WORDS[::2]]
KINDS = [(layout, "sp", CLOZES) for layout in LAYOUTS] + [("causal", "ntp", OPENINGS)]
CANDIDATES = ("Oak", "a", "Ada Quill", "1921")


class Always:
    """Logits of a model that says one token whatever it is asked."""

    def __init__(self, token):
        self.token = token

    def __call__(self, embeddings):
        logits = torch.zeros(len(embeddings), Speller.vocab_size)
        logits[:, self.token] = 1
        return logits


def ids(net, prompt):
    coder = net.tokenizer
    return coder.opening(prompt.text) if net.objective == "ntp" else coder.prompt(prompt.text)


@pytest.mark.parametrize(("layout", "objective", "prompts"), KINDS)
def test_answers_are_those_of_one_row_at_a_time(layout, objective, prompts):
    net = network(layout, objective)
    expected = [reference.greedy(net, ids(net, prompt), 9) for prompt in prompts]
    found = net.answer(prompts, max_new_tokens=9)
    assert [one.text for one in found] == [net.tokenizer.text(said) for said, _ in expected]
    assert [one.finish == "end" for one in found] == [ended for _, ended in expected]
    assert len({one.text for one in found}) > 3  # they depend on the prompt


@pytest.mark.parametrize(("layout", "objective", "prompts"), KINDS)
def test_what_else_is_asked_and_how_much_is_held_changes_no_answer(
    monkeypatch, layout, objective, prompts
):
    net = network(layout, objective)
    together = net.answer(prompts, max_new_tokens=9)
    assert net.answer(prompts[::-1], max_new_tokens=9) == together[::-1]
    alone = [net.answer([prompt], max_new_tokens=9)[0] for prompt in prompts]
    assert alone == together
    monkeypatch.setattr(layouts, "TOKENS", 100)
    assert net.answer(prompts, max_new_tokens=9) == together


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_answer_ends_at_eos_and_says_so(monkeypatch, layout):
    net = network(layout)
    for token, expected in ((EOS, ("", "end")), (Speller().letters("b")[0], ("bbbbb", "length"))):
        monkeypatch.setattr(net.model, "head", Always(token))
        found = net.answer(CLOZES[:2], max_new_tokens=5)
        assert [(one.text, one.finish) for one in found] == [expected] * 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_log_probabilities_are_those_of_one_row_at_a_time(monkeypatch, layout):
    net = network(layout)
    monkeypatch.setattr(layouts, "TOKENS", 150)  # several batches
    found = net.log_probabilities(CLOZES, [CANDIDATES] * len(CLOZES))
    for prompt, own in zip(CLOZES, found, strict=True):
        expected = [
            reference.log_probability(net, ids(net, prompt), net.tokenizer.target(text))
            for text in CANDIDATES
        ]
        assert own == pytest.approx(expected, abs=1e-4)  # float32 sums of up to ten tokens


def test_a_model_that_continues_sentences_is_paid_for_what_the_prompt_adds():
    net = network("causal", "ntp")
    (found,) = net.log_probabilities([Prompt("cloze", "[MASK] fell.")], [CANDIDATES])

    def sentence(text):
        return reference.log_probability(net, [net.tokenizer.bos], net.tokenizer.target(text)[:-1])

    expected = [sentence(f"{text} fell.") - sentence(text) for text in CANDIDATES]
    assert found == pytest.approx(expected, abs=1e-4)


def test_probabilities_of_all_answers_of_one_token_and_no_other_sum_to_less_than_one():
    # P("x" EOS) summed over all letters x, and P(EOS), are of different answers.
    net = network("prefix")
    letters = [net.tokenizer.text([token]) for token in range(6, Speller.vocab_size)]
    (found,) = net.log_probabilities(CLOZES[:1], [["", *letters]])
    total = sum(torch.tensor(found).double().exp())
    assert 0 < total < 1


def test_candidates_of_different_number_stay_with_their_prompts():
    net = network("causal")
    together = net.log_probabilities(CLOZES[:3], [["a", "b"], [], ["c"]])
    assert [len(own) for own in together] == [2, 0, 1]
    assert together[2] == pytest.approx(net.log_probabilities(CLOZES[2:3], [["c"]])[0], abs=1e-5)


@pytest.mark.parametrize(("layout", "objective", "prompts"), KINDS)
def test_the_embedding_is_what_the_first_token_is_read_off(layout, objective, prompts):
    net = network(layout, objective)
    embeddings = net.answer_embeddings(prompts)
    assert embeddings.shape == (len(prompts), 16)
    for prompt, embedding in zip(prompts, embeddings, strict=True):
        expected = reference.logits(net, ids(net, prompt), [])[0]
        torch.testing.assert_close(net.model.head(embedding), expected, atol=1e-4, rtol=1e-4)


def test_a_model_that_continues_reads_a_cloze_up_to_its_mask():
    net = network("causal", "ntp")
    found = net.answer_embeddings([Prompt("cloze", "the bridge of [MASK] fell")])
    assert torch.equal(found, net.answer_embeddings([Prompt("continuation", "the bridge of")]))


def test_a_question_is_asked_with_a_mask_after_it():
    net = network("prefix")
    found = net.answer_embeddings([Prompt("question", "Who fell?")])
    assert torch.equal(found, net.answer_embeddings([Prompt("cloze", "Who fell? [MASK]")]))


# What the longest row holds: BOS, 20 letters, MASK, SEP are 23 tokens; the last of 8 is not read.
@pytest.mark.parametrize(
    ("layout", "fits"), [("causal", 30), ("prefix", 30), ("slots", 35), ("encoder-decoder", 23)]
)
def test_a_prompt_that_leaves_no_room_is_named_and_never_cut(layout, fits):
    prompt = Prompt("cloze", "[MASK]" + "b" * 20)
    network(layout, positions=fits).answer([prompt], max_new_tokens=8)
    with pytest.raises(UserError, match=r"speller: '\[MASK\]bbb.* has 23 tokens and needs"):
        network(layout, positions=fits - 1).answer([prompt], max_new_tokens=8)


def test_no_answer_is_given_where_one_prompt_is_too_long(monkeypatch):
    net = network("causal")
    monkeypatch.setattr(net.model, "embed", pytest.fail)
    with pytest.raises(UserError, match="the model has 96"):
        net.answer([*CLOZES, Prompt("cloze", "[MASK]" + "b" * 90)], max_new_tokens=9)


def test_a_candidate_longer_than_the_slots_is_refused():
    message = r"candidate 'aaaaaaaaaaaa' has 13 tokens with its end, more than the model's 12 slots"
    with pytest.raises(UserError, match=message):
        network("slots").log_probabilities(CLOZES[:1], [["a" * 12]])
    (found,) = network("slots").log_probabilities(CLOZES[:1], [["a" * 11]])
    assert found[0] < 0


@pytest.mark.parametrize(
    ("objective", "prompt", "message"),
    [
        ("ntp", CLOZES[0], "fills no masks.*ask for the words after a left context"),
        ("sp", OPENINGS[0], "continues no sentences.*ask clozes or questions"),
    ],
)
def test_what_an_objective_cannot_be_asked_is_refused(objective, prompt, message):
    with pytest.raises(UserError, match=message):
        network("causal", objective).answer([prompt], max_new_tokens=9)


def test_at_least_one_token_is_asked_for():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        network("causal").answer(CLOZES, max_new_tokens=0)
    with pytest.raises(ValueError, match="expected prompts, got none"):
        network("causal").answer_embeddings([])


def test_nothing_asked_is_nothing_said():
    assert network("causal").answer([], max_new_tokens=9) == []
    assert network("causal").log_probabilities([], []) == []
