"""The way from text to token shards: read, split, tokenize, cut into blocks, write.

Each text, tokenizer and setting has a folder of its own in a cache. What names the folder is the
content of files (SHA-256) and the revision of a data set, so a text that has changed is made anew.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tokenizers import Tokenizer

from tightframe.corpus import splits
from tightframe.corpus import tokenizer as tokenizers
from tightframe.corpus.blocks import Packed, Published, ShardWriter, Whole
from tightframe.corpus.manifest import SCHEMA, write_manifest
from tightframe.corpus.model_tokenizer import ModelTokenizer, load_tokenizer
from tightframe.corpus.options import check_request, layout_of
from tightframe.corpus.readers import STRETCH_BYTES, ChatTemplate
from tightframe.corpus.shards import SPLITS, TokenShards
from tightframe.corpus.sources import HUB, STORIES, Source, check_source, open_source
from tightframe.corpus.splits import (
    BATCH_DOCUMENTS,
    SplitText,
    bytes_of_first,
    encoded,
    entropy_floor,
)
from tightframe.corpus.stories import usual_grammar
from tightframe.errors import UserError
from tightframe.files import fingerprint, one_at_a_time, sha256, whole_folder

STORIES_TOKENS = 1_000_000

Bos = Literal["auto", "never"]
"""Whether blocks begin with the beginning-of-sequence token that the tokenizer's model expects."""

Progress = Callable[[str, float | None, int], None]
"""Called as work goes on: the stage ("tokenizer" or "tokens"), the share of the source read so far
(None where unknown), and the tokens made so far."""

# With `max_tokens` the tokenizer is trained on so many bytes of text a token: about twice what
# the split will hold, and little enough to leave most of an endless source unread.
_TRAINING_BYTES_PER_TOKEN = 8


def build(
    source: str | Path | Source,
    *,
    out: str | Path,
    vocab_size: int | None = None,
    tokenizer: str | Path | ModelTokenizer | None = None,
    blocks: str | None = None,
    block: int = 256,
    shards: int = 2,
    bos: Bos = "never",
    validation: str | Path | Source | None = None,
    validation_share: float = 0.1,
    seed: int = 0,
    documents: str = "paragraphs",
    field: str = "text",
    max_tokens: int | None = None,
    words: str | None = None,
    tokens: int | None = None,
    progress: Progress | None = None,
) -> TokenShards:
    """Build a folder of token shards, whole or not at all.

    Args:
        source: "stories", the generated corpus, or text: see `sources.open_source`.
        out: The folder to write; must not exist.
        vocab_size: Train a byte-level BPE of so many tokens on the training split.
        tokenizer: Or take this one: see `model_tokenizer`. It adds no special tokens; only the
            layout does. A special token that the text spells stays text.
        blocks: Layout by name, see `blocks`; None is "whole" for stories, "packed" for text.
        block: Tokens of a block.
        shards: Of blocks="published": contiguous shards that the documents are dealt to.
        bos: Of blocks="packed": "auto" begins every block with the token that the tokenizer, or
            its model's configuration, puts before a sequence; "never" does not. It is context
            only, never a label.
        validation: Source of the validation split; None makes one of `source`: see `splits`.
        validation_share: Share in (0, 1) of what is made: of a source, of stories' tokens, and
            of `max_tokens`.
        seed: Draws the validation split, and the stories.
        documents: Of .txt files: what stands between blank lines, or each file as one.
        field: Of .jsonl, .parquet and data sets: where the text is.
        max_tokens: At most so many tokens of text, train and validation together, end-of-text
            not counted: each split ends before the document that would exceed its part. In packed
            blocks a file that is read whole, or a first document, is cut there instead.
        words: Of stories: "word", one word one token, or "bpe"; None is "bpe" if a `vocab_size`
            is given.
        tokens: Of stories: how many to generate, train and validation together; None is
            1,000,000.
        progress: Called as work goes on.
    """
    generated = not isinstance(source, Source) and str(source) == STORIES
    layout = layout_of(blocks, generated=generated)
    given = check_request(
        generated=generated,
        layout=layout,
        block=block,
        validation_share=validation_share,
        vocab_size=vocab_size,
        tokenizer=tokenizer,
        shards=shards,
        bos=bos,
        validation=validation,
        max_tokens=max_tokens,
        words=words,
        tokens=tokens,
    )
    own = load_tokenizer(tokenizer) if isinstance(tokenizer, str | Path) else tokenizer
    template = None if own is None else own.chat_template
    out = Path(out)
    with whole_folder(out) as folder:
        if generated:
            n_tokens = tokens or STORIES_TOKENS
            text = splits.generated(usual_grammar(), n_tokens, validation_share, seed)
        elif validation is None:
            text = splits.made(_open(source, documents, field, template), validation_share, seed)
        else:
            train = _open(source, documents, field, template)
            text = splits.given(train, _open(validation, documents, field, template))
        kind, own = _tokenizer(text, vocab_size, own, max_tokens, progress)
        encoder, end = own.tokenizer, own.end_of_text
        tokenizers.save(encoder, folder / "tokenizer.json")
        first = own.beginning_of_sequence if bos == "auto" else None
        makers = _makers(folder, text, layout, block, shards, end, first)
        spelled = _tokenize(text, encoder, makers, _room(max_tokens, validation_share), progress)
        line = block - (first is not None)  # tokens of the text in a block
        entries = {split: _finish(text.name, split, makers[split], block, line) for split in SPLITS}
        known_floor = generated and layout == "whole"
        how = _how(given, layout, generated=generated, ended=end is not None)
        notes = [note for each in text.sources for note in each.notes()]
        if spelled:
            notes.append(
                f"{text.name}: special tokens that the text spells, which this tokenizer cannot "
                f"read as text: {spelled:,}"
            )
        manifest = {
            "name": out.name,
            "source": text.description | how | {"notes": notes},
            "blocks": layout,
            "block": block,
            "vocab_size": tokenizers.vocab_size(encoder),
            "end_of_text": end,
            "bos": first,
            "tokenizer": {"kind": kind, "sha256": sha256(folder / "tokenizer.json")},
            "splits": entries,
            "entropy_floor": entropy_floor(text, entries["val"]["labels"]) if known_floor else None,
        }
        write_manifest(folder, manifest)
    return TokenShards.open(out)


def _open(
    source: str | Path | Source, documents: str, field: str, template: ChatTemplate | None
) -> Source:
    if isinstance(source, Source):
        return source
    return open_source(source, documents=documents, field=field, chat_template=template)


def _tokenizer(
    text: SplitText,
    vocab_size: int | None,
    given: ModelTokenizer | None,
    max_tokens: int | None,
    progress: Progress | None,
) -> tuple[str, ModelTokenizer]:
    """Return what kind the tokenizer is, for the manifest, and the tokenizer."""
    if given is not None:
        return "file" if Path(given.source).exists() else "hf", given
    if vocab_size is not None:
        kind, training = "bpe", _training_texts(text, max_tokens, progress)
        made = tokenizers.train_bpe(training, vocab_size)
    else:
        kind, made = "word", tokenizers.word_level(usual_grammar().words)
    return kind, ModelTokenizer(kind, made, tokenizers.end_of_text(made))


def _how(
    given: Mapping[str, Any], layout: str, *, generated: bool, ended: bool
) -> dict[str, int | str]:
    """What the manifest says of the way from the text to tokens, beside the text itself."""
    how = {
        name: value if isinstance(value, int) else str(getattr(value, "source", value))
        for name, value in given.items()
        if name in ("max_tokens", "shards", "tokenizer")
    }
    if layout == "packed" and not ended:
        how["separator"] = "none: the tokenizer has no end-of-text"
    if generated and layout != "whole":
        how["entropy_floor"] = f"unknown: blocks='{layout}' cuts stories and so their contexts"
    return how


def _training_texts(
    text: SplitText, max_tokens: int | None, progress: Progress | None
) -> Iterator[str]:
    left = math.inf if max_tokens is None else _TRAINING_BYTES_PER_TOKEN * max_tokens
    for count, (_, document) in enumerate(text.read({"train"})):
        if left <= 0:
            return
        left -= document.n_bytes
        if progress and count % BATCH_DOCUMENTS == 0:
            progress("tokenizer", document.done, 0)
        yield document.text


def _makers(
    folder: Path,
    text: SplitText,
    layout: str,
    block: int,
    shards: int,
    end: int | None,
    bos: int | None,
) -> dict[str, Published | Packed | Whole]:
    """The layout's maker of blocks for each split."""
    writers = {split: ShardWriter(folder, split, block) for split in SPLITS}
    if layout == "published":
        # One shard is groups of 1,000 to the end; more need to know where that is.
        counts = Counter(split for split, _ in text.read(set(SPLITS))) if shards > 1 else None
        return {
            split: Published(
                writer, shards=shards, n_documents=None if counts is None else counts[split]
            )
            for split, writer in writers.items()
        }
    if layout == "packed":
        return {split: Packed(writer, end=end, bos=bos) for split, writer in writers.items()}
    if end is None:
        raise UserError(
            "blocks='whole' puts an end-of-text token between documents and the tokenizer has "
            "none; use another tokenizer or blocks='packed'"
        )
    return {split: Whole(writer, end=end) for split, writer in writers.items()}


def _room(max_tokens: int | None, validation_share: float) -> dict[str, int | float]:
    """How many tokens each split may hold."""
    if max_tokens is None:
        return dict.fromkeys(SPLITS, math.inf)
    n_val = round(max_tokens * validation_share)
    return {"train": max_tokens - n_val, "val": n_val}


def _tokenize(
    text: SplitText,
    encoder: Tokenizer,
    makers: Mapping[str, Published | Packed | Whole],
    room: dict[str, int | float],
    progress: Progress | None,
) -> int:
    """Encode the documents; return how many special tokens their texts came to all the same."""
    wanted = set(SPLITS)
    special = np.array(sorted(tokenizers.special_ids(encoder)), dtype=np.int32)
    units: dict[str, int] = {}  # the unit that each split has last
    n_tokens = spelled = 0
    for batch in encoded(text.read(wanted), encoder):
        for split, document, ids in batch:
            if split not in wanted:
                continue
            maker, n_bytes = makers[split], document.n_bytes
            if len(ids) > room[split]:
                wanted.discard(split)
                if not isinstance(maker, Packed) or (maker.n_tokens and not document.stretch):
                    continue
                ids = ids[: int(room[split])]
                n_bytes = bytes_of_first(len(ids), document, encoder)
            room[split] -= len(ids)
            n_tokens += len(ids)
            spelled += 0 if document.templated else int(np.isin(ids, special).sum())
            if not (document.stretch and units.get(split) == document.unit):
                maker.add(ids, n_bytes)
            elif isinstance(maker, Packed):
                maker.add(ids, n_bytes, goes_on=True)
            else:
                raise UserError(
                    f"{text.name}: holds a file of more than {STRETCH_BYTES >> 20} MiB, too long "
                    "for one document of such blocks; use blocks='packed' or documents='paragraphs'"
                )
            units[split] = document.unit
        if progress:
            progress("tokens", batch[-1][1].done, n_tokens)
    return spelled


def _finish(
    name: str, split: str, maker: Published | Packed | Whole, block: int, line: int
) -> dict[str, Any]:
    """Write what is left of a split; its entry of the manifest."""
    entry = maker.finish()
    if maker.n_tokens < line or not entry["blocks"]:
        what = f"a group of the {split} text" if maker.n_tokens >= line else f"the {split} text"
        raise UserError(
            f"{name}: a block of {block:,} is longer than {what} ({maker.n_tokens:,} tokens in "
            "all); use smaller blocks (a smaller context) or more text"
        )
    return entry


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
