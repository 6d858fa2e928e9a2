"""What the description and the headers of a model's weights tell before anything is loaded.

config.json tells the kind of model, its layers and its longest input, in a fraction of a second.
What these files do not tell is left to the loading, which checks the same again.
"""

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tightframe.corpus import hub
from tightframe.errors import UserError
from tightframe.formats import read_json
from tightframe.lm.folders import ADAPTER, DESCRIPTION, base_of, describe

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
