import dataclasses
import math

import numpy as np
import pytest

from tightframe.errors import UserError
from tightframe.knowledge.injection_runs import InjectOptions
from tightframe.lm.options import Schedule, TrainOptions, warmup_steps


def schedule(n_rows=100, batch=10, epochs=2.0, **values):
    """By default 20 steps, 10 an epoch, with a peak rate of 1."""
    values = {"learning_rate": 1.0, "warmup": 0, **values}
    settings = TrainOptions(tokens="tokens/x", out="runs/x", batch=batch, epochs=epochs, **values)
    return Schedule(settings, n_rows)


def test_linear_decay_without_warmup_is_transformers():
    # transformers: rate * (steps - step) / steps, so 1 at first and 1/20 for the last update.
    plan = schedule(schedule="linear")
    assert plan.steps == 20
    assert [plan.learning_rate(step) for step in (0, 10, 19)] == pytest.approx([1, 0.5, 0.05])


def test_cosine_decay_is_halfway_in_the_middle_and_ends_at_the_final_rate():
    plan = schedule(schedule="cosine", final_rate=0.1)
    assert plan.learning_rate(0) == 1
    assert plan.learning_rate(10) == pytest.approx(0.1 + 0.9 / 2)
    assert plan.learning_rate(5) == pytest.approx(0.1 + 0.9 * (0.5 + 0.5 * math.cos(math.pi / 4)))
    assert plan.learning_rate(20) == pytest.approx(0.1)


@pytest.mark.parametrize("warmup", [4, 0.2])
def test_warmup_climbs_in_equal_parts_to_the_peak(warmup):
    # Four steps of the twenty, then the peak: 1/5, 2/5, 3/5, 4/5, 1.
    plan = schedule(schedule="constant", warmup=warmup)
    rates = [plan.learning_rate(step) for step in range(6)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])


@pytest.mark.parametrize(("steps", "expected"), [(9, 0), (25, 2), (1999, 199), (2000, 200)])
def test_the_warmup_of_a_short_injection_is_a_tenth_of_it(steps, expected):
    settings = InjectOptions(data="x", out="y", arm="clm_sp")
    assert warmup_steps(settings, steps) == expected
    assert warmup_steps(dataclasses.replace(settings, warmup=200), steps) == 200


def test_the_published_corpus_takes_the_published_steps():
    # 229,367 rows: 14,336 / 28,671 / 57,342 steps an epoch for batches of 16 / 8 / 4.
    steps = [schedule(229_367, batch, epochs=1).steps for batch in (16, 8, 4)]
    assert steps == [14_336, 28_671, 57_342]


def test_an_epoch_takes_each_row_once_and_its_last_batch_is_smaller():
    plan = schedule(n_rows=25)
    batches = list(plan.batches(0))
    assert [len(rows) for rows in batches] == [10, 10, 5, 10, 10, 5]
    first, second = np.concatenate(batches[:3]), np.concatenate(batches[3:])
    assert sorted(first) == sorted(second) == list(range(25))
    assert first.tolist() != second.tolist()


@pytest.mark.parametrize("step", range(7))
def test_batches_from_a_step_are_the_rest_of_all_batches(step):
    plan = schedule(n_rows=25)
    rest = list(plan.batches(0))[step:]
    found = list(plan.batches(step))
    assert [rows.tolist() for rows in found] == [rows.tolist() for rows in rest]


def test_the_order_depends_on_its_seed_alone():
    orders = [
        schedule(seed=seed, order_seed=order_seed, batch=batch).order(0).tolist()
        for seed, order_seed, batch in [(0, 0, 10), (1, 0, 5), (0, 1, 10)]
    ]
    assert orders[0] == orders[1] != orders[2]


def test_checkpoints_are_epochs_and_steps_and_the_end():
    plan = schedule(checkpoints=[0, 0.5, 2], checkpoint_steps=[7, 5])
    assert sorted(plan.checkpoints) == [0, 5, 7, 20]


def test_a_part_of_an_epoch_is_at_least_a_step():
    plan = schedule(epochs=0.01, checkpoints=[0.001])
    assert plan.steps == 1
    assert plan.checkpoints == {1}


def test_a_checkpoint_after_the_end_is_refused():
    with pytest.raises(
        UserError, match=r"checkpoint_steps holds 21, but the run has 20 steps \(2 epochs of 10\)"
    ):
        schedule(checkpoint_steps=[21])
