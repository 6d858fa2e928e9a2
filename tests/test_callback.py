"""Measuring while training: what is measured, when, and that the training is the same without."""

import copy
import dataclasses
import math

import peft
import pytest
import torch
import transformers

from tightframe import cli
from tightframe.corpus.shards import TokenShards
from tightframe.errors import UserError
from tightframe.geometry import stream
from tightframe.geometry.callback import CollapseCallback
from tightframe.geometry.decisions import class_decisions
from tightframe.geometry.measures import DEFAULT, choose, metrics
from tightframe.geometry.probe import OVERHEAD, Probe
from tightframe.lm.checkpoints import load_checkpoint
from tightframe.lm.huggingface import HuggingFaceModel
from tightframe.lm.interface import next_token
from tightframe.lm.options import TrainOptions, TransformerConfig
from tightframe.lm.training import train
from tightframe.lm.transformer import Transformer
from tightframe.results import gather, read_rows
from tiny_runs import tiny_settings
from tiny_tokens import write_tokens

BLOCK, ROWS = 9, 22
MEASURES = ["nc1_cdnv_rom_db", "nc3_cos_mean"]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return write_tokens(tmp_path_factory.mktemp("tokens") / "tiny", train=ROWS)


@pytest.fixture
def tiny(tokens, tmp_path):
    return tiny_settings(tokens, tmp_path / "run", save_every=2)


def callback(settings, **options):
    options = {"every": 3, "probe_tokens": 60, "measures": MEASURES, **options}
    return CollapseCallback(settings.tokens, out=settings.out, **options)


def model_of(tokens, seed=0):
    config = TransformerConfig(
        vocab_size=TokenShards.open(tokens).vocab_size, width=8, depth=2, heads=2, positions=BLOCK
    )
    return Transformer(config, seed=seed)


def files(folder):
    return sorted(
        (folder / "results").glob("probe-*.jsonl"), key=lambda p: int(p.name.split("-")[2])
    )


def table(folder):
    """The values by step and metric."""
    rows = [row for file in files(folder) for row in read_rows(file)[1]]
    return {(row.step, row.metric): row.value for row in rows}


def weights(run, step):
    return dict(load_checkpoint(run.checkpoint(step)).named_parameters())


def test_the_rows_of_a_step_are_those_of_its_checkpoint_over_the_probe(tiny):
    measuring = callback(tiny)
    settings = dataclasses.replace(tiny, checkpoint_steps=(0, 3))
    run = train(settings, step_hooks=[measuring.step])
    assert [int(file.name.split("-")[2]) for file in files(run.path)] == [0, 3, 6, 9]
    shards = TokenShards.open(tiny.tokens)
    probe = shards.split("train").sample(60, seed=0)
    for step in (0, 3, 9):
        model = load_checkpoint(run.checkpoint(step))
        expected = metrics(stream.class_moments(model, probe), model.classifier, measures=MEASURES)
        header, rows = read_rows(files(run.path)[step // 3])
        assert [row.metric for row in rows] == MEASURES
        for row in rows:
            assert row.value == expected[row.metric].value  # bit for bit
            assert row.n == expected[row.metric].n
            assert (row.run, row.step, row.split, row.layer) == ("run", step, "train", 2)
            assert (row.labels, row.subset) == ("next", "probe")
        assert [row.min_count for row in rows] == [2, 1]  # a debiased variance needs two
        assert header.measurement["window"] == "the weights of this step alone, over the probe"
        assert header.measurement["every"] == 3
        assert header.measurement["probe"]["train"]["positions"] == probe.n_labels
        assert header.settings["learning_rate"] == tiny.learning_rate
        assert header.model["width"] == 8


def test_our_training_is_the_same_bits_with_and_without(tiny, tmp_path):
    plain = train(dataclasses.replace(tiny, out=tmp_path / "plain"))
    measured = train(tiny, step_hooks=[callback(tiny, every=4, measures=["all"]).step])
    ours, theirs = weights(measured, 9), weights(plain, 9)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert [r["loss"] for r in plain.log if r["kind"] == "train"] == [
        r["loss"] for r in measured.log if r["kind"] == "train"
    ]


def test_its_time_is_not_the_training_s(tiny, monkeypatch):
    now = 0.0

    def one_batch(tokens, lengths):
        nonlocal now
        now += 0.125
        return next_token(tokens, lengths)

    def slow(model, step):
        nonlocal now
        now += 1.0

    monkeypatch.setattr("tightframe.lm.training.time.perf_counter", lambda: now)
    monkeypatch.setattr("tightframe.lm.training.next_token", one_batch)
    run = train(tiny, step_hooks=[slow])
    # Records at steps 2, 4, 6, 8 and 9, an eighth of a second each.
    seconds = [record["seconds"] for record in run.log if record["kind"] == "train"]
    assert seconds == [0.25, 0.5, 0.75, 1, 1.125]


def test_a_killed_run_goes_on_without_double_rows(tiny, tmp_path):
    whole = dataclasses.replace(tiny, out=tmp_path / "whole" / "run")
    train(whole, step_hooks=[callback(whole).step])

    class Killed(Exception):
        pass

    def kill(at):
        def hook(model, step):
            if step == at:
                raise Killed

        return hook

    # States to go on from are of steps 2, 4, 6, 8. Steps 3 and 7 are taken twice, and step 1.
    for at in (1, 3, 7):
        with pytest.raises(Killed):
            train(tiny, step_hooks=[callback(tiny).step, kill(at)])
    train(tiny, step_hooks=[callback(tiny).step])
    assert table(tiny.out) == table(whole.out)
    gathered = gather(files(tiny.out))  # refuses two rows with one key
    assert sorted(set(gathered["step"])) == [0, 3, 6, 9]


def test_rows_of_steps_that_are_taken_again_are_forgotten_and_that_is_said(tokens, tmp_path):
    model, other = model_of(tokens), model_of(tokens, seed=1)
    settings = TrainOptions(tokens=tokens, out=tmp_path / "run")
    for step in range(10):
        callback(settings).step(model, step)
    kept = files(settings.out)[1].read_bytes()
    again = callback(settings)
    with pytest.warns(UserWarning, match=r"results: rows of steps 6, 9 are removed, because .* 3 "):
        again.step(model, 3)  # the same weights: the rows stay, and nothing is measured again
    assert files(settings.out)[1].read_bytes() == kept
    assert sorted({step for step, _ in table(settings.out)}) == [0, 3]
    again.step(other, 6)
    values = table(settings.out)
    assert values[6, "nc3_cos_mean"] != values[3, "nc3_cos_mean"]


def test_a_training_that_begins_where_another_began_is_refused(tokens, tmp_path):
    folder = tmp_path / "run"

    def found():
        return CollapseCallback(tokens, out=folder, every=2, probe_tokens=60, measures=MEASURES)

    run_trainer(tokens, tmp_path, found())
    kept = {file: file.read_bytes() for file in files(folder)}
    with pytest.raises(UserError, match=r"has rows of steps 2, 4, 6 of an earlier .* `out`"):
        run_trainer(tokens, tmp_path, found(), max_steps=2, learning_rate=1e-4)
    assert {file: file.read_bytes() for file in files(folder)} == kept


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks transformers by an old name
@pytest.mark.parametrize("target", ["c_attn", "lm_head"])
def test_the_digest_of_weights_changes_while_adapters_train(tokens, tmp_path, target):
    config = peft.LoraConfig(r=2, target_modules=[target], fan_in_fan_out=target == "c_attn")
    model = peft.get_peft_model(gpt2(tokens, tie_word_embeddings=False), config)
    found = CollapseCallback(tokens, out=tmp_path / "run", every=1, probe_tokens=60)
    found.step(model, 0)
    for name, values in model.named_parameters():
        values.data += 0.1 if "lora_B" in name else 0
    found.step(model, 1)
    first, second = (read_rows(file)[0].measurement["weights"] for file in files(tmp_path / "run"))
    assert first != second


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_adapters_of_the_output_layer_are_part_of_the_classifier(tokens, tmp_path):
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, lora_alpha=8, target_modules=["lm_head"], init_lora_weights=False)
    model = peft.get_peft_model(gpt2(tokens, tie_word_embeddings=False), config).eval()
    for name, each in (("adapted", model), ("merged", copy.deepcopy(model).merge_and_unload())):
        callback_of = CollapseCallback(tokens, out=tmp_path / name, every=1, probe_tokens=60)
        callback_of.step(each, 0)
    adapted, merged = table(tmp_path / "adapted"), table(tmp_path / "merged")
    assert adapted == pytest.approx(merged, rel=1e-5)
    layer = model.get_output_embeddings()
    delta = 8 / 2 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    matrix = HuggingFaceModel(model, name="x").classifier
    torch.testing.assert_close(matrix, layer.base_layer.weight + delta)
    assert not torch.allclose(matrix, layer.base_layer.weight, atol=0.01)


def test_weights_that_become_infinite_end_the_training_in_one_line(tokens, tmp_path):
    model = gpt2(tokens)
    found = CollapseCallback(tokens, out=tmp_path / "run", every=1, probe_tokens=60)
    found.step(model, 0)
    model.transformer.h[1].mlp.c_proj.bias.data[3] = torch.inf
    with pytest.raises(
        UserError,
        match=r"^model run: its logits are not finite, nor is its tensor "
        r"transformer\.h\.1\.mlp\.c_proj\.bias; did training diverge",
    ):
        found.step(model, 1)


def test_the_rows_of_another_training_are_not_mixed_in(tokens, tmp_path):
    settings = TrainOptions(tokens=tokens, out=tmp_path / "run")
    callback(settings).step(model_of(tokens), 0)
    with pytest.raises(UserError, match=r"probe-train-0-.*other weights at step 0.*another `out`"):
        callback(settings).step(model_of(tokens, seed=1), 0)
    for options in ({"seed": 1}, {"min_count": 2}, {"measures": ["rank_pr"]}):
        with pytest.raises(UserError, match="another probe or other measures"):
            callback(settings, **options).step(model_of(tokens), 0)
    callback(settings, split="val").step(model_of(tokens), 0)
    assert len(files(settings.out)) == 2


def test_measures_of_decisions_draw_validation_positions_too(tokens, tmp_path):
    settings = TrainOptions(tokens=tokens, out=tmp_path / "run")
    model = model_of(tokens)
    callback(settings, measures=["nc3_cos_mean", "nc4_rate"], probe_tokens=20).step(model, 0)
    shards = TokenShards.open(tokens)
    moments = stream.class_moments(model, shards.split("train").sample(20, seed=0))
    decisions = class_decisions(model, shards.split("val").sample(20, seed=0), moments)
    _, rows = read_rows(files(settings.out)[0])
    assert [(row.metric, row.split) for row in rows] == [
        ("nc3_cos_mean", "train"),
        ("nc4_rate", "val"),
        ("val_loss", "val"),
    ]
    expected = metrics(moments, model.classifier, decisions, measures=["nc4_rate"])["nc4_rate"]
    assert rows[1].value == expected.value
    assert rows[2].value == decisions.loss
    with pytest.raises(ValueError, match="decisions compare validation embeddings"):
        callback(settings, measures=["nc4_rate"], split="val")


def test_by_default_no_measure_needs_decisions(tokens, tmp_path):
    found = CollapseCallback(tokens, out=tmp_path).probe
    assert [m.name for m in found.measures] == [
        m.name
        for m in choose(None)
        if not m.name.startswith(("nc4", "ncc")) and not m.name.endswith("_dbg")
    ]
    assert len(found.measures) == len(DEFAULT) - 3 - 4
    assert found.validation is None


def test_the_default_interval_follows_from_counts(tokens):
    shards = TokenShards.open(tokens)
    model = model_of(tokens)
    probe = Probe(shards, "train", 60, measures=choose(MEASURES), min_count=1, seed=0)
    k, dim = probe.n_classes, 8
    # A third of a step over the same tokens, and 1000 + 3 D a pair and 10 D^2 a class, in units of
    # three multiplications a parameter and token.
    statistics = (k * (k - 1) / 2 * (1000 + 3 * dim) + 10 * k * dim**2) / (3 * model.n_parameters)
    work = probe.split.n_tokens / 3 + statistics
    for step_tokens in (1, 72, 10**9):
        assert probe.every(model, step_tokens) == max(1, math.ceil(work / OVERHEAD / step_tokens))
    more = Probe(shards, "train", 150, measures=choose(MEASURES), min_count=1, seed=0)
    assert more.every(model, 1) > probe.every(model, 1)


def test_the_default_interval_knows_the_loop_s_batches(tiny):
    found = callback(tiny, every=None)
    train(tiny, step_hooks=[found.step])
    assert found.every == found.probe.every(model_of(tiny.tokens), 8 * BLOCK)
    assert [step for step, _ in table(tiny.out)][::2] == list(range(0, 10, found.every))


def test_a_plain_loop_must_say_when(tokens, tmp_path):
    with pytest.raises(ValueError, match="give `every`"):
        CollapseCallback(tokens, out=tmp_path).step(model_of(tokens), 0)
    found = CollapseCallback(tokens, out=tmp_path, step_tokens=10**9, measures=["rank_pr"])
    found.step(model_of(tokens), 0)
    assert found.every == 1


def test_an_empty_probe_is_refused(tokens, tmp_path):
    with pytest.raises(UserError, match=r"0 classes occur 99 times or more in the .* positions"):
        CollapseCallback(tokens, out=tmp_path, min_count=99)
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        CollapseCallback(tokens, out=tmp_path, every=0)


def test_the_command_line_measures_while_it_trains(tokens, tmp_path, capsys):
    settings = {"tokens": tokens, "out": tmp_path / "run", "width": 8, "heads": 2, "batch": 11}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    cli.main(["train", *words, "--measure-every", "1", "--measures", "rank_pr"])
    assert [step for step, _ in table(tmp_path / "run")] == [0, 1, 2]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", *words, "--measure-every", "-1"])
    assert stopped.value.code == 2
    capsys.readouterr()


# transformers' Trainer


def gpt2(tokens, **changes):
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=TokenShards.open(tokens).vocab_size,
            n_embd=8,
            n_layer=2,
            n_head=2,
            n_positions=BLOCK,
            bos_token_id=0,
            eos_token_id=0,
            **changes,
        )
    )


def run_trainer(tokens, folder, *callbacks, max_steps=6, resume=None, **options):
    rows, _ = TokenShards.open(tokens).split("train").rows(range(ROWS))
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=4,
        max_steps=max_steps,
        lr_scheduler_type="constant",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **{
            "save_strategy": "no",
            "logging_strategy": "no",
            "report_to": "none",
            "learning_rate": 1e-2,
            **options,
        },
    )
    trainer = transformers.Trainer(
        gpt2(tokens),
        arguments,
        train_dataset=[{"input_ids": row, "labels": row} for row in rows],
        callbacks=list(callbacks),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train(resume_from_checkpoint=resume)
    return trainer.model


@pytest.mark.parametrize("bf16", [False, True])
def test_trainer_trains_the_same_bits_with_and_without(tokens, tmp_path, bf16):
    # GPT-2 draws for its dropout: a generator that is not put back would show.
    plain = run_trainer(tokens, tmp_path / "plain", bf16=bf16).state_dict()
    found = CollapseCallback(tokens, out=tmp_path / "run", every=2, measures=["all"])
    measured = run_trainer(tokens, tmp_path, found, bf16=bf16).state_dict()
    assert all(torch.equal(plain[name], measured[name]) for name in plain)
    assert sorted({step for step, _ in table(tmp_path / "run")}) == [0, 2, 4, 6]
    assert read_rows(files(tmp_path / "run")[0])[0].measurement["precision"] == (
        "bf16" if bf16 else "fp32"
    )


def test_trainer_s_last_rows_are_of_its_model(tokens, tmp_path):
    found = CollapseCallback(tokens, out=tmp_path / "run", every=3, measures=MEASURES)
    model = HuggingFaceModel(run_trainer(tokens, tmp_path, found), name="x")
    split = TokenShards.open(tokens).split("train")  # the probe is larger than it
    expected = metrics(stream.class_moments(model, split), model.classifier, measures=MEASURES)
    for metric in MEASURES:
        assert table(tmp_path / "run")[6, metric] == expected[metric].value


def test_a_resumed_trainer_goes_on_without_double_rows(tokens, tmp_path):
    def measuring(folder):
        return CollapseCallback(tokens, out=folder / "run", every=1, measures=MEASURES)

    saving = {"save_strategy": "steps", "save_steps": 2}
    run_trainer(tokens, tmp_path / "a", measuring(tmp_path / "a"), **saving)
    run_trainer(tokens, tmp_path / "b", measuring(tmp_path / "b"), max_steps=3, **saving)
    resume = str(tmp_path / "b" / "trainer" / "checkpoint-2")
    with pytest.warns(UserWarning, match="rows of step 3 are removed, .* resumed from step 2"):
        run_trainer(tokens, tmp_path / "b", measuring(tmp_path / "b"), resume=resume, **saving)
    assert table(tmp_path / "a" / "run") == table(tmp_path / "b" / "run")


def test_a_trainer_resumed_from_another_s_checkpoint_removes_no_rows(tokens, tmp_path):
    def measuring():
        return CollapseCallback(tokens, out=tmp_path / "run", every=2, measures=MEASURES)

    saving = {"save_strategy": "steps", "save_steps": 3}
    run_trainer(tokens, tmp_path / "first", measuring(), **saving)
    other = {**saving, "learning_rate": 1e-4}
    run_trainer(tokens, tmp_path / "second", max_steps=3, **other)  # of the same base, unmeasured
    kept = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    # Rows are of steps 0, 2, 4 and 6: none of step 3 tells whose weights these are.
    alien = str(tmp_path / "second" / "trainer" / "checkpoint-3")
    with pytest.raises(UserError, match=r"probe-train-3-.* other weights at step 3, .*`out`"):
        run_trainer(tokens, tmp_path / "second", measuring(), resume=alien, **other)
    assert kept == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*")}
    # Its own checkpoint is known, though step 3 was not measured.
    expected = table(tmp_path / "run")
    own = str(tmp_path / "first" / "trainer" / "checkpoint-3")
    with pytest.warns(UserWarning, match=r"rows of steps 4, 6 are removed, .* from step 3"):
        run_trainer(tokens, tmp_path / "first", measuring(), resume=own, **saving)
    assert table(tmp_path / "run") == expected


def test_a_checkpoint_that_was_saved_unmeasured_removes_no_rows(tokens, tmp_path):
    def measuring():
        return CollapseCallback(tokens, out=tmp_path / "run", every=2, measures=MEASURES)

    model, trained = model_of(tokens), model_of(tokens, seed=1)
    found = measuring()
    for step in range(5):
        found.step(model if step < 3 else trained, step)
    kept = table(tmp_path / "run")
    with pytest.raises(UserError, match=r"has rows of step 4, .*its training passed step 3 with"):
        measuring().step(trained, 3)
    assert table(tmp_path / "run") == kept
    found.saved(trained, 3)  # as a loop says it that keeps a checkpoint
    with pytest.raises(UserError, match=r"probe-train-3-.* other weights at step 3"):
        measuring().step(model, 3)
    assert table(tmp_path / "run") == kept
    with pytest.warns(UserWarning, match=r"rows of step 4 are removed, .* from step 3"):
        measuring().step(trained, 3)
    assert {step for step, _ in table(tmp_path / "run")} == {0, 2}


def test_trainer_s_default_interval_takes_rows_as_long_as_blocks(tokens, tmp_path):
    found = CollapseCallback(tokens, out=tmp_path / "run", measures=MEASURES)
    model = run_trainer(tokens, tmp_path, found, gradient_accumulation_steps=2, max_steps=1)
    taken = HuggingFaceModel(model, name="x")
    assert found.every == found.probe.every(taken, 4 * 2 * BLOCK)


def test_other_events_and_other_names(tokens, tmp_path):
    found = CollapseCallback(tokens, out=tmp_path)
    assert found.on_an_event_to_come(1, 2, three=3) is None
    with pytest.raises(AttributeError, match="'CollapseCallback' object has no attribute 'onset'"):
        found.onset  # noqa: B018
