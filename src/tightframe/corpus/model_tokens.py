"""A text as one model reads it: shards made by its own tokenizer, made once and then opened.

Each text, tokenizer and setting has a folder of its own in a cache. What names the folder is the
content of files (SHA-256) and the revision of a data set, so a text that has changed is made anew.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tightframe.corpus.build import Bos, Progress, build
from tightframe.corpus.manifest import SCHEMA
from tightframe.corpus.model_tokenizer import ModelTokenizer, load_tokenizer
from tightframe.corpus.sources import HUB, Source, check_source, open_source
from tightframe.corpus.tokens import TokenShards
from tightframe.errors import UserError
from tightframe.files import fingerprint, one_at_a_time, sha256


def text_tokens(
    source: str | Path,
    tokenizer: str | Path | ModelTokenizer,
    *,
    cache: Path,
    context: int,
    bos: Bos,
    max_tokens: int | None,
    validation: str | Path | None = None,
    validation_share: float = 0.1,
    documents: str = "paragraphs",
    field: str = "text",
    progress: Progress | None = None,
) -> TokenShards:
    """Shards of a text in packed blocks, from the cache if they have been made before.

    Processes that ask for the same shards at once wait for the one that makes them; a process that
    is killed leaves nothing that would be taken for shards.

    Args:
        source: A file, a folder or hf:NAME: see `sources.open_source`.
        tokenizer: The model's own, or its folder or hub name, see `model_tokenizer`.
        cache: Folder of the shards, one folder each.
        context: Tokens of a block, the beginning-of-sequence token included: what the model sees
            at once.
        bos: "auto" begins every block with the token that the model's tokenizer puts before a
            sequence, if it does; "never" does not.
        max_tokens: At most so many tokens of text, train and validation together; None is all.
        validation: A source of its own for validation.
        validation_share: Otherwise, the share of `source` that is kept for it, in (0, 1).
        documents: Of .txt and .md files: "paragraphs" or "files".
        field: Of .jsonl, .parquet and data sets: where the text is.
        progress: Called as tokens are made.
    """
    if context < 2:
        raise UserError(
            f"context is {context}; expected 2 tokens or more: one that sees and one it predicts"
        )
    for each in (source, validation):
        if each is not None:
            check_source(each)
    own = load_tokenizer(tokenizer) if isinstance(tokenizer, str | Path) else tokenizer
    how: dict[str, Any] = {"documents": documents, "field": field, "pinned": True}
    how["chat_template"] = own.chat_template
    text = open_source(source, **how)
    held_out = None if validation is None else open_source(validation, **how)
    texts = [_identity(each) for each in (text, held_out) if each is not None]
    share = validation_share if held_out is None else None
    settings = [context, max_tokens, share]
    content = [SCHEMA, texts, _tokenizer_identity(own, bos), settings]
    folder = cache / f"{_slug(source)}-{fingerprint(content)}"

    def make() -> None:
        build(
            text,
            out=folder,
            tokenizer=own,
            blocks="packed",
            block=context,
            bos=bos,
            validation=held_out,
            validation_share=validation_share,
            max_tokens=max_tokens,
            progress=progress,
        )

    return _made_once(folder, make)


def _made_once(folder: Path, make: Callable[[], None]) -> TokenShards:
    with one_at_a_time(folder):
        if not folder.exists():
            make()
    try:
        return TokenShards.open(folder)
    except UserError as error:
        raise UserError(f"{error}; remove the folder and run again") from None


def _identity(source: Source) -> Any:
    """What tells this text from another: not its name, nor where it lies."""
    content = [[file.suffix, sha256(file)] for file in source.files]
    # How it is read, too: paragraphs or files, the field, the split. A data set goes by its name.
    how = {key: value for key, value in source.description.items() if key != "text" or not content}
    return how | {"files": content}


def _tokenizer_identity(own: ModelTokenizer, bos: Bos) -> Any:
    first = own.beginning_of_sequence if bos == "auto" else None
    content = fingerprint(own.tokenizer.to_str())
    return [content, own.end_of_text, first, own.chat_template_text]


def _slug(source: str | Path) -> str:
    """A name for people: the last part of the source, as far as it can stand in a file name."""
    name = str(source).removeprefix(HUB)
    return re.sub(r"[^\w-]+", "-", Path(name).stem or "text", flags=re.ASCII).strip("-") or "text"
