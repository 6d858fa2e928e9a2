"""The tokenizer that a model reads text by, and the tokens that it begins and ends a text with.

A `tokenizer.json` alone doesn't say it: the files beside it may add tokens, put a space before a
text, or name a class of transformers that builds its parts anew. So the tokenizer of a model's
folder or hub name is what `AutoTokenizer` makes of it; code that comes with a model is not run.
Without transformers a folder is read only where its files leave no doubt. A tokenizer.json that has
nothing beside it, or belongs to a tokens folder, is read as it is.
"""

import contextlib
import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tightframe.corpus import hub
from tightframe.corpus import tokenizer as tokenizers
from tightframe.corpus.readers import ChatTemplate
from tightframe.errors import UserError
from tightframe.formats import read_json

_FILE = "tokenizer.json"
_GGUF = ".gguf"  # ends the name of a file that holds a model and its tokenizer
_BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "config.json")  # of a model
_OURS = "manifest.json"  # beside the tokenizer of a tokens folder
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)
_INSTALL = "pip install 'tightframe[hf]'"
_PROBE = "The cat sat.\n\n  It's 1,234 \N{EN DASH} caf\N{LATIN SMALL LETTER E WITH ACUTE}!\t"

# Classes that take a tokenizer.json as it is; all others build parts of it anew.
_GENERIC = (None, "PreTrainedTokenizerFast", "TokenizersBackend")


@dataclasses.dataclass(frozen=True)
class ModelTokenizer:
    """A tokenizer and the special tokens that its model expects around a text.

    Attributes:
        source: Its file, folder or hub name, for messages.
        tokenizer: A special token that a text spells stays text; nothing is cut off or padded.
        end_of_text: Id of the token that ends a document; None where there is none.
        before: Ids that are put before every text.
        chat_template: Writes a chat as text; None where the model has no template.
        chat_template_text: That template as it was written.
    """

    source: str
    tokenizer: Tokenizer
    end_of_text: int | None
    before: tuple[int, ...] = ()
    chat_template: ChatTemplate | None = None
    chat_template_text: str = ""

    @property
    def beginning_of_sequence(self) -> int | None:
        """Id of the token that is put before every text; None where there is none."""
        if len(self.before) > 1:
            tokens = " ".join(str(self.tokenizer.id_to_token(index)) for index in self.before)
            raise UserError(
                f"{self.source}: its tokenizer begins a text with several tokens ({tokens}), "
                "expected one; use bos='never'"
            )
        return self.before[0] if self.before else None


def load_tokenizer(source: str | Path) -> ModelTokenizer:
    """Load the tokenizer of a file, a folder, or a Hugging Face name.

    Args:
        source: A model's folder, GGUF file or hub name; a tokens folder; or a tokenizer.json, which
            beside a model's files is read together with them.
    """
    path = Path(source).expanduser()
    folder = path.parent if path.name == _FILE and path.is_file() else path
    _check_found(source)
    if path.is_file() and path.suffix == _GGUF:
        return _of_model(str(path), path.parent, gguf_file=path.name)
    if folder.is_dir() and _is_model(folder):
        return _of_model(str(folder), folder)
    if path.exists():
        tokenizer = tokenizers.read(path / _FILE if path.is_dir() else path)
        return ModelTokenizer(
            str(source), tokenizer, tokenizers.end_of_text(tokenizer), _before(tokenizer)
        )
    return _of_model(str(source), None)


def check_files(source: str | Path) -> None:
    """Refuse a tokenizer whose files are damaged, without importing transformers.

    Args:
        source: A source of `load_tokenizer`; a name on the hub is left alone.
    """
    path = Path(source).expanduser()
    _check_found(source)
    for file in (path / name for name in _BESIDE):
        if file.is_file():
            read_json(file)
    if (path.is_file() and path.suffix != _GGUF) or (path / _FILE).is_file():
        tokenizers.read(path if path.is_file() else path / _FILE)


def _check_found(source: str | Path) -> None:
    """Refuse a place without a tokenizer, and what cannot be a name on the hub."""
    path = Path(source).expanduser()
    if path.is_dir() and not _is_model(path) and not (path / _FILE).is_file():
        raise UserError(f"{path}: holds no {_FILE}; expected a fast tokenizer")
    named = isinstance(source, str) and _HUB_NAME.fullmatch(source) and path.suffix != ".json"
    if not path.exists() and not named:
        raise UserError(
            f"{source}: no such tokenizer; expected a {_FILE}, a folder with one, or the name of a "
            "Hugging Face tokenizer"
        )


def _is_model(folder: Path) -> bool:
    return not (folder / _OURS).is_file() and any((folder / file).is_file() for file in _BESIDE)


def _of_model(name: str, folder: Path | None, **file: str) -> ModelTokenizer:
    try:
        from transformers import AutoTokenizer
    except ImportError:
        return _by_its_files(name, None if file else folder)
    silent = folder is None and hub.unreachable()  # then what was fetched before has to do
    local = {"local_files_only": True} if silent or folder is not None else {}
    try:
        with hub.quiet(), _quiet():
            auto = AutoTokenizer.from_pretrained(
                folder or name, trust_remote_code=False, **local, **file
            )
    except Exception as error:  # whatever the network, the hub or the files may raise
        raise _not_loaded(name, folder, silent, error) from None
    backend = getattr(auto, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise UserError(
            f"{name}: its tokenizer ({type(auto).__name__}) has no {_FILE} and cannot be converted "
            f"to one; expected a fast tokenizer"
        )
    try:
        tokenizer = tokenizers.prepared(Tokenizer.from_str(backend.to_str()))
    except Exception as error:  # parts that are written in Python
        raise UserError(
            f"{name}: its tokenizer ({type(auto).__name__}) cannot be saved as a {_FILE} "
            f"({hub.reason(error)})"
        ) from None
    with _quiet():
        before = _before(tokenizer, lambda text: _ids(auto, text))
        _check_same(name, tokenizer, auto)
    end = auto.eos_token_id
    if end is None:
        end = _end_of_config(_config(name, folder, local), tokenizer)
    template, text = _chat_template(auto, tokenizer)
    return ModelTokenizer(name, tokenizer, end, before, template, text)


def _ids(auto: Any, text: str, **options: Any) -> list[int]:
    return list(auto(text, split_special_tokens=True, verbose=False, **options)["input_ids"])


def _check_same(name: str, tokenizer: Tokenizer, auto: Any) -> None:
    """Refuse a class that does more to a text than the tokenizer that it is made of."""
    try:
        ours = tokenizer.encode(_PROBE, add_special_tokens=False).ids
    except Exception:  # it knows no token for some of it, then nor does the other
        return
    if ours != _ids(auto, _PROBE, add_special_tokens=False):
        raise UserError(
            f"{name}: its tokenizer ({type(auto).__name__}) changes a text in ways of its own, "
            f"which a {_FILE} cannot hold"
        )


def _not_loaded(name: str, folder: Path | None, silent: bool, error: Exception) -> UserError:
    if folder is None:
        why = (
            "does not answer" if silent else f"gave no tokenizer of this name ({hub.reason(error)})"
        )
        return UserError(f"{name}: no such file, and the Hugging Face hub {why}")
    check_files(folder)  # the library doesn't name the one that is damaged
    return UserError(f"{name}: its tokenizer cannot be loaded ({hub.reason(error)})")


def _before(
    tokenizer: Tokenizer, encode: Callable[[str], list[int]] | None = None
) -> tuple[int, ...]:
    """Return the ids that are put before a text, by `encode` or by the tokenizer itself."""
    # A text that every tokenizer can write, and that differs from what is put around it: one of its
    # own longest tokens.
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    for text in sorted(vocabulary, key=lambda token: (-len(token), token)):
        try:
            bare = tokenizer.encode(text, add_special_tokens=False).ids
        except Exception:  # the library raises bare Exceptions for what a vocabulary lacks
            continue
        if bare:
            full = encode(text) if encode is not None else tokenizer.encode(text).ids
            places = range(len(full) - len(bare) + 1)
            starts = [start for start in places if full[start : start + len(bare)] == bare]
            if len(starts) == 1:
                return tuple(full[: starts[0]])
    return ()


def _config(name: str, folder: Path | None, local: dict[str, Any]) -> dict[str, Any]:
    """Read a model's config.json; empty where there is none."""
    if folder is not None:
        return _read(folder / "config.json")
    from transformers import PretrainedConfig

    try:
        with hub.quiet(), _quiet():
            config: dict[str, Any] = PretrainedConfig.get_config_dict(name, **local)[0]
    except Exception:  # a tokenizer may come without a model
        return {}
    return config


def _end_of_config(config: dict[str, Any], tokenizer: Tokenizer) -> int | None:
    index = config.get("eos_token_id")
    if isinstance(index, list):  # several end a chat; the first is the tokenizer's
        index = next(iter(index), None)
    known = type(index) is int and index >= 0 and tokenizer.id_to_token(index) is not None
    return index if known else None


def _chat_template(auto: Any, tokenizer: Tokenizer) -> tuple[ChatTemplate | None, str]:
    if not auto.chat_template:
        return None, ""
    special = [str(tokenizer.id_to_token(index)) for index in tokenizers.special_ids(tokenizer)]
    first = auto.bos_token

    def write(messages: list[dict[str, Any]]) -> tuple[str, bool]:
        text: str = auto.apply_chat_template(messages, tokenize=False)
        spelled = any(token in message["content"] for message in messages for token in special)
        # Where blocks begin with it, the layout puts it there.
        return text.removeprefix(first) if first else text, spelled

    return write, json.dumps(auto.chat_template, sort_keys=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from telling of what it does while it reads a tokenizer."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _by_its_files(name: str, folder: Path | None) -> ModelTokenizer:
    """Read a model's tokenizer without transformers; refuse where its files leave a doubt."""
    if folder is None:
        raise UserError(f"{name}: a tokenizer of the hub needs transformers; {_INSTALL}")
    if not (folder / _FILE).is_file():
        raise UserError(f"{name}: has no {_FILE}; what it has needs transformers; {_INSTALL}")
    tokenizer = tokenizers.read(folder / _FILE)
    named = _read(folder / "special_tokens_map.json")
    named |= _read(folder / "tokenizer_config.json")
    config = _read(folder / "config.json")
    before = _before(tokenizer)
    try:
        doubt = _doubt(tokenizer, named, config, before)
    except (AttributeError, KeyError, TypeError, ValueError):
        doubt = "a setting of another type"
    if doubt is not None:
        raise UserError(
            f"{name}: its {_FILE} alone doesn't tell its tokens (see {doubt} in the files beside "
            f"it), and the package transformers is not installed; {_INSTALL}"
        )
    end = named.get("eos_token")
    index = None if end is None else tokenizer.token_to_id(_content(end))
    end_of_text = _end_of_config(config, tokenizer) if index is None else index
    return ModelTokenizer(name, tokenizer, end_of_text, before)


def _doubt(
    tokenizer: Tokenizer, named: dict[str, Any], config: dict[str, Any], before: tuple[int, ...]
) -> str | None:
    """Say where the files beside a tokenizer.json may change it; None where they don't."""
    its_class = named.get("tokenizer_class", config.get("tokenizer_class"))
    if its_class not in _GENERIC or (its_class is None and config.get("model_type")):
        return f"tokenizer_class {its_class}" if its_class else f"model_type {config['model_type']}"
    content = json.loads(tokenizer.to_str())
    added = {token["id"]: token for token in content["added_tokens"]}
    for index, token in (named.get("added_tokens_decoder") or {}).items():
        if added.get(int(index)) != {"id": int(index), **_properties(token)}:
            return f"added_tokens_decoder {index}"
    for role in (f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")):
        token = named.get(role)
        if token is not None and not any(t["content"] == _content(token) for t in added.values()):
            return f"{role} {_content(token)!r}"
    n_special = tokenizer.num_special_tokens_to_add(is_pair=False)
    puts = {"bos": bool(before), "eos": n_special > len(before)}
    for role, given in puts.items():
        if named.get(f"add_{role}_token") not in (None, given):
            return f"add_{role}_token"
    space = named.get("add_prefix_space")
    if space is not None and space not in _prefix_spaces(content["pre_tokenizer"]):
        return "add_prefix_space"
    return None


def _prefix_spaces(part: Any) -> set[bool]:
    """Return whether the parts of a pre-tokenizer put a space before a text."""
    parts = part.get("pretokenizers", [part]) if isinstance(part, dict) else []
    metaspace = {one["prepend_scheme"] != "never" for one in parts if "prepend_scheme" in one}
    return metaspace | {one["add_prefix_space"] for one in parts if "add_prefix_space" in one}


def _properties(token: Any) -> dict[str, Any]:
    keys = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    given = token if isinstance(token, dict) else {}
    return {"content": _content(token)} | keys | {k: given[k] for k in keys if k in given}


def _content(token: Any) -> str:
    return str(token.get("content") if isinstance(token, dict) else token)


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}
