"""Models of the hub at a revision, from a hub of this machine; and checkpoints by RUN@STEP."""

import io
import shutil
from importlib.metadata import version

import pytest
import torch

import tightframe as tf
from fake_hub import FakeHub, serving, use
from tightframe.corpus import hub
from tightframe.errors import UserError
from tightframe.geometry.options import InputOptions
from tightframe.geometry.subject import Subject
from tightframe.lm.folders import locate
from tightframe.lm.load import digest_of, load_model
from tightframe.lm.training import train
from tiny_models import ids, save
from tiny_runs import measured, tiny_settings
from tiny_tokens import write_tokens

COMMITS = {"main": "a" * 40, "step1000": "b" * 40, "step2000": "c" * 40, "empty": "d" * 40}
COMMITS["settings"] = "e" * 40


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files by commit: step1000 is pickled, step2000 has other weights and other files beside them,
    empty and settings have no weights."""
    folder = tmp_path_factory.mktemp("revisions")
    made = {}
    for name, seed in (("main", 0), ("step1000", 1), ("step2000", 2)):
        torch.manual_seed(seed)
        model = save("gpt2", folder / name)
        if name == "step1000":
            (folder / name / "model.safetensors").unlink()
            torch.save(model.state_dict(), folder / name / "pytorch_model.bin")
        made[COMMITS[name]] = {file.name: file.read_bytes() for file in (folder / name).iterdir()}
    made[COMMITS["empty"]] = {"config.json": b"{}"}
    made[COMMITS["settings"]] = {"config.json": b"{}", "training_args.bin": b""}
    others = ("training_args.bin", "optimizer.bin", "consolidated.safetensors")
    made[COMMITS["step2000"]] |= dict.fromkeys(others, b"")
    for place, commit in (("seed1/checkpoint-400", "step2000"), ("seed1/best", "main")):
        inner = {f"{place}/{name}": content for name, content in made[COMMITS[commit]].items()}
        made[COMMITS["main"]] = made[COMMITS["main"]] | inner
    return made


@pytest.fixture
def fake(files, monkeypatch, tmp_path):
    """A hub with one model, tiny/series; the list of what it was asked for."""
    with serving(FakeHub("tiny/series", files, COMMITS)) as server:
        monkeypatch.setattr(hub, "snapshot", hub.snapshot.__wrapped__)
        use(server, monkeypatch, tmp_path / "cache")
        yield server.asked


def test_a_revision_gives_the_weights_of_its_commit(fake, files, tmp_path):
    main, later = load_model("tiny/series@main"), load_model("tiny/series@step2000")
    assert not torch.equal(main.classifier, later.classifier)
    same = load_model(f"tiny/series@{COMMITS['step2000']}")
    assert torch.equal(same.embed(ids(1, 5)), later.embed(ids(1, 5)))
    assert (main.name, later.name) == ("series@main", "series")
    wanted = [path for path in fake if "/resolve/" in path]
    assert {path.split("/resolve/")[1][:40] for path in wanted} == {
        COMMITS["main"],
        COMMITS["step2000"],
    }


def test_a_subfolder_of_a_revision_is_a_model_of_its_own(fake, files):
    inner = load_model("tiny/series@main", subfolder="seed1/checkpoint-400/")
    assert {
        path.rpartition("/")[0] for path in fake if "/resolve/" in path and "HEAD" not in path
    } == {f"/tiny/series/resolve/{COMMITS['main']}/seed1/checkpoint-400"}
    step2000 = load_model("tiny/series@step2000")
    assert torch.equal(inner.classifier, step2000.classifier)
    found = Subject.of("tiny/series", InputOptions(subfolder="seed1/checkpoint-400"))
    assert (found.name, found.step) == (inner.name, 400) == ("series-seed1@main", 400)
    assert locate("tiny/series", subfolder="seed1/best").name == "series-seed1-best@main"
    with pytest.raises(UserError, match=r"tiny/series@main: has no folder seed2 at this revision"):
        load_model("tiny/series", subfolder="seed2")


def test_a_subfolder_of_a_folder_is_that_folder(tmp_path):
    save("gpt2", tmp_path / "models" / "seed1" / "gpt2")
    inner = load_model(tmp_path / "models", subfolder="seed1/gpt2")
    assert inner.name == "gpt2"
    found = Subject.of(tmp_path / "models", InputOptions(subfolder="seed1/gpt2"))
    assert (found.source, found.name) == (tmp_path / "models" / "seed1" / "gpt2", "gpt2")
    for source in (tmp_path / "models", "./none"):
        with pytest.raises(UserError, match=r"seed2: no such folder; expected .* --subfolder"):
            load_model(source, subfolder="seed2")


def test_pickled_weights_of_a_revision_are_read_only_if_that_is_asked_for(fake, files):
    with pytest.raises(UserError, match=r"as pytorch_model.bin only; give --allow-bin"):
        load_model("tiny/series@step1000")
    assert not [path for path in fake if path.endswith(".bin")]
    model = load_model("tiny/series@step1000", allow_bin=True)
    stored = files[COMMITS["step1000"]]["pytorch_model.bin"]
    weights = torch.load(io.BytesIO(stored), weights_only=True)
    assert torch.equal(model.classifier, weights["transformer.wte.weight"])


def test_only_the_files_that_a_model_is_read_from_are_fetched(fake):
    load_model("tiny/series@step2000")
    fetched = {path.rpartition("/")[2] for path in fake if "/resolve/" in path}
    assert {"config.json", "model.safetensors"} <= fetched
    assert not {"training_args.bin", "optimizer.bin", "consolidated.safetensors"} & fetched
    with pytest.raises(UserError, match="has no weights at this revision"):
        load_model("tiny/series@settings", allow_bin=True)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("tiny/series@step7", "has no such revision"),
        ("tiny/series@empty", "has no weights at this revision"),
        ("./nowhere@main", "no such folder"),
        ("tiny/series@", "no such folder"),
    ],
)
def test_what_cannot_be_had_is_one_line(fake, source, said):
    with pytest.raises(UserError, match=said):
        load_model(source)


def test_a_folder_with_pickled_weights_is_read_if_that_is_asked_for(tmp_path):
    model = save("gpt2", tmp_path / "gpt2")
    (tmp_path / "gpt2" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "gpt2" / "pytorch_model.bin")
    loaded = load_model(tmp_path / "gpt2", allow_bin=True)
    assert torch.equal(loaded.classifier, model.get_output_embeddings().weight)


def test_pickled_weights_that_hold_code_are_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    save("gpt2", tmp_path / "gpt2")
    (tmp_path / "gpt2" / "model.safetensors").unlink()
    torch.save({"transformer.wte.weight": Bomb()}, tmp_path / "gpt2" / "pytorch_model.bin")
    with pytest.raises(UserError):
        load_model(tmp_path / "gpt2", allow_bin=True)
    assert not (tmp_path / "exploded").exists()


def test_a_revision_is_a_step_of_its_model_in_results(fake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subject = Subject.of("tiny/series@step2000")
    assert (subject.name, subject.step) == ("series", 2000)
    assert Subject.of("tiny/series@main").name == "series@main"
    tokens = write_tokens(tmp_path / "tokens", vocab_size=subject.model.classifier.shape[0])
    header = measured("tiny/series@step2000", tokens, groups=1, min_count=1).header
    assert (header.step, header.measurement["commit"]) == (2000, COMMITS["step2000"])
    assert header.measurement["revision"] == "step2000"
    for package in ("transformers", "huggingface_hub"):
        assert header.measurement[package] == version(package)
    assert header.measurement["weights"] == digest_of(subject.model)


def test_a_checkpoint_of_a_run_is_named_with_its_step(tmp_path):
    tokens = write_tokens(tmp_path / "tokens", train=120, val=30)
    run = tmp_path / "run"
    train(tiny_settings(tokens, run, checkpoint_steps=(4,), epochs=1))
    located = locate(f"{run}@4")
    assert (located.source, located.step) == (run, 4)
    first, last = load_model(f"{run}@4"), load_model(run)
    assert not torch.equal(first.classifier, last.classifier)
    with pytest.raises(UserError, match="expected RUN@STEP"):
        locate(f"{run}@last")
    assert Subject.of(f"{run}@4", InputOptions()).step == 4
    compared = tf.compare(f"{run}@4", run, groups=8, min_count=2, measures=["rank_pr"])
    assert (compared.a.step, compared.b.step) == (4, 15)


def test_an_at_in_the_name_of_a_folder_is_part_of_the_name(tmp_path):
    save("gpt2", tmp_path / "gpt2@home")
    assert load_model(tmp_path / "gpt2@home").name == "gpt2@home"
    shutil.rmtree(tmp_path / "gpt2@home")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("step143000", (None, None, 143_000, None)),
        ("step20000-tokens84B", (None, None, 20_000, 84 * 10**9)),
        ("stage1-step1000-tokens5B", (1, None, 1000, 5 * 10**9)),
        ("stage2-ingredient3-step2000-tokens9B", (2, "ingredient3", 2000, 9 * 10**9)),
        ("stage1-step-40000", (1, None, 40_000, None)),
        ("step-480k-token-1007B", (None, None, 480_000, 1007 * 10**9)),
        ("checkpoint-400", (None, None, 400, None)),
        ("step_60", (None, None, 60, None)),
    ],
)
def test_names_of_public_series_tell_their_steps(name, said):
    assert hub.parse_revision(name) == said


@pytest.mark.parametrize("name", ["main", "v1.0", "step", "12000", "step12-final", "steps100"])
def test_a_name_that_is_not_understood_tells_no_step(name):
    assert hub.parse_revision(name) is None
