"""What a model's folder or its name on the Hub holds, found out before anything is loaded.

What cannot be measured is refused here, before torch is imported, in one line that says what to
do. config.json tells the kind of model, its layers and its longest input, in a fraction of a
second. What these files do not tell is left to the loading, which checks the same again.
"""

import importlib.util
import re
from collections.abc import Iterator, Mapping
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
        name = self.snapshot.name.rpartition("/")[2]
        is_step = hub.parse_revision(self.snapshot.revision) is not None
        return name if is_step else f"{name}@{self.snapshot.revision.replace('/', '-')}"


def locate(source: str | Path, step: int | None = None, *, allow_bin: bool = False) -> Located:
    """Return where RUN@STEP or NAME@REVISION is read from; anything else is where it says.

    A revision of a model on the hub is fetched.

    Args:
        source: A run, a folder or a name on the hub, perhaps with @ and a step or revision.
        step: Checkpoint of a run that is given apart.
        allow_bin: Take pickled weights where a revision has no others.
    """
    name, at, revision = str(source).rpartition("@")
    if not at or Path(source).expanduser().exists():
        return Located(source, step)
    if (Path(name).expanduser() / "config.toml").is_file():
        if not revision.isdecimal() or step is not None:
            raise UserError(f"{source}: expected RUN@STEP with a number, and no --step beside it")
        return Located(Path(name).expanduser(), int(revision))
    if is_path(name) or not revision:
        raise UserError(
            f"{source}: no such folder; expected RUN@STEP, or NAME@REVISION of a model on the hub"
        )
    found = hub.snapshot(name, revision, allow_bin=allow_bin)
    parsed = hub.parse_revision(revision)
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
    else:
        check_weights(path)


def is_path(source: str | Path) -> bool:
    """Return whether only a folder can be meant: a name on the hub is NAME or OWNER/NAME."""
    folder = Path(source).expanduser()
    deep = len(folder.parts) > 2 or folder.is_absolute()
    dotted = str(source).startswith((".", "~"))
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
    quantized = [folder] if folder.suffix == ".gguf" else sorted(folder.glob("*.gguf"))
    if quantized and not (folder / DESCRIPTION).is_file():
        given = f'from_pretrained("{quantized[0].parent}", gguf_file="{quantized[0].name}")'
        raise UserError(  # transformers saves no model that it takes to be still quantized
            f"{folder}: holds weights as GGUF; convert them with transformers and the package "
            f"gguf: m = AutoModelForCausalLM.{given}; m.hf_quantizer = None; "
            "del m.config.quantization_config; m.save_pretrained(NEW_FOLDER); "
            f"AutoTokenizer.{given}.save_pretrained(NEW_FOLDER)"
        )
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
    without one, that of the folder above.

    Args:
        source: A folder, or a name on the hub, which is returned as it is.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir() or _has_tokenizer(folder):
        return source
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


# What configurations of transformers call the number of blocks, and that of positions.
_DEPTHS = (
    *("num_hidden_layers", "num_layers", "n_layer", "n_layers", "depth", "layers"),
    *("decoder_layers", "num_decoder_layers", "encoder_layers", "decoder_num_hidden_layers"),
)
POSITIONS = ("max_position_embeddings", "max_seq_len", "max_target_positions")
_BY_ANOTHER_NAME = "n_positions"  # of GPT-2 and its like; elsewhere it may mean nothing
_WITH_THAT_NAME = ("gpt2", "gpt-sw3", "gptj", "codegen", "ctrl", "gpt_bigcode", "openai-gpt")
_REGISTRY = ("models/auto/auto_mappings.py", "models/auto/configuration_auto.py")


def check_described(source: str | Path, *, trust_remote_code: bool) -> None:
    """Refuse a folder whose config.json or weights show that transformers cannot load it.

    Args:
        source: A folder that `check_model` lets pass, or a name on the hub, which is left alone.
        trust_remote_code: Allow Python code that comes with the model.
    """
    folder = _folder(source)
    if folder is None:
        return
    content = describe(folder)
    if "format" not in content:  # not ours
        _check_kind(folder, content, trust_remote_code)
    _check_weights(folder)


def depth_of(source: str | Path) -> int | None:
    """Return the number of blocks that config.json names; None where it does not say."""
    return max(_numbers(source, _DEPTHS), default=None)


def positions_of(source: str | Path) -> int | None:
    """Return the largest number of positions that config.json names; None where it does not say."""
    return max(_numbers(source, POSITIONS), default=None)


def damaged(error: Exception) -> str:
    """Say in plain words that weights cannot be read."""
    return f"its weights are damaged or cut short ({hub.reason(error)}); copy them again"


def without_trust(source: str | Path) -> UserError:
    """Return the error of a model that brings Python code of its own."""
    return UserError(
        f"{source}: brings Python code of its own, which is not run; read it, and give "
        "--trust-remote-code if you trust it"
    )


def unknown_kind(kind: str) -> str:
    """Say in plain words that the installed transformers has no such kind of model."""
    return (
        f"its model_type is '{kind}', which the installed transformers does not know; update "
        f"transformers, or mend {DESCRIPTION}"
    )


def _folder(source: str | Path) -> Path | None:
    """Return the folder with the config.json of a model: of an adapter, that of its base."""
    folder = Path(source).expanduser()
    if (folder / ADAPTER).is_file():
        base = base_of(folder)
        folder = Path(base or "").expanduser()
    return folder if (folder / DESCRIPTION).is_file() else None


def _numbers(source: str | Path, names: tuple[str, ...]) -> Iterator[int]:
    folder = _folder(source)
    content = {} if folder is None else describe(folder)
    if "format" in content:  # ours
        content, names = content.get("model") or {}, ("depth",) if names is _DEPTHS else names
        names = ("positions",) if names is POSITIONS else names
    if names is POSITIONS and content.get("model_type") in _WITH_THAT_NAME:
        names = (*names, _BY_ANOTHER_NAME)
    nested = content.get("text_config")
    for part in (content, nested if isinstance(nested, Mapping) else {}):
        for name in names:
            if isinstance(value := part.get(name), str):
                raise UserError(
                    f"{source}: {name} is {value!r} in {DESCRIPTION}; expected a number"
                )
            if type(value) is int and value > 0:
                yield value


def _check_kind(folder: Path, content: Mapping[str, Any], trust_remote_code: bool) -> None:
    kind, code = content.get("model_type"), content.get("auto_map")
    brings_code = isinstance(code, Mapping) and "AutoConfig" in code
    if not isinstance(kind, str) or (brings_code and trust_remote_code) or _known(kind):
        return
    raise without_trust(folder) if brings_code else UserError(f"{folder}: {unknown_kind(kind)}")


def _known(kind: str) -> bool:
    """Return whether the installed transformers names a kind of model; True where unknown.

    Read from its source: importing it costs seconds.
    """
    found = importlib.util.find_spec("transformers")
    places = (found and found.submodule_search_locations) or []
    files = [Path(place) / name for place in places for name in _REGISTRY]
    sources = [file.read_text("utf-8") for file in files if file.is_file()]
    return not sources or any(f'"{kind}"' in text for text in sources)


def _check_weights(folder: Path) -> None:
    """Refuse files of weights that are missing or cut short; their numbers are not read."""
    from safetensors import SafetensorError, safe_open

    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    names = [single.name]
    if not single.is_file() and index.is_file():
        content = read_json(index)
        listed = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(listed, dict) or not all(isinstance(x, str) for x in listed.values()):
            raise UserError(f"{index}: lists no weights (weight_map); copy the model again")
        names = sorted(set(listed.values()))
    for path in (folder / name for name in names):
        if not path.is_file():
            if path != single:
                raise UserError(f"{path}: no such file, which {index.name} names; copy it, too")
            continue
        try:
            with safe_open(path, framework="numpy"):
                pass
        except SafetensorError as error:
            raise UserError(f"{folder}: {damaged(error)}") from None
