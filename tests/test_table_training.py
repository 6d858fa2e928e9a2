import numpy as np
import pytest
import scipy.sparse as sp
import torch

from studies.small_sets.training import TransformerOnTable, train_on_table
from tightframe.ntp import ContextTable
from tightframe.ntp.soft_labels import excess

WIDTH, DEPTH, HEADS = 16, 1, 2


def _table(counts=((1, 2, 0, 0), (0, 1, 1, 0), (0, 0, 0, 3)), contexts=((7, 1), (2, 7), (3, 3))):
    # Tokens that may follow have the ids 1, 4, 5 and 6 of a vocabulary of eight.
    return ContextTable(
        np.array(contexts, dtype=np.int32),
        sp.csr_array(np.array(counts)),
        np.array([1, 4, 5, 6]),
    )


def _transformer(table, seed=0):
    return TransformerOnTable(table, width=WIDTH, depth=DEPTH, heads=HEADS, seed=seed)


def _train(table, *, steps=3, checkpoints=(), rate=1e-2, seed=0, decay=0.0, decays=None):
    model = _transformer(table, seed)
    kept = train_on_table(
        model,
        table,
        steps=steps,
        learning_rate=rate,
        decays=decays,
        weight_decay=decay,
        checkpoints=checkpoints,
    )
    return model, kept


def test_training_reaches_the_floor_of_the_table():
    # Contexts with two next words have a floor of positive entropy; the excess over it vanishes.
    table = _table()
    _, kept = _train(table, steps=300, checkpoints=[0])
    first, last = (excess(checkpoint.logits, table.soft_labels) for checkpoint in kept)
    assert first == pytest.approx(np.log(4) - table.empirical_entropy, abs=0.05)
    assert last < 1e-3


def test_one_step_of_adam_moves_every_used_weight_by_the_rate():
    # Adam's first step is rate * sign(gradient), whatever the scale of the loss.
    table = _table()
    before = _transformer(table).transformer
    model, _ = _train(table, steps=1, rate=1e-3)
    moved = (model.transformer.classifier - before.classifier).detach().abs()[table.tokens]
    np.testing.assert_allclose(moved.numpy(), 1e-3, rtol=1e-2)


def test_rows_of_other_tokens_only_decay():
    table = _table()
    before = _transformer(table).transformer
    model, _ = _train(table, steps=2, rate=0.1, decay=0.5)
    others = np.setdiff1d(np.arange(8), table.tokens)
    expected = before.classifier.detach()[others] * (1 - 0.1 * 0.5) ** 2
    np.testing.assert_allclose(model.transformer.classifier.detach()[others], expected, rtol=1e-6)


def test_a_checkpoint_is_what_the_model_gives_for_the_tables_tokens_and_contexts():
    table = _table()
    model, kept = _train(table, steps=4, checkpoints=[2])
    assert [checkpoint.step for checkpoint in kept] == [2, 4]
    with torch.no_grad():
        embeddings = model.transformer.embed(torch.from_numpy(table.contexts).long())[:, -1]
    np.testing.assert_array_equal(kept[-1].embeddings, embeddings)
    np.testing.assert_array_equal(
        kept[-1].classifier, model.transformer.classifier.detach()[table.tokens]
    )
    assert np.abs(kept[0].classifier - kept[1].classifier).max() > 1e-4  # not overwritten


def test_more_steps_go_on_from_the_same_course():
    short, long = (_train(_table(), steps=steps, checkpoints=[2])[1] for steps in (2, 5))
    np.testing.assert_array_equal(short[0].embeddings, long[0].embeddings)


def test_the_seed_decides_the_bits():
    one, same, other = (_train(_table(), seed=seed)[1][-1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.embeddings, same.embeddings)
    assert not np.allclose(one.embeddings, other.embeddings)


def test_contexts_of_different_lengths_are_refused():
    table = _table(contexts=((7, 1), (-1, 7), (3, 3)))
    with pytest.raises(ValueError, match=r"table: context 1 is shorter than 2 tokens"):
        _transformer(table)


def test_a_checkpoint_after_the_end_is_refused():
    with pytest.raises(ValueError, match=r"checkpoints: 9 is not in \[0, 3\]"):
        _train(_table(), steps=3, checkpoints=[9])


def test_the_rate_falls_after_the_steps_that_are_named():
    # A factor of 0 after two steps: nothing moves any more.
    _, kept = _train(_table(), steps=4, checkpoints=[1, 2], decays={2: 0.0})
    np.testing.assert_array_equal(kept[1].classifier, kept[2].classifier)
    assert (kept[0].classifier != kept[1].classifier).any()
