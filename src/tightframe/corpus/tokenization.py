"""The way from text to token shards: read, split, tokenize, cut into blocks, write.

A text that one model reads has a cache: each text, tokenizer and setting has its own folder, which
is named by the content of files (SHA-256) and the revision of a data set, so that a text that has
changed is tokenized again.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from tightframe.corpus import splits
from tightframe.corpus import tokenizer as tokenizers
from tightframe.corpus.blocks import Packed, Published, ShardWriter, Whole
from tightframe.corpus.manifest import SCHEMA, write_manifest
from tightframe.corpus.model_tokenizer import ModelTokenizer, load_tokenizer
from tightframe.corpus.options import STORIES, BuildOptions
from tightframe.corpus.readers import STRETCH_BYTES, ChatTemplate
from tightframe.corpus.shards import SPLITS, TokenShards
from tightframe.corpus.sources import HUB, Source, check_source, open_source
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

Progress = Callable[[str, float | None, int], None]
"""Called as work goes on: the stage ("tokenizer" or "tokens"), the share of the source read so far
(None where unknown), and the tokens made so far."""

# With `max_tokens` the tokenizer is trained on so many bytes of text per token: about twice what
# the split will hold, and little enough to leave most of an endless source unread.
_TRAINING_BYTES_PER_TOKEN = 8


def build_shards(
    source: str | Path | Source,
    options: BuildOptions,
    *,
    out: Path,
    tokenizer: ModelTokenizer | None = None,
    validation: Source | None = None,
    progress: Progress | None = None,
) -> TokenShards:
    """Build a folder of token shards, whole or not at all.

    A tokenizer adds no special tokens; only the layout does. A special token that the text spells
    stays text. Each split ends before the document that would exceed its part of `max_tokens`; in
    packed blocks a file that is read whole, or a first document, is cut there instead.

    Args:
        source: "stories", the generated corpus, or text: see `sources.open_source`.
        options: See `options.BuildOptions`; `options.check_build` refuses impossible ones.
        out: The folder to write; must not exist.
        tokenizer: That of the options where it is loaded already.
        validation: That of the options where it is open already.
        progress: Called as work goes on.
    """
    generated = not isinstance(source, Source) and str(source) == STORIES
    options.check(generated=generated)
    layout, block = options.layout(generated=generated), options.block
    if tokenizer is None and options.tokenizer is not None:
        tokenizer = load_tokenizer(options.tokenizer)
    with whole_folder(out) as folder:
        text = _split_text(source, options, validation, tokenizer)
        kind, own = _tokenizer(text, options, tokenizer, progress)
        encoder, end = own.tokenizer, own.end_of_text
        tokenizers.save(encoder, folder / "tokenizer.json")
        first = own.beginning_of_sequence if options.bos == "auto" else None
        makers = _makers(folder, text, layout, options, end, first)
        spelled = _tokenize(text, encoder, makers, options, progress)
        line = block - (first is not None)  # tokens of the text in a block
        entries = {split: _finish(text.name, split, makers[split], block, line) for split in SPLITS}
        notes = [note for each in text.sources for note in each.notes()]
        if spelled:
            notes.append(
                f"{text.name}: special tokens that the text spells, which this tokenizer cannot "
                f"read as text: {spelled:,}"
            )
        given = {
            name: value if isinstance(value, int) else str(value)
            for name, value in options.given(layout).items()
            if name in ("max_tokens", "shards", "tokenizer")
        }
        if layout == "packed" and end is None:
            given["separator"] = "none: the tokenizer has no end-of-text"
        known_floor = generated and layout == "whole"
        if generated and not known_floor:
            given["entropy_floor"] = (
                f"unknown: blocks='{layout}' cuts stories and so their contexts"
            )
        manifest = {
            "name": out.name,
            "source": text.description | given | {"notes": notes},
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


def _split_text(
    source: str | Path | Source,
    options: BuildOptions,
    validation: Source | None,
    tokenizer: ModelTokenizer | None,
) -> SplitText:
    """Return the documents of a source and the split of each."""
    share, seed = options.validation_share, options.seed
    if str(source) == STORIES:
        return splits.generated(usual_grammar(), options.tokens or STORIES_TOKENS, share, seed)
    template = None if tokenizer is None else tokenizer.chat_template
    if not isinstance(source, Source):
        source = _opened(source, options, template)
    if validation is None and options.validation is not None:
        validation = _opened(options.validation, options, template)
    if validation is None:
        return splits.made(source, share, seed)
    return splits.given(source, validation)


def _opened(source: str | Path, options: BuildOptions, template: ChatTemplate | None) -> Source:
    return open_source(
        source, documents=options.documents, field=options.field, chat_template=template
    )


def _tokenizer(
    text: SplitText,
    options: BuildOptions,
    given: ModelTokenizer | None,
    progress: Progress | None,
) -> tuple[str, ModelTokenizer]:
    """Return what kind the tokenizer is, for the manifest, and the tokenizer."""
    if given is not None:
        return "file" if Path(given.source).exists() else "hf", given
    if options.vocab_size is not None:
        kind, training = "bpe", _training_texts(text, options.max_tokens, progress)
        made = tokenizers.train_bpe(training, options.vocab_size)
    else:
        kind, made = "word", tokenizers.word_level(usual_grammar().words)
    return kind, ModelTokenizer(kind, made, tokenizers.end_of_text(made))


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
    options: BuildOptions,
    end: int | None,
    bos: int | None,
) -> dict[str, Published | Packed | Whole]:
    """Return the layout's maker of blocks for each split."""
    writers = {split: ShardWriter(folder, split, options.block) for split in SPLITS}
    shards = options.shards
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


def _tokenize(
    text: SplitText,
    encoder: Tokenizer,
    makers: Mapping[str, Published | Packed | Whole],
    options: BuildOptions,
    progress: Progress | None,
) -> int:
    """Encode the documents; return how many special tokens their texts came to all the same."""
    wanted = set(SPLITS)
    room: dict[str, float] = dict.fromkeys(SPLITS, math.inf)  # tokens that still fit
    if options.max_tokens is not None:
        n_val = round(options.max_tokens * options.validation_share)
        room = {"train": options.max_tokens - n_val, "val": n_val}
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
    """Write what is left of a split; return its entry of the manifest."""
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
    progress: Progress | None = None,
    **fields: Any,
) -> TokenShards:
    """Return shards of a text in packed blocks, from the cache if they have been made before.

    Processes that ask for the same shards at once wait for the one that makes them; a process that
    is killed leaves nothing that would be taken for shards.

    Args:
        source: A file, a folder or hf:NAME: see `sources.open_source`.
        tokenizer: The model's own, or its folder or hub name, see `model_tokenizer`.
        cache: Folder of the shards, one folder each.
        context: Tokens of a block, the beginning-of-sequence token included: what the model sees
            at once.
        progress: Called as tokens are made.
        fields: Further options of `BuildOptions`: bos, max_tokens, validation, documents, ...
    """
    if context < 2:
        raise UserError(
            f"context is {context}; expected 2 tokens or more: one that sees and one it predicts"
        )
    own = load_tokenizer(tokenizer) if isinstance(tokenizer, str | Path) else tokenizer
    options = BuildOptions(tokenizer=own.source, blocks="packed", block=context, **fields)
    for each in (source, options.validation):
        if each is not None:
            check_source(each)
    how: dict[str, Any] = {"documents": options.documents, "field": options.field, "pinned": True}
    how["chat_template"] = own.chat_template
    text = open_source(source, **how)
    held_out = None if options.validation is None else open_source(options.validation, **how)
    texts = [identity(each) for each in (text, held_out) if each is not None]
    share = options.validation_share if held_out is None else None
    settings = [context, options.max_tokens, share]
    content = [SCHEMA, texts, _tokenizer_identity(own, options.bos), settings]
    folder = cache / f"{_slug(source)}-{fingerprint(content)}"
    with one_at_a_time(folder):
        if not folder.exists():
            build_shards(
                text, options, out=folder, tokenizer=own, validation=held_out, progress=progress
            )
    try:
        return TokenShards.open(folder)
    except UserError as error:
        raise UserError(f"{error}; remove the folder and run again") from None


def identity(source: Source) -> Any:
    """Return what tells this text from another: neither its name, nor where it lies."""
    content = [[file.suffix, sha256(file)] for file in source.files]
    # How it is read, too: paragraphs or files, the field, the split. A data set goes by its name.
    how = {key: value for key, value in source.description.items() if key != "text" or not content}
    return how | {"files": content}


def _tokenizer_identity(own: ModelTokenizer, bos: str) -> Any:
    first = own.beginning_of_sequence if bos == "auto" else None
    content = fingerprint(own.tokenizer.to_str())
    return [content, own.end_of_text, first, own.chat_template_text]


def _slug(source: str | Path) -> str:
    """Return a name for people: the last part of the source that can stand in a file name."""
    name = str(source).removeprefix(HUB)
    return re.sub(r"[^\w-]+", "-", Path(name).stem or "text", flags=re.ASCII).strip("-") or "text"
