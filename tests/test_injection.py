"""Facts go into networks; interrupted runs end with the same bits; other settings are refused."""

import dataclasses
import itertools
import json

import pytest
import torch

from example_facts import example_facts, write_facts
from tightframe.cli import main
from tightframe.errors import UserError
from tightframe.knowledge.facts import facts_fingerprint
from tightframe.knowledge.injection import inject, load_qa_model
from tightframe.knowledge.injection_runs import InjectionRun, InjectOptions, choose_facts
from tightframe.knowledge.networks import Network
from tightframe.knowledge.qa_models import Prompt
from tightframe.lm.options import TrainOptions
from tightframe.lm.training import train
from tiny_runs import killed_at_write


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_facts(tmp_path_factory.mktemp("facts") / "facts.jsonl", example_facts())


def tiny(data, out, **values):
    settings = {
        "arm": "bilm_sp",
        "exposures": 6,
        "vocab_size": 300,
        "width": 16,
        "heads": 2,
        "positions": 80,
        "batch": 4,
        "warmup": 0.34,
        "device": "cpu",
        "threads": 1,
        "log_every": 2,
        "save_every": 3,
    }
    return InjectOptions(data=data, out=out, **{**settings, **values})


def outcome(run):
    """What must not depend on interruptions."""
    assert run.finished
    timings = ("seconds", "cpu_seconds", "tokens_per_second")
    log = [{name: r[name] for name in r if name not in timings} for r in run.log]
    weights = [
        (run.checkpoint(step) / "model" / "model.safetensors").read_bytes() for step in run.steps
    ]
    return run.steps, log, weights


def test_a_run_says_what_it_was_made_from(data, tmp_path):
    run = inject(tiny(data, tmp_path / "run", checkpoints=(2,)))
    facts = example_facts()
    # 6 facts, 6 times, in batches of 4; 2 of 6 exposures are a third of 9 steps.
    assert (run.facts["lessons"], run.facts["steps"], run.steps) == (36, 9, [3, 9])
    assert run.facts["data"] == facts_fingerprint(facts)
    assert run.injected == tuple(facts)
    assert [record["exposures"] for record in run.log if record["kind"] == "checkpoint"] == [2, 6]
    assert not (run.path / "resume").exists()
    assert InjectionRun.open(run.path).settings == run.settings


def test_arms_of_one_objective_see_the_same_lessons(data, tmp_path):
    runs = [
        inject(tiny(data, tmp_path / arm, arm=arm, exposures=1))
        for arm in ("clm_sp", "bilm_sp", "bilm_mlm", "bilm_ed", "clm_ntp")
    ]
    streams = [run.facts["stream"] for run in runs]
    assert len(set(streams[:4])) == 1
    assert streams[4] != streams[0]
    parameters = [run.facts["n_parameters"] for run in runs]
    assert len({*parameters[:3], parameters[4]}) == 1
    assert abs(parameters[3] - parameters[0]) < 0.03 * parameters[0]


def test_resume_from_any_write_gives_the_same_bits(data, tmp_path, monkeypatch):
    # One run is stopped at its first write to the disk, another at its second, and so on.
    values = {"n_facts": 3, "exposures": 4, "checkpoints": (2,), "save_every": 2}
    whole = outcome(inject(tiny(data, tmp_path / "run", **values)))
    for stop_at in itertools.count(1):
        settings = tiny(data, tmp_path / f"{stop_at}" / "run", **values)
        with killed_at_write(monkeypatch, stop_at) as stopped:
            inject(settings)
        assert outcome(inject(settings)) == whole, f"stopped at write {stop_at}"
        if not stopped:
            break
    assert stop_at > 8


@pytest.mark.parametrize("arm", ["clm_masked", "clm_noise", "bilm_diffusion"])
def test_runs_that_hide_words_resume_to_the_same_bits(arm, data, tmp_path, monkeypatch):
    values = {"arm": arm, "n_facts": 3, "save_every": 2, "dropout": 0.2}
    whole = outcome(inject(tiny(data, tmp_path / "run", **values)))
    for stop_at in itertools.count(10):
        settings = tiny(data, tmp_path / f"{stop_at}" / "run", **values)
        with killed_at_write(monkeypatch, stop_at):
            inject(settings)
        if (settings.out / "resume").exists():
            break
    assert outcome(inject(settings)) == whole


def test_the_same_seed_gives_the_same_bits_and_another_does_not(data, tmp_path):
    first, again, other = (
        outcome(inject(tiny(data, tmp_path / name / "run", seed=seed)))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again
    assert first != other


def test_a_run_that_ends_within_its_warm_up_says_so(data, tmp_path, capsys):
    with pytest.raises(UserError, match="its 9 steps end within the 9 of the warm-up"):
        inject(tiny(data, tmp_path / "short", warmup=9))
    assert not (tmp_path / "short" / "config.toml").exists()
    inject(tiny(data, tmp_path / "long", warmup=8))
    assert "warm-up" not in capsys.readouterr().err


def test_the_loss_falls(data, tmp_path):
    run = inject(tiny(data, tmp_path / "run", exposures=40, learning_rate=1e-2))
    losses = [record["loss"] for record in run.log if record["kind"] == "train"]
    assert losses[-1] < losses[0] / 2


def test_other_settings_or_facts_are_refused(data, tmp_path):
    run = inject(tiny(data, tmp_path / "run"))
    with pytest.raises(UserError, match="belongs to a run with exposures = 6, not 7"):
        inject(tiny(data, tmp_path / "run", exposures=7))
    other = write_facts(tmp_path / "other.jsonl", example_facts(9))
    with pytest.raises(UserError, match=r"was trained on data [0-9a-f]+, but .*other.jsonl holds"):
        inject(tiny(other, tmp_path / "run"))
    assert outcome(run) == outcome(inject(tiny(data, tmp_path / "run")))


def test_a_run_goes_on_from_another(data, tmp_path):
    first = inject(tiny(data, tmp_path / "first", n_facts=3, exposures=2))
    values = {"skip": 3, "exposures": 2, "model": str(first.path)}
    second = inject(tiny(data, tmp_path / "second", arm="", **values))
    assert [fact.id for fact in second.injected] == [fact.id for fact in example_facts()[3:]]
    before, after = load_qa_model(first.path), load_qa_model(second.path)
    assert isinstance(after, Network)
    assert (after.layout, after.objective) == ("prefix", "sp")
    assert after.tokenizer.tokenizer.to_str() == before.tokenizer.tokenizer.to_str()
    assert not torch.equal(after.classifier, before.classifier)
    causal = inject(tiny(data, tmp_path / "third", arm="clm_ntp", **values))
    assert load_qa_model(causal.path).layout == "causal"
    slots = load_qa_model(inject(tiny(data, tmp_path / "fourth", arm="bilm_mlm", **values)).path)
    assert slots.n_slots >= 3
    with pytest.raises(UserError, match="is prefix, which can't become arm bilm_ed"):
        inject(tiny(data, tmp_path / "fifth", arm="bilm_ed", **values))


def test_batches_of_tokens_are_the_same_after_an_interruption(data, tmp_path):
    values = {"batch_tokens": 150, "save_every": 2}
    whole = inject(tiny(data, tmp_path / "whole", **values))
    per_step = [record["step"] for record in whole.log if record["kind"] == "train"]
    assert per_step[-1] == whole.facts["steps"]
    assert whole.facts["steps"] != inject(tiny(data, tmp_path / "lessons")).facts["steps"]

    def stopped(step, module, record):
        if record["kind"] == "train" and step >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inject(tiny(data, tmp_path / "again", **values), hooks=[stopped])
    again = inject(tiny(data, tmp_path / "again", **values))
    ours, theirs = (load_qa_model(run.path).module.state_dict() for run in (whole, again))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_language_model_of_ours_goes_on_with_facts(data, tmp_path):
    (tmp_path / "text.txt").write_text("\n\n".join(fact.fact for fact in example_facts(60)))
    build = "corpus build {0}/text.txt --out {0}/tokens --vocab-size 280 --block 64"
    main(build.format(tmp_path).split())
    sizes = {"width": 16, "heads": 2, "device": "cpu", "threads": 1}
    trained = train(TrainOptions(tokens=tmp_path / "tokens", out=tmp_path / "lm", **sizes))
    values = {"model": str(trained.path), "exposures": 1, "arm": "clm_sp"}
    learner = load_qa_model(inject(tiny(data, tmp_path / "run", **values)).path)
    assert learner.tokenizer.vocab_size == 280 + 4  # the tokens that the corpus had none of
    assert learner.model.config.positions == 64
    assert learner.answer([Prompt("cloze", "Ada [MASK]")], max_new_tokens=2)
    with pytest.raises(UserError, match="can't go on as arm bilm_ed: a language model has one"):
        inject(tiny(data, tmp_path / "other", **{**values, "arm": "bilm_ed"}))
    assert not (tmp_path / "other" / "config.toml").exists()


def test_facts_are_chosen_in_the_order_of_their_file(data, tmp_path):
    facts = example_facts()
    settings = tiny(data, tmp_path)
    assert choose_facts(facts, settings) == facts
    assert choose_facts(facts, dataclasses.replace(settings, skip=1, n_facts=2)) == facts[1:3]
    # Facts 0, 1 hold their answer in front, 2, 3 in the back, 4, 5 not at all.
    balanced = dataclasses.replace(settings, n_facts=3, balance_position=True)
    assert choose_facts(facts, balanced) == facts[:3]
    with pytest.raises(
        UserError, match=r"4 facts are left to inject, expected 6.* balance_position"
    ):
        choose_facts(facts, dataclasses.replace(balanced, n_facts=0))
    with pytest.raises(UserError, match="0 study-eligible facts"):
        choose_facts(facts[4:], dataclasses.replace(settings, select="eligible"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"arm": ""}, "neither arm nor model is given"),
        ({"arm": "bilm"}, "no arm is called 'bilm'"),
        ({"objective": "mlm"}, "objective mlm is for encoder-only models of transformers"),
        ({"arm": "bilm_mlm", "objective": "ntp"}, "arm bilm_mlm reads its answers off slots"),
        ({"exposures": 0}, "setting 'exposures' is 0"),
        ({"max_span": 0}, "setting 'max_span' is 0"),
        ({"qa_ratio": 1.5}, r"qa_ratio is 1.5, expected -1 or a share in \(0, 1\)"),
        ({"checkpoints": [9]}, "a checkpoint at 9 exposures, but the run has 6"),
        ({"preset": "paper-t5"}, "unknown preset 'paper-t5'"),
        ({"widht": 3}, "unknown setting 'widht'; did you mean 'width'"),
    ],
)
def test_settings_that_cannot_be_run_are_refused_in_one_line(data, tmp_path, values, message):
    from tightframe.settings import as_dict, resolve

    given = as_dict(tiny(data, tmp_path / "run")) | values
    with pytest.raises(UserError, match=message):
        resolve(InjectOptions, given, source="test")
    assert not (tmp_path / "run").exists()


def test_a_lesson_that_is_too_long_is_refused_before_any_training(data, tmp_path):
    with pytest.raises(UserError, match=r"fact dyk-\w+: an example of \d+ tokens is longer than"):
        inject(tiny(data, tmp_path / "run", positions=8))
    assert not (tmp_path / "run" / "config.toml").exists()


def test_a_preset_supplies_what_is_not_given(data, tmp_path):
    settings = InjectOptions(data=data, out=tmp_path, model="x", preset="paper-t5-large", batch=8)
    assert (settings.learning_rate, settings.batch, settings.seed) == (1e-4, 8, 42)


def test_a_damaged_network_is_refused(data, tmp_path):
    run = inject(tiny(data, tmp_path / "run", exposures=1))
    about = run.checkpoint(run.steps[-1]) / "network.json"
    about.write_text(json.dumps({"format": "other"}))
    with pytest.raises(UserError, match=r"network.json: name is missing; inject again"):
        load_qa_model(run.path)
