"""The tokens that a model's text is given: what ends a document, what begins a sequence.

`tokenizer.json` holds them, but only the files beside it say which they are:
`tokenizer_config.json`, `special_tokens_map.json` and `config.json`, of a folder or of the hub.
They are read as JSON; no code comes with them.
"""

import itertools
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tightframe.corpus import hub
from tightframe.corpus import tokenizer as tokenizers
from tightframe.errors import UserError
from tightframe.formats import read_json


def end_of_text(source: str | Path, tokenizer: Tokenizer) -> int | None:
    """Id of the token that ends a document: by its usual names, or as the model's files say.

    Args:
        source: Where `tokenizer.load` found the tokenizer.
        tokenizer: What it loaded.
    """
    usual = tokenizers.end_of_text(tokenizer)
    return _named(source, tokenizer, "eos") if usual is None else usual


def beginning_of_sequence(source: str | Path, tokenizer: Tokenizer) -> int | None:
    """Id of the token that the model has seen before every sequence; None where there is none.

    `add_bos_token` of `tokenizer_config.json` decides where it is given, as it does for
    `transformers`; otherwise what the tokenizer itself puts before a text.

    Args:
        source: Where `tokenizer.load` found the tokenizer.
        tokenizer: What it loaded.
    """
    told = _read(source, "tokenizer_config.json").get("add_bos_token")
    if told is None:
        return _prepended(source, tokenizer)
    return _named(source, tokenizer, "bos") if told else None


def _named(source: str | Path, tokenizer: Tokenizer, role: str) -> int | None:
    """Id of the token that the files call the `role` ("bos", "eos"), if the tokenizer has it."""
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _read(source, file).get(f"{role}_token")
        if isinstance(token, dict):  # an AddedToken
            token = token.get("content")
        index = tokenizer.token_to_id(token) if isinstance(token, str) else None
        if index is not None:
            return index
    index = _read(source, "config.json").get(f"{role}_token_id")
    if isinstance(index, list):  # several end a chat; the first is the tokenizer's
        index = next(iter(index), None)
    known = type(index) is int and index >= 0 and tokenizer.id_to_token(index) is not None
    return index if known else None


def _prepended(source: str | Path, tokenizer: Tokenizer) -> int | None:
    if not tokenizer.num_special_tokens_to_add(is_pair=False):
        return None
    # A text that every tokenizer can write: its own longest token.
    text = max(tokenizer.get_vocab(with_added_tokens=False), key=lambda token: (len(token), token))
    encoding = tokenizer.encode(text)
    places = zip(encoding.ids, encoding.sequence_ids, strict=True)  # no sequence: was added
    before = [index for index, _ in itertools.takewhile(lambda place: place[1] is None, places)]
    if len(before) > 1:
        tokens = " ".join(str(tokenizer.id_to_token(index)) for index in before)
        raise UserError(
            f"{source}: its tokenizer begins a text with several tokens ({tokens}), expected one; "
            "use bos='never'"
        )
    return before[0] if before else None


def _read(source: str | Path, file: str) -> dict[str, Any]:
    """A JSON object that lies beside `tokenizer.json`; empty where there is none."""
    path = Path(source)
    if path.exists():
        found = (path if path.is_dir() else path.parent) / file
    else:
        fetched = hub.fetch(str(source), file)
        if fetched is None:
            return {}
        found = fetched
    content = read_json(found) if found.is_file() else {}
    return content if isinstance(content, dict) else {}
