"""What a model's folder or its name on the Hub holds, found out before anything is loaded.

What cannot be measured is refused here, before torch is imported, in one line that says what to
do. What these files do not tell is left to the loading, which checks the same again.
"""

import importlib.util
import re
from pathlib import Path
from typing import Any, NamedTuple

from tightframe.corpus import hub
from tightframe.errors import UserError
from tightframe.files import check_place
from tightframe.formats import read_json
from tightframe.lm.runs import Run

DESCRIPTION = "config.json"
ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
GGUF = ".gguf"

# How transformers' classes end whose models are not causal.
_OTHER_KINDS = (
    "ForMaskedLM",
    "ForMultipleChoice",
    "ForPreTraining",
    "ForQuestionAnswering",
    "ForSequenceClassification",
    "ForTokenClassification",
)
# What tokenizers of transformers are kept in.
_TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "*.tiktoken", "*.spm")
_CONVERT = "AutoModelForCausalLM.from_pretrained({}).save_pretrained(NEW_FOLDER)"


class Located(NamedTuple):
    """Place that a model is read from, with the step and revision that its name tells."""

    source: str | Path
    step: int | None
    snapshot: hub.Snapshot | None = None  # of a revision on the hub

    @property
    def name(self) -> str:
        """Name of the model of a revision in results; a step is told apart from it."""
        assert self.snapshot is not None
        name, revision = self.snapshot.name.rpartition("/")[2], self.snapshot.revision
        folders = [part for part in self.snapshot.subfolder.split("/") if part]
        if folders and hub.parse_revision(folders[-1]) is not None:
            folders.pop()
        name = "-".join([name, *folders])
        is_step = hub.parse_revision(revision) is not None
        return name if is_step else f"{name}@{revision.replace('/', '-')}"


def locate(
    source: str | Path,
    step: int | None = None,
    *,
    allow_bin: bool = False,
    subfolder: str | None = None,
) -> Located:
    """Return where RUN@STEP or NAME@REVISION is read from; anything else is where it says.

    A revision of a model on the hub is fetched.

    Args:
        source: A run, a folder or a name on the hub, perhaps with @ and a step or revision.
        step: Checkpoint of a run that is given apart.
        allow_bin: Take pickled weights where a revision has no others.
        subfolder: Folder of the model inside the folder or the repository.
    """
    name, at, revision = str(source).rpartition("@")
    inner, place = (subfolder or "").strip("/"), Path(source).expanduser()
    if place.exists() or not (at or inner) or (not at and is_path(source)):
        if inner and not (place / inner).is_dir():
            raise UserError(f"{place / inner}: no such folder; expected the model's --subfolder")
        return Located(place / inner if inner else source, step)
    if not at:
        name, revision = str(source), "main"
    if (Path(name).expanduser() / "config.toml").is_file():
        if not revision.isdecimal() or step is not None or inner:
            raise UserError(
                f"{source}: expected RUN@STEP with a number, and no --step or --subfolder beside it"
            )
        return Located(Path(name).expanduser(), int(revision))
    if is_path(name) or not revision:
        raise UserError(
            f"{source}: no such folder; expected RUN@STEP, or NAME@REVISION of a model on the hub"
        )
    found = hub.snapshot(name, revision, allow_bin=allow_bin, subfolder=inner)
    parsed = hub.parse_revision(revision) or hub.parse_revision(inner.rpartition("/")[2])
    return Located(found.folder, parsed.step if parsed and step is None else step, found)


def check_model(source: str | Path, *, allow_bin: bool = False) -> None:
    """Refuse what can't be a run or a causal language model; see `load_model` for what can."""
    folder = Path(source).expanduser()
    check_place(folder)
    if (folder / "config.toml").is_file():
        Run.open(folder).kept()
    elif not folder.exists():
        if is_path(source):
            raise UserError(
                f"{source}: no such folder; expected a run or a model{models_in(folder.parent)}"
            )
        hub.check_available(str(source), DESCRIPTION, ADAPTER)
    elif (base := base_of(folder)) is not None:
        _check_adapter(folder, base)
    else:
        if (folder / DESCRIPTION).is_file():
            check_causal(folder, describe(folder))
        check_weights(folder, allow_bin=allow_bin)


def check_loadable(source: str) -> None:
    """Refuse a folder without the files of any model of transformers, or an unknown name."""
    path = Path(source).expanduser()
    if not path.exists():
        if is_path(source):
            raise UserError(f"{source}: no such folder; expected a model")
        hub.check_available(source, "config.json")
    elif (base := base_of(path)) is not None:
        raise UserError(
            f"{source}: is an adapter of {base}; give the merged model (merge_and_unload of peft)"
        )
    elif (file := gguf_of(path)) is not None:
        raise UserError(f"{file}: holds its weights as GGUF; expected model.safetensors")
    else:
        check_weights(path)


def is_path(source: str | Path) -> bool:
    """Return whether only a folder can be meant: a name on the hub is NAME or OWNER/NAME."""
    folder = Path(source).expanduser()
    deep = len(folder.parts) > 2 or folder.is_absolute()
    dotted = str(source).startswith((".", "~")) or folder.suffix == GGUF
    return deep or dotted or (len(folder.parts) == 2 and folder.parent.is_dir())


def models_in(folder: Path) -> str:
    """Name the runs and models of a folder, for a message to a reader who took the wrong one."""
    found = [*folder.glob("*/config.toml"), *folder.glob(f"*/{DESCRIPTION}")]
    names = sorted({path.parent.name for path in found})
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"; {folder} has {', '.join(names[:3])}{more}"


def describe(folder: Path) -> dict[str, Any]:
    """Read config.json of a folder."""
    path = folder / DESCRIPTION
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: describes no model; expected a JSON object")
    return content


def check_causal(source: str | Path, content: dict[str, Any]) -> None:
    """Refuse an encoder, an encoder-decoder or a classifier by what config.json says of it."""
    named = content.get("architectures")
    kinds = [kind for kind in named if isinstance(kind, str)] if isinstance(named, list) else []
    expected = "expected a causal language model, as GPT-2 and Llama are"
    if content.get("is_encoder_decoder") is True:
        what = kinds[0] if kinds else content.get("model_type")
        raise UserError(f"{source}: is an encoder-decoder ({what}); {expected}")
    if kinds and all(kind.endswith(_OTHER_KINDS) for kind in kinds):
        raise UserError(f"{source}: is a {kinds[0]}; {expected}")


def check_weights(folder: Path, *, allow_bin: bool = False) -> None:
    """Refuse a folder, or a file, without a description and weights that may be read."""
    if (file := gguf_of(folder)) is not None:
        _check_gguf(file)
        return
    if folder.is_file():
        raise UserError(f"{folder}: is a file; give the folder of a model, with {DESCRIPTION}")
    if not (folder / DESCRIPTION).is_file():
        raise UserError(
            f"{folder}: neither a run (config.toml) nor a model ({DESCRIPTION}){models_in(folder)}"
        )
    if has_safetensors(folder):
        return
    pickled = sorted(folder.glob("pytorch_model*.bin"))
    if pickled and allow_bin:
        return
    if pickled:
        arguments = f'"{folder}", use_safetensors=False'
        raise UserError(
            f"{folder}: has its weights as {pickled[0].name} only, a format that may hold code; "
            "give --allow-bin to read it by torch's loader of bare tensors, or convert it: "
            f"{_CONVERT.format(arguments)}"
        )
    raise UserError(f"{folder}: has no weights; expected model.safetensors")


def gguf_of(source: str | Path) -> Path | None:
    """Return the GGUF file that a model is read from; None for a model of any other kind."""
    path = Path(source).expanduser()
    if path.suffix == GGUF and path.is_file():
        return path
    files = [] if (path / DESCRIPTION).is_file() else sorted(path.glob(f"*{GGUF}"))
    if len(files) > 1:
        raise UserError(f"{path}: holds {len(files)} GGUF files; give one of them: {files[0]}")
    return next(iter(files), None)


def _check_gguf(file: Path) -> None:
    with file.open("rb") as content:
        if content.read(4) != b"GGUF":
            raise UserError(f"{file}: its content is not that of a GGUF file; copy it again")
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"{file}: reading GGUF weights needs the package {package}; run "
                f"`pip install {package}`"
            )


def has_safetensors(folder: Path) -> bool:
    """Return whether a folder has weights in safetensors."""
    return any(folder.glob("*.safetensors*"))


def base_of(source: str | Path) -> str | None:
    """Return the model that an adapter of peft belongs to; None for any other folder or name."""
    folder = Path(source).expanduser()
    path = folder / ADAPTER if folder.exists() else hub.fetch(str(source), ADAPTER)
    if path is None or not path.is_file():
        return None
    content = read_json(path)
    base = content.get("base_model_name_or_path") if isinstance(content, dict) else None
    if not isinstance(base, str) or not base:
        raise UserError(f"{path}: doesn't say of which model; expected base_model_name_or_path")
    return base


def with_tokenizer(source: str | Path) -> str | Path:
    """Return where the tokenizer of a model lies.

    An adapter without its own has that of its base; a `checkpoint-N` of transformers' `Trainer`
    without one, that of the folder above; a GGUF file holds its own.

    Args:
        source: A folder, or a name on the hub, which is returned as it is.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir() or _has_tokenizer(folder):
        return source
    if (file := gguf_of(folder)) is not None:
        return file
    if trainer_step(folder) is not None and _has_tokenizer(folder.resolve().parent):
        return folder.resolve().parent
    return base_of(folder) or source


def check_tokenizer_known(source: str | Path) -> None:
    """Refuse a place without a tokenizer: see `with_tokenizer` for where it may lie."""
    where = with_tokenizer(source)
    folder = Path(where).expanduser()
    if is_path(where) and not folder.exists():
        raise UserError(
            f"{source}: no such tokenizer; expected a folder with one, a tokenizer.json, or the "
            "name of a Hugging Face tokenizer"
        )
    if not folder.is_dir() or _has_tokenizer(folder):
        return
    content = read_json(folder / DESCRIPTION) if (folder / DESCRIPTION).is_file() else {}
    named = content.get("_name_or_path") if isinstance(content, dict) else None
    made_from = f" ({DESCRIPTION} says it was made from {named})" if named else ""
    raise UserError(
        f"{folder}: holds no tokenizer{made_from}; give that of the model it was made from with "
        "--tokenizer: a folder, a tokenizer.json or a hub name"
    )


def trainer_step(folder: Path) -> int | None:
    """Return the step of a folder that `Trainer` of transformers saves, `checkpoint-N`, or None."""
    named = re.fullmatch(r"checkpoint-(\d+)", folder.resolve().name) if folder.is_dir() else None
    return None if named is None else int(named[1])


def _has_tokenizer(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES)


def _check_adapter(folder: Path, base: str) -> None:
    if importlib.util.find_spec("peft") is None:
        raise UserError(
            f"{folder}: is an adapter of {base}, and loading it needs peft; run "
            "`pip install 'tightframe[hf]'`, or give the merged model (merge_and_unload of peft)"
        )
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise UserError(f"{folder}: is an adapter of {base} without {ADAPTER_WEIGHTS}; save it so")
    if Path(base).exists() and Path(base).resolve() == folder.resolve():
        raise UserError(f"{folder / ADAPTER}: names its own folder as the model it belongs to")
    try:
        check_model(base)
    except UserError as error:
        raise UserError(f"{folder}: is an adapter of another model, which fails: {error}") from None
