"""Objectives that hide words: exact against enumeration, by naive twins, resumed bit for bit."""

import itertools

import numpy as np
import pytest
import torch

from painted_facts import painted_network
from tightframe.knowledge.injection_runs import InjectOptions
from tightframe.knowledge.layouts import MaskingOptions, encoded, hidden_tokens, laid_out
from tightframe.knowledge.qa_models import ARMS, Prompt, TrainingExample
from tightframe.lm.interface import IGNORE, Batch, collate

TOKENS = [40, 41, 60, 41]  # four tokens, one of them twice
TEXT = "Ada Quill painted the old bridge"


@pytest.fixture(scope="module")
def network():
    return painted_network("bilm_diffusion", n_slots=6)


def revealed(network, tokens, hidden):
    """Log-probabilities of all tokens where some are hidden, by definition: one row, no padding."""
    coder = network.tokenizer
    row = [coder.mask if i in hidden else token for i, token in enumerate(tokens)]
    inputs = torch.tensor([[coder.bos, *row, coder.eos]])
    length = torch.tensor([inputs.shape[1]])
    batch = Batch(inputs, torch.full_like(inputs, IGNORE), length, length)
    with torch.no_grad():
        logits = network.model.head(network.model.embed(batch)[0]).double()
    return logits.log_softmax(-1)[1 : 1 + len(tokens)]


def ends(network):
    coder = network.tokenizer
    return {"mask": coder.mask, "begin": coder.bos, "end": coder.eos}


def prompt(network, before=(), after=()):
    coder = network.tokenizer
    return [coder.bos, *before, coder.mask, *after, coder.eos]


def test_the_bound_is_the_mean_over_all_orders(network):
    (found,) = network.diffusion.bounds([prompt(network)], [TOKENS])
    by_order = [
        sum(
            float(revealed(network, TOKENS, order[i:])[place, TOKENS[place]])
            for i, place in enumerate(order)
        )
        for order in itertools.permutations(range(4))
    ]
    assert len(by_order) == 24
    assert found == pytest.approx(np.mean(by_order), abs=1e-5)


def test_the_bound_is_the_expected_loss_of_training(network):
    # All masks, weighted by their probability at t, integrated over t: a polynomial of degree 3,
    # which Gauss and Legendre's rule of 4 points integrates exactly. The loss is a mean of 4.
    places, weights = np.polynomial.legendre.leggauss(4)
    expected = 0.0
    for t, share in zip((places + 1) / 2, weights / 2, strict=True):
        for hidden in itertools.product([True, False], repeat=4):
            chance = t ** sum(hidden) * (1 - t) ** (4 - sum(hidden))
            example = hidden_tokens(TOKENS, hidden, 1 / t, **ends(network))
            with torch.no_grad():
                loss = network.loss(collate([example], pad=network.pad))
            expected += share * chance * 4 * float(loss)
    (found,) = network.diffusion.bounds([prompt(network)], [TOKENS])
    assert -found == pytest.approx(expected, rel=1e-6)


def test_one_hidden_span_in_one_pass_is_the_span_objective(network):
    lesson = TrainingExample("a", "sp", "Ada [MASK] the old bridge", "Quill painted")
    span = encoded(lesson, network.format)
    coder = network.tokenizer
    before, inside, after = map(coder.words, ("Ada", "Quill painted", "the old bridge"))
    hidden = [False] * len(before) + [True] * len(inside) + [False] * len(after)
    whole = hidden_tokens([*before, *inside, *after], hidden, 1.0, **ends(network))
    assert span.inputs == whole.inputs
    span_loss, whole_loss = (
        network.loss(collate([one], pad=network.pad)).item() for one in (span, whole)
    )
    assert whole_loss * len(hidden) == pytest.approx(span_loss * len(inside), rel=1e-6)
    network.steps = 1
    try:
        (score,) = network.diffusion.bounds([prompt(network, before, after)], [inside])
    finally:
        network.steps = 0
    assert -score == pytest.approx(span_loss * len(inside), rel=1e-6)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_answers_are_filled_as_by_hand(network, steps):
    # The length of the largest mean log-probability, then the surest tokens first.
    before, after = [50, 51], [52]
    best = max(range(1, 6), key=lambda n: _sure(network, before, n, after))
    row = [*before, *[0] * best, *after]
    hidden = list(range(2, 2 + best))
    for left in range(min(steps or best, best), 0, -1):
        values, tokens = revealed(network, row, hidden).max(1)
        surest = sorted(hidden, key=lambda i: -values[i])[: -(-len(hidden) // left)]
        for place in surest:
            row[place] = int(tokens[place])
        hidden = [place for place in hidden if place not in surest]
    network.steps = steps
    try:
        asked = [prompt(network, before, after), prompt(network, [60])]
        assert network.diffusion.fill(asked, 5)[0] == row[2 : 2 + best]
    finally:
        network.steps = 0


def _sure(network, before, n, after):
    row, hidden = [*before, *[0] * n, *after], range(len(before), len(before) + n)
    return float(revealed(network, row, hidden).max(1).values[list(hidden)].mean())


def test_a_restored_sentence_follows_its_masked_copy():
    network = painted_network("clm_masked")
    coder = network.tokenizer
    words = [coder.words(word) for word in TEXT.split()]
    sentence = [token for word in words for token in word]
    for draw in range(20):
        all_, masked = (
            encoded(
                TrainingExample("a", "restore", "", TEXT, draw),
                network.format._replace(masking=MaskingOptions(masked_only=masked_only)),
            )
            for masked_only in (False, True)
        )
        first = all_.inputs.index(coder.sep)
        read = all_.inputs[1:first]
        assert all_.targets == (*[IGNORE] * first, *sentence, coder.eos)
        assert masked.inputs == all_.inputs
        learnt = [token for token in masked.targets[first:-1] if token != IGNORE]
        # What is learnt and what is read are the sentence together, and a mask stands for a run.
        assert sorted(learnt + [t for t in read if t != coder.mask]) == sorted(sentence)
        assert coder.mask in read
        assert not any(a == b == coder.mask for a, b in itertools.pairwise(read))


def test_noise_hides_inputs_and_no_targets():
    network = painted_network("clm_noise")
    network.masking = MaskingOptions(noise=0.5)
    clean = laid_out([network.tokenizer.bos], network.tokenizer.words(TEXT), network.format)
    shares = []
    for draw in range(200):
        noisy = encoded(TrainingExample("a", "noise", "", TEXT, draw), network.format)
        assert noisy.targets == clean.targets
        changed = [a != b for a, b in zip(noisy.inputs, clean.inputs, strict=True)]
        assert not changed[0]
        hidden = {a for a, b in zip(noisy.inputs, changed, strict=True) if b}
        assert hidden <= {network.tokenizer.mask}
        shares.append(np.mean(changed[1:]))
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)


def test_an_answer_ends_where_the_rest_of_its_sentence_begins():
    # A network that copies would write "X the old bridge" after "Ada": forced here by its logits.
    network = painted_network("clm_masked")
    coder = network.tokenizer
    written = [*coder.words("Boro"), *coder.words("the old bridge"), coder.eos]
    head, said = network.model.head, iter(written)

    def forced(embeddings):
        logits = torch.full((len(embeddings), coder.vocab_size), -10.0)
        logits[:, next(said)] = 10.0
        return logits

    network.model.head = forced
    try:
        (answer,) = network.answer([Prompt("cloze", "Ada [MASK] the old bridge")])
    finally:
        network.model.head = head
    assert (answer.text, answer.finish) == ("Boro", "end")


def test_all_conditions_but_the_pair_have_one_number_of_parameters():
    sizes = {
        arm.name: painted_network(arm.name).model.n_parameters
        for arm in ARMS
        if arm.layout != "encoder-decoder"
    }
    assert len(set(sizes.values())) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"arm": "bilm_diffusion", "objective": "ntp"}, "bilm_diffusion can't learn objective ntp"),
        ({"arm": "clm_sp", "objective": "diffusion"}, "clm_sp can't learn objective diffusion"),
        ({"arm": "bilm_ed", "objective": "restore"}, "bilm_ed can't learn objective restore"),
    ],
)
def test_an_objective_that_a_layout_cannot_learn_is_refused(tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        InjectOptions(data=tmp_path, out=tmp_path / "run", **values)
