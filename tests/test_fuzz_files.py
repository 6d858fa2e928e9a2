"""Files that were damaged or changed at random are refused in one line, or change no result.

Each format of `KINDS` is a reader of a whole artefact, and the files that are harmed one at a time.
A reader returns what its command would give, so that a change that is accepted shows.
"""

import contextlib
import io
import json
import random
import shutil
import warnings

import numpy as np
import pytest
import safetensors.numpy

from test_solutions import small_table
from tightframe import cli
from tightframe.corpus.shards import TokenShards
from tightframe.errors import UserError
from tightframe.geometry.decisions import Decisions
from tightframe.geometry.moments import ClassMoments
from tightframe.lm.load import load_model
from tightframe.lm.options import TrainOptions
from tightframe.lm.runs import Run
from tightframe.ntp import load_table
from tightframe.ntp.asymptotics import load_path
from tightframe.ntp.model import ModelCheckpoint, load_model_checkpoints, save_model_checkpoints
from tightframe.ntp.prediction import load_prediction
from tightframe.ntp.solution import load_solution
from tightframe.ntp.table import save_table
from tightframe.results import read_rows
from tightframe.settings import read_toml, resolve

BYTES = ("truncated", "flipped", "zeroed", "emptied", "a folder")
FIELDS = ("dropped", "retyped", "null", "nested", "negative", "huge", "twice")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One tiny artefact of every kind."""
    folder = tmp_path_factory.mktemp("whole")
    text = "\n\n".join(f"The cat number {i} saw the dog and ran home ." for i in range(60))
    (folder / "text.txt").write_text(text)
    quiet(f"corpus build {folder}/text.txt --out {folder}/tokens --vocab-size 280 --block 8")
    settings = ["width=4", "depth=1", "heads=1", "epochs=1", "threads=1"]
    places = [f"tokens={folder}/tokens", f"out={folder}/run"]
    options = [part for pair in [*places, *settings] for part in ("--set", pair)]
    quiet(["train", *options, "--measure", "--measures", "nc1_cdnv"])
    save_table(folder / "table", small_table())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for command in ("solve", "predict", "ridge-path --down-to 1e-2"):
            name, *more = command.split()
            quiet(["ntp", name, f"{folder}/table", *more])
    checkpoints = [ModelCheckpoint(3, np.ones((2, 2), np.float32), np.ones((4, 2), np.float32))]
    save_model_checkpoints(folder / "runs.safetensors", checkpoints, {"arm": "a"})
    return folder


def quiet(command):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        cli.main(command.split() if isinstance(command, str) else command)


def plain(value):
    """What a reader gave, as bytes and plain values that can be compared."""
    if isinstance(value, dict):
        return {str(name): plain(part) for name, part in value.items() if name != "name"}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return [plain(part) for part in value]
    if hasattr(value, "numpy"):
        value = value.numpy()
    if hasattr(value, "tocoo"):
        value = value.toarray()
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if hasattr(value, "__dict__") or hasattr(value, "_asdict"):
        fields = value._asdict() if hasattr(value, "_asdict") else vars(value)
        return {name: plain(part) for name, part in fields.items() if name != "path"}
    return repr(value)


def of_tokens(folder):
    shards = TokenShards.open(folder)
    splits = [shards.split(name) for name in ("train", "val")]
    return [shards.vocab_size, shards.bos, [split.rows(range(len(split))) for split in splits]]


def of_run(folder):
    run = Run.open(folder)
    if not run.finished:  # a log that was cut short is that of a run to resume
        raise UserError(f"{folder}: not finished")
    return [run.settings, run.facts, run.log, run.steps, run.finished]


def of_model(folder):
    model = load_model(folder)
    return [model.config, model.state_dict()]


# Reader, the artefact, the files of it that are harmed.
KINDS = {
    "tokens": (of_tokens, "tokens", "*"),
    "run": (of_run, "run", "*.*"),
    "checkpoint": (of_model, "run/checkpoints/step-*", "*"),
    "results": (read_rows, "run/results/*.jsonl", ""),
    "moments": (lambda path: ClassMoments.load(path).pack(), "run/states/*layer-1-[!v]*", ""),
    "decisions": (lambda path: Decisions.load(path).pack(), "run/states/*-val-*", ""),
    "table": (load_table, "table", "[mt]*.*"),
    "solution": (load_solution, "table/solutions/*", ""),
    "prediction": (load_prediction, "table/predictions/*", ""),
    "path": (load_path, "table/paths/*", ""),
    "path results": (read_rows, "table/results/*.jsonl", ""),
    "checkpoints of a model": (load_model_checkpoints, "runs.safetensors", ""),
    "settings": (
        lambda path: resolve(TrainOptions, read_toml(path), source=str(path)),
        "run/config.toml",
        "",
    ),
}


def harmed(rng, path, how):
    """Harm a file; whether anything was harmed."""
    content = bytearray(path.read_bytes())
    if not content:
        return False
    if how == "a folder":
        path.unlink()
        path.mkdir()
        return True
    if how == "emptied":
        content.clear()
    elif how == "truncated":
        del content[rng.randrange(len(content)) :]
    elif how == "flipped":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif how == "zeroed":
        first = rng.randrange(len(content))
        content[first : first + 64] = bytes(len(content[first : first + 64]))
    else:
        content = changed(rng, path, bytes(content), how)
    if content == path.read_bytes():
        return False
    path.write_bytes(content)
    return True


def changed(rng, path, content, how):
    """A field of a JSON file, of a line of it, or of a safetensors file's facts, changed."""
    if path.suffix == ".safetensors":
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        if "tightframe" not in metadata:
            return content
        facts = json.loads(metadata["tightframe"])
        text = edited(rng, facts, how)
        return safetensors.numpy.save(safetensors.numpy.load_file(path), {"tightframe": text})
    if path.suffix not in (".json", ".jsonl"):
        return content
    lines = content.decode().splitlines() if path.suffix == ".jsonl" else [content.decode()]
    place = rng.randrange(len(lines))
    lines[place] = edited(rng, json.loads(lines[place]), how)
    return "".join(line + "\n" for line in lines).encode()


def edited(rng, value, how):
    inner, name = value, None
    while isinstance(inner, dict | list) and len(inner):
        holder = inner
        name = rng.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        inner = holder[name]
        if rng.random() < 0.4:
            break
    old = holder[name]
    if how == "dropped" or (how == "twice" and isinstance(holder, list)):
        del holder[name]
    elif how == "retyped":
        holder[name] = str(old) if not isinstance(old, str) else 7
    elif how == "null":
        holder[name] = None
    elif how == "nested":
        holder[name] = [[old]]
    elif how == "negative":
        holder[name] = -old if isinstance(old, int | float) and old else -1
    elif how == "huge":
        holder[name] = 10 ** rng.choice([9, 18, 30])
    text = json.dumps(value)
    if how == "twice" and isinstance(holder, dict):
        text = text.replace(f'"{name}": ', f'"{name}": 0, "{name}": ', 1)
    return text


def tried(whole, place, kind, seed, kinds=KINDS):
    """One harmed file, read; what came of it: "refused", "the same", "nothing done"."""
    rng = random.Random(f"{kind} {seed}")
    read, pattern, files = kinds[kind]
    source = min(whole.glob(pattern))
    expected = plain(read(source))
    if place.exists():
        shutil.rmtree(place)
    copy = place / source.name
    shutil.copytree(source, copy) if source.is_dir() else (
        place.mkdir(),
        shutil.copy(source, copy),
    )
    candidates = sorted(path for path in copy.glob(files) if path.is_file()) if files else [copy]
    path, how = rng.choice(candidates), rng.choice(BYTES + FIELDS)
    if not harmed(rng, path, how):
        return "nothing done"
    before = path.read_bytes() if path.is_file() else None
    try:
        found = read(copy)
    except UserError as error:
        outcome = "refused" if "\n" not in str(error) else "refused in several lines"
    except Exception as error:
        raise AssertionError(f"{kind} {seed}: {path.name} {how}: {error!r}") from error
    else:
        assert plain(found) == expected, f"{kind} {seed}: {path.name} {how}: taken in silence"
        outcome = "the same"
    assert (path.read_bytes() if path.is_file() else None) == before, "an input was changed"
    return outcome


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seeds", [25, pytest.param(400, marks=pytest.mark.slow)])
def test_a_harmed_file_is_refused_or_changes_nothing(whole, tmp_path, kind, seeds):
    outcomes = [tried(whole, tmp_path / "copy", kind, seed) for seed in range(seeds)]
    assert set(outcomes) <= {"refused", "the same", "nothing done"}
    assert outcomes.count("refused") >= seeds / 4
