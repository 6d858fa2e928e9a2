"""What tokens are asked for: options that go together, checked before torch is loaded."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tightframe.corpus import hub
from tightframe.corpus import tokenizer as tokenizers
from tightframe.corpus.model_tokenizer import check_files
from tightframe.corpus.sources import STORIES
from tightframe.errors import UserError, nearest

BLOCKS = ("published", "packed", "whole")  # the layouts, see `blocks`
LONGEST = 2**24  # tokens of a block: 64 MB, all of which are held to fill one
WORDS = ("word", "bpe")  # tokens of stories


def layout_of(blocks: str | None, *, generated: bool) -> str:
    """Return the layout of blocks by name: where none is given, what suits the source."""
    return blocks or ("whole" if generated else "packed")


def check_request(
    *,
    generated: bool,
    layout: str,
    block: int,
    validation_share: float,
    vocab_size: int | None,
    tokenizer: object,
    shards: int,
    bos: str,
    validation: object,
    max_tokens: int | None,
    words: str | None,
    tokens: int | None,
) -> dict[str, Any]:
    """Refuse options of `build` that are impossible, or that do not go together.

    Returns:
        Those that were given, by name.
    """
    _check_name("blocks", layout, BLOCKS)
    _check_name("words", words or WORDS[0], WORDS)
    least = 3 if layout == "whole" else 2  # end-of-text, a token, end-of-text; or two tokens
    _check_numbers(
        validation_share,
        block,
        least,
        vocab_size=vocab_size,
        shards=shards,
        max_tokens=max_tokens,
        tokens=tokens,
    )
    options = {
        "vocab_size": vocab_size,
        "tokenizer": tokenizer,
        "validation": validation,
        "max_tokens": max_tokens,
        "words": words,
        "tokens": tokens,
        "shards": shards if layout == "published" else None,
        "bos": bos if bos != "never" else None,
    }
    given = {name: value for name, value in options.items() if value is not None}
    _check_together(generated, layout, given)
    if vocab_size is not None:
        tokenizers.check_vocab_size(vocab_size)
    if isinstance(tokenizer, str | Path):
        check_files(tokenizer)
        if not Path(tokenizer).expanduser().exists():
            hub.check_available(str(tokenizer), "tokenizer.json", "tokenizer_config.json")
    return given


def _check_name(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        hint = nearest(value, known) or f"; expected one of {', '.join(known)}"
        raise UserError(f"{option}: unknown '{value}'{hint}")


def _check_numbers(validation_share: float, block: int, least: int, **counts: int | None) -> None:
    if not 0 < validation_share < 1:
        raise UserError(f"validation_share is {validation_share}; expected a number in (0, 1)")
    if block < least:
        raise UserError(f"block is {block}; expected {least} tokens or more")
    if block > LONGEST:
        raise UserError(f"block is {block:,}; expected at most {LONGEST:,} tokens")
    for option, count in counts.items():
        if count is not None and count <= 0:
            raise UserError(f"{option} is {count}; expected 1 or more")


def _check_together(generated: bool, layout: str, given: Mapping[str, Any]) -> None:
    """Refuse options that don't go with the kind of source, or with each other."""
    words, names = given.get("words"), given.keys()
    mistakes = {
        "tokenizer and vocab_size: give only one of them": {"tokenizer", "vocab_size"} <= names,
        f"bos with blocks='{layout}': only packed blocks can begin with it; use blocks='packed'": (
            "bos" in names and layout != "packed"
        ),
        "max_tokens with blocks='published': where its shards end depends on the number of "
        "documents; use shards=1": "max_tokens" in names and given.get("shards", 1) > 1,
    }
    if generated:
        mistakes |= {
            "max_tokens: stories have no end; use tokens": "max_tokens" in names,
            "validation: stories make their own; leave it out": "validation" in names,
            "words and tokenizer: give only one of them": {"words", "tokenizer"} <= names,
            "words='bpe': give a vocab_size, too": words == "bpe" and "vocab_size" not in names,
            "vocab_size: goes with words='bpe', not with 'word'": (
                words == "word" and "vocab_size" in names
            ),
        }
    else:
        mistakes |= {
            f"words: only for the source '{STORIES}'; use vocab_size": "words" in names,
            f"tokens: only for the source '{STORIES}'; use max_tokens": "tokens" in names,
            "give a vocab_size or a tokenizer": not {"vocab_size", "tokenizer"} & names,
        }
    for message, made in mistakes.items():
        if made:
            raise UserError(message)
