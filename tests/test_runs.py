import dataclasses

import pytest

from tightframe.errors import UserError
from tightframe.files import exclusive
from tightframe.lm.checkpoints import load_checkpoint
from tightframe.lm.runs import Run
from tightframe.lm.training import train
from tiny_runs import Killed, killed_at, tiny_settings
from tiny_tokens import write_tokens


def _last(run):
    return run.checkpoint(run.kept())


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return write_tokens(tmp_path_factory.mktemp("tokens") / "tiny")


@pytest.fixture
def tiny(tokens, tmp_path):
    return tiny_settings(tokens, tmp_path / "run", save_every=2, checkpoint_steps=(4,))


def interrupted(settings, step):
    """A run that stopped after the record of `step`; its newest state is the one before."""
    with pytest.raises(Killed):
        train(dataclasses.replace(settings, log_every=1), hooks=[killed_at(step)])
    return Run.open(settings.out)


def test_a_run_is_opened_by_its_path(tiny):
    train(tiny)
    run = Run.open(str(tiny.out))
    assert run.name == "run"
    assert run.settings == dataclasses.replace(tiny, device=run.settings.device)
    assert run.steps == [4, 9]
    assert run.checkpoint(run.kept()) == tiny.out / "checkpoints" / "step-9"
    assert run.checkpoint(4) == tiny.out / "checkpoints" / "step-4"
    assert run.facts["n_parameters"] == load_checkpoint(run.checkpoint(run.kept())).n_parameters
    assert run.facts["steps"] == 9


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 3}, "belongs to a run with seed = 0, not 3; choose another `out`"),
        ({"width": 16}, "belongs to a run with width = 8, not 16"),
        ({"betas": (0.9, 0.99)}, r"betas = \[0.9, 0.95\], not \[0.9, 0.99\]"),
        ({"threads": 2}, "threads = 1, not 2"),
    ],
)
def test_other_settings_are_refused_with_both_values(tiny, changed, message):
    train(tiny)
    before = sorted(tiny.out.rglob("[!.]*"))
    with pytest.raises(UserError, match=message):
        train(dataclasses.replace(tiny, **changed))
    assert sorted(tiny.out.rglob("[!.]*")) == before


def test_other_tokens_are_refused(tiny, tmp_path):
    train(tiny)
    other = write_tokens(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=r"was trained on tokens \w{12}, but .*other holds \w{12}"):
        train(dataclasses.replace(tiny, tokens=other))


def test_the_same_tokens_elsewhere_are_the_same_run(tiny, tmp_path, capsys):
    train(tiny)
    train(dataclasses.replace(tiny, tokens=write_tokens(tmp_path / "copy")))
    assert "is finished already" in capsys.readouterr().err


def test_a_folder_of_other_things_is_not_taken(tiny):
    tiny.out.mkdir()
    (tiny.out / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="holds other files, but no run; choose another `out`"):
        train(tiny)
    assert (tiny.out / "thesis.tex").read_text() == "mine"


def test_a_file_in_the_place_of_the_run_is_said(tiny):
    tiny.out.write_text("a file")
    with pytest.raises(UserError, match="a file stands where a folder is needed"):
        train(tiny)


def test_nothing_is_made_for_impossible_settings(tiny):
    with pytest.raises(UserError, match="width 8 is not divisible by 3 heads"):
        train(dataclasses.replace(tiny, heads=3))
    with pytest.raises(UserError, match="checkpoint_steps holds 99"):
        train(dataclasses.replace(tiny, checkpoint_steps=(99,)))
    assert not tiny.out.exists()


def test_two_processes_do_not_share_a_run(tiny):
    with (
        exclusive(tiny.out, what="run"),
        pytest.raises(UserError, match="another process is at work on this run"),
    ):
        train(tiny)


def test_what_is_no_run_is_said(tmp_path):
    with pytest.raises(UserError, match="no such run directory"):
        Run.open(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"holds no config.toml, so it is no run directory"):
        Run.open(tmp_path)


def test_a_run_without_checkpoints_is_said(tiny):
    run = interrupted(tiny, step=3)
    assert not run.finished
    with pytest.raises(UserError, match="has no checkpoint yet; train it first"):
        run.kept()


@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_a_damaged_state_is_named_and_refused(tiny, damage):
    run = interrupted(tiny, step=3)
    (state,) = run.resume_folder.iterdir()
    content = bytearray(state.read_bytes())
    content[-1] ^= 1
    state.write_bytes(content[:-7] if damage == "truncated" else content)
    with pytest.raises(UserError, match=rf"{state.name}: (damaged|not a whole)"):
        train(dataclasses.replace(tiny, log_every=1))
    assert state.exists()


@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_a_damaged_checkpoint_is_named_and_refused(tiny, damage):
    path = _last(train(tiny)) / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content[:-7] if damage == "truncated" else content)
    with pytest.raises(UserError, match=r"step-9/model.safetensors: damaged or changed"):
        load_checkpoint(path.parent)


@pytest.mark.parametrize("content", ["", "{}\n", "[]\n", "half a li\nne\n"])
def test_a_damaged_log_is_named(tiny, content):
    run = train(tiny)
    run.log_path.write_text(content)
    with pytest.raises(UserError, match=r"log.jsonl(:1)?: .*; train again elsewhere"):
        train(tiny)


def test_a_damaged_config_is_named(tiny):
    train(tiny)
    (tiny.out / "config.toml").write_text("width = ")
    with pytest.raises(UserError, match=r"config.toml: not TOML"):
        train(tiny)


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(tiny, monkeypatch):
    from pathlib import Path

    whole = train(dataclasses.replace(tiny, out=tiny.out.with_name("whole")))
    written = []
    write = Path.write_bytes

    def full(path, content):
        written.append(path)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        return write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(UserError, match="no space left on the disk; free some and run again"):
            train(tiny)
    assert not list(tiny.out.rglob("*.part"))
    ours = _last(train(tiny)) / "model.safetensors"
    assert ours.read_bytes() == (_last(whole) / "model.safetensors").read_bytes()
