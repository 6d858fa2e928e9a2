import dataclasses
import json
import math

import pytest
import torch
import torch.nn.functional as F

from reference.training import naive_train
from tightframe.corpus.shards import TokenShards
from tightframe.errors import UserError
from tightframe.lm.checkpoints import load_checkpoint
from tightframe.lm.loss import evaluate
from tightframe.lm.options import Schedule, TrainOptions, TransformerConfig
from tightframe.lm.training import train
from tightframe.lm.transformer import Transformer
from tightframe.settings import read_toml, resolve
from tiny_runs import tiny_settings
from tiny_tokens import write_tokens


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return write_tokens(tmp_path_factory.mktemp("tokens") / "tiny")


@pytest.fixture
def tiny(tokens, tmp_path):
    return tiny_settings(tokens, tmp_path / "run")


def weights(run, step=None):
    step = run.steps[-1] if step is None else step
    return dict(load_checkpoint(run.checkpoint(step)).named_parameters())


def equal(ours, theirs):
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def without_timings(records):
    timings = ("seconds", "cpu_seconds", "tokens_per_second")
    return [{k: v for k, v in record.items() if k not in timings} for record in records]


def test_training_is_the_plain_loop(tiny, tokens):
    settings = dataclasses.replace(tiny, clip=0.5, log_every=1, checkpoints=(0.0,))
    run = train(settings)
    records = [record for record in run.log if record["kind"] == "train"]
    model = load_checkpoint(run.checkpoint(0)).double()
    split = TokenShards.open(tokens).split("train")
    schedule = Schedule(settings, split.n_blocks)
    losses = naive_train(
        model, schedule.batches(0), split, settings, [schedule.learning_rate(s) for s in range(9)]
    )
    assert [record["loss"] for record in records] == pytest.approx(losses, rel=1e-5)
    for name, value in weights(run).items():
        expected = dict(model.named_parameters())[name]
        torch.testing.assert_close(value.double(), expected, rtol=1e-3, atol=1e-5)


def test_one_step_without_clipping_moves_each_weight_by_the_rate(tiny):
    # After one update AdamW's unbiased moments are g and g**2, so a step is rate * sign(g), besides
    # the decay; without decay every weight with a gradient moves by exactly the learning rate.
    settings = dataclasses.replace(
        tiny, batch=22, epochs=1, checkpoints=(0.0,), weight_decay=0.0, eps=1e-30, warmup=0.0
    )
    run = train(settings)
    before, after = weights(run, 0), weights(run, 1)
    moved = (after["norm.weight"] - before["norm.weight"]).abs()
    torch.testing.assert_close(
        moved, torch.full_like(moved, settings.learning_rate), rtol=1e-4, atol=0
    )


def test_decay_is_on_matrices_only(tiny):
    # A learning rate times a decay of 1 sets every decayed weight to its gradient step alone,
    # which is at most the rate; norms start at 1 and stay within a rate of it.
    settings = dataclasses.replace(
        tiny, batch=22, epochs=1, learning_rate=0.01, weight_decay=100.0, warmup=0.0
    )
    found = weights(train(settings))
    assert found["token_embedding"].abs().max() < 0.011
    assert found["position_embedding"].abs().max() < 0.011
    assert (found["norm.weight"] - 1).abs().max() < 0.011


def test_the_log_holds_a_record_an_interval_and_one_a_checkpoint(tiny):
    run = train(dataclasses.replace(tiny, checkpoints=(0.0, 1.5), checkpoint_steps=(7,)))
    assert [(r["kind"], r["step"]) for r in run.log] == [
        ("checkpoint", 0),
        ("train", 2),
        ("train", 4),
        ("checkpoint", 4),  # epoch 1.5 of 3 steps each is 4.5, rounded to even
        ("train", 6),
        ("checkpoint", 7),
        ("train", 8),
        ("train", 9),
        ("checkpoint", 9),
    ]
    assert run.steps == [0, 4, 7, 9]
    assert run.finished
    assert run.log[-1]["val_perplexity"] == pytest.approx(math.exp(run.log[-1]["val_loss"]))
    assert run.log[-1]["epoch"] == 3
    split = TokenShards.open(tiny.tokens).split("train")
    assert run.log[-1]["tokens"] == 3 * split.n_labels
    assert not run.resume_folder.exists()


def test_a_record_averages_the_updates_since_the_last_one(tiny, tmp_path):
    each = train(dataclasses.replace(tiny, log_every=1, out=tmp_path / "each"))
    fives = train(dataclasses.replace(tiny, log_every=5, out=tmp_path / "fives"))
    losses = [r["loss"] for r in each.log if r["kind"] == "train"]
    found = [r["loss"] for r in fives.log if r["kind"] == "train"]
    assert found == pytest.approx([sum(losses[:5]) / 5, sum(losses[5:]) / 4], rel=1e-12)


def test_a_finished_run_is_left_alone(tiny, capsys):
    before = train(tiny).log
    seen = []
    after = train(tiny, hooks=[lambda *arguments: seen.append(arguments)]).log
    assert before == after  # timings too
    assert seen == []
    assert "is finished already" in capsys.readouterr().err


def test_hooks_get_step_model_and_record(tiny):
    seen = []
    train(tiny, hooks=[lambda step, model, record: seen.append((step, model.name, record["kind"]))])
    assert seen[0] == (2, "run", "train")
    assert seen[-1] == (9, "run", "checkpoint")


def test_the_same_seeds_give_the_same_bits(tiny, tmp_path):
    first = train(tiny)
    second = train(dataclasses.replace(tiny, out=tmp_path / "other"))
    assert equal(weights(first), weights(second))
    assert without_timings(first.log) == without_timings(second.log)


def test_each_seed_changes_its_own_thing(tiny, tmp_path):
    runs = {
        name: train(
            dataclasses.replace(tiny, out=tmp_path / name, checkpoints=(0.0,), **{name: 5})
            if name != "neither"
            else dataclasses.replace(tiny, out=tmp_path / name, checkpoints=(0.0,))
        )
        for name in ("neither", "seed", "order_seed")
    }
    start = weights(runs["neither"], 0)
    assert equal(start, weights(runs["order_seed"], 0))
    assert not equal(start, weights(runs["seed"], 0))
    assert not equal(weights(runs["neither"]), weights(runs["order_seed"]))


def test_a_batch_without_labels_is_no_update(tiny, tmp_path):
    # The first row of each epoch is alone in its batch; where it has one token, nothing happens.
    tokens = write_tokens(tmp_path / "tokens", train=3, length=1)
    run = train(dataclasses.replace(tiny, tokens=tokens, batch=1, log_every=1, checkpoints=(0.0,)))
    assert [record["kind"] for record in run.log] == ["checkpoint", "checkpoint"]
    assert equal(weights(run, 0), weights(run))


def test_bf16_follows_fp32(tiny, tmp_path):
    # bfloat16 keeps 8 bits: losses agree to about 2**-8 while both learn.
    fp32 = train(tiny).log[-1]["val_loss"]
    bf16 = train(dataclasses.replace(tiny, precision="bf16", out=tmp_path / "bf16")).log[-1]
    assert bf16["val_loss"] == pytest.approx(fp32, rel=0.01)
    assert bf16["val_loss"] != fp32


def test_training_learns_what_it_is_shown(tiny):
    # A row holds two tokens in random order, so the first label costs about ln 2 and no later one
    # less than that, but for rows learnt by heart; at the start each costs ln 23 = 3.1.
    run = train(dataclasses.replace(tiny, epochs=40, learning_rate=0.01, width=32))
    losses = [record["loss"] for record in run.log if record["kind"] == "train"]
    assert losses[0] == pytest.approx(math.log(23), rel=0.05)
    assert losses[-1] < 1


def test_settings_are_written_before_the_first_step_and_read_back(tiny):
    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    with pytest.raises(Stop):
        train(dataclasses.replace(tiny, precision="auto", device="auto"), hooks=[stop])
    path = tiny.out / "config.toml"
    read = resolve(TrainOptions, read_toml(path), source=str(path))
    assert read == dataclasses.replace(tiny, precision=read.precision)
    assert read.precision in ("fp32", "bf16")
    assert json.loads((tiny.out / "log.jsonl").read_text().splitlines()[0])["steps"] == 9


def test_a_loss_that_is_no_number_ends_the_run(tiny):
    with pytest.raises(UserError, match=r"is nan at step .* learning_rate below 1e\+30"):
        train(dataclasses.replace(tiny, learning_rate=1e30, clip=0.0))


def test_threads_are_restored(tiny):
    before = torch.get_num_threads()
    train(dataclasses.replace(tiny, epochs=0.3, threads=2))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("batch_tokens", [1, 20, 10**6])
def test_evaluation_is_the_mean_over_labelled_positions(tokens, batch_tokens):
    split = TokenShards.open(tokens).split("val")
    model = Transformer(TransformerConfig(23, width=8, depth=2, heads=2, positions=9), seed=1)
    model = model.double()
    losses, hits = [], []
    for row, length in zip(*split.rows(range(split.n_blocks)), strict=True):
        logits = model.embed(row[None, : length - 1])[0] @ model.classifier.T
        losses.append(F.cross_entropy(logits, row[1:length], reduction="none"))
        hits.append(logits.argmax(1) == row[1:length])
    found = evaluate(model, split, batch_tokens=batch_tokens)
    assert found.n == split.n_labels == len(torch.cat(losses))
    assert found.loss == pytest.approx(torch.cat(losses).mean().item(), rel=1e-6)
    assert found.accuracy == pytest.approx(torch.cat(hits).double().mean().item(), rel=1e-12)
    assert found.perplexity == pytest.approx(math.exp(found.loss))


def test_a_model_that_does_not_fit_into_memory_is_refused_before_anything_is_made(tiny):
    settings = dataclasses.replace(tiny, width=3_000_000)
    with pytest.raises(UserError, match=r"width 3,000,000 .* takes about .* GB of memory"):
        train(settings)
    assert not settings.out.exists()
