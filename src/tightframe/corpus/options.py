"""Options of `tightframe corpus build`, each documented here alone, and their checks.

Nothing heavy is imported: the command line shows these options in its help, and a request that is
impossible is refused before torch is loaded.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from tightframe.corpus import hub
from tightframe.errors import UserError, nearest

STORIES = "stories"  # the generated corpus, as a source
BLOCKS = ("published", "packed", "whole")  # the layouts, see `blocks`
LONGEST = 2**24  # tokens of a block: 64 MB, all of which are held to fill one
WORDS = ("word", "bpe")  # tokens of stories


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Options of the way from a text to token shards.

    Args:
        vocab_size: Train a byte-level BPE of this size on the training split.
        tokenizer: Use this one instead: a tokenizer.json, a folder that holds one, or a hub name.
        blocks: How documents become blocks: whole (documents stay whole; default for stories),
            packed (an end-of-text token between documents, nothing dropped; default for other
            text), or published (as in Wu & Papyan 2024).
        block: Tokens per block; the first is context only.
        shards: With published blocks: contiguous parts that the documents are dealt to.
        bos: With packed blocks: auto begins each block with the token that the tokenizer (or the
            configuration beside it) puts before a text; it is context only.
        validation: A separate source for validation; otherwise a share of the source is kept for
            it.
        validation_share: Share of the text that is kept for validation, in (0, 1).
        documents: In text files, a document is a paragraph (split at blank lines) or a whole file.
        field: Field or column that holds the text, in records and tables (meta.text for a nested
            one).
        words: For the generated corpus: one token per word (default), or BPE.
        tokens: For the generated corpus: its length in words (default: a million).
        max_tokens: For other text: stop after this many tokens, training and validation together.
        seed: Seed of the generated corpus, and of the choice of validation documents.
    """

    vocab_size: int | None = None
    tokenizer: Annotated[str | Path, str] | None = None
    blocks: Annotated[str, Literal["whole", "packed", "published"]] | None = None
    block: int = 256
    shards: int = 2
    bos: Annotated[str, Literal["auto", "never"]] = "never"
    validation: Annotated[str | Path, str] | None = None
    validation_share: float = 0.1
    documents: Annotated[str, Literal["paragraphs", "files"]] = "paragraphs"
    field: str = "text"
    words: Annotated[str, Literal["word", "bpe"]] | None = None
    tokens: int | None = None
    max_tokens: int | None = None
    seed: int = 0

    def layout(self, *, generated: bool) -> str:
        """Return the layout of blocks by name: by default what suits the source."""
        return self.blocks or ("whole" if generated else "packed")

    def given(self, layout: str) -> dict[str, Any]:
        """Return the options that were set and that not every layout or source has, by name."""
        options = {
            name: getattr(self, name)
            for name in ("vocab_size", "tokenizer", "validation", "max_tokens", "words", "tokens")
        }
        options["shards"] = self.shards if layout == "published" else None
        options["bos"] = self.bos if self.bos != "never" else None
        return {name: value for name, value in options.items() if value is not None}

    def check(self, *, generated: bool) -> None:
        """Refuse options that are impossible, or that do not go together."""
        layout = self.layout(generated=generated)
        _check_name("blocks", layout, BLOCKS)
        _check_name("words", self.words or WORDS[0], WORDS)
        _check_name("bos", self.bos, ("auto", "never"))
        minimum = 3 if layout == "whole" else 2  # end-of-text, a token, end-of-text; or two tokens
        if not 0 < self.validation_share < 1:
            raise UserError(
                f"validation_share is {self.validation_share}; expected a number in (0, 1)"
            )
        if self.block < minimum:
            raise UserError(f"block is {self.block}; expected {minimum} tokens or more")
        if self.block > LONGEST:
            raise UserError(f"block is {self.block:,}; expected at most {LONGEST:,} tokens")
        for name in ("vocab_size", "shards", "max_tokens", "tokens"):
            count = getattr(self, name)
            if count is not None and count <= 0:
                raise UserError(f"{name} is {count}; expected 1 or more")
        for message, made in self._mistakes(generated, layout).items():
            if made:
                raise UserError(message)

    def check_tokenizer(self) -> None:
        """Refuse a vocabulary that cannot be trained, and a tokenizer that cannot be loaded."""
        from tightframe.corpus.model_tokenizer import check_files
        from tightframe.corpus.tokenizer import check_vocab_size

        if self.vocab_size is not None:
            check_vocab_size(self.vocab_size)
        if self.tokenizer is not None:
            check_files(self.tokenizer)
            if not Path(self.tokenizer).expanduser().exists():
                hub.check_available(str(self.tokenizer), "tokenizer.json", "tokenizer_config.json")

    def _mistakes(self, generated: bool, layout: str) -> dict[str, bool]:
        """Return what to say of options that don't go with the source, or with each other."""
        given = self.given(layout)
        names, words = given.keys(), self.words
        mistakes = {
            "tokenizer and vocab_size: give only one of them": {"tokenizer", "vocab_size"} <= names,
            f"bos with blocks='{layout}': only packed blocks can begin with it; use "
            "blocks='packed'": "bos" in names and layout != "packed",
            "max_tokens with blocks='published': where its shards end depends on the number of "
            "documents; use shards=1": "max_tokens" in names and given.get("shards", 1) > 1,
        }
        if generated:
            return mistakes | {
                "max_tokens: stories have no end; use tokens": "max_tokens" in names,
                "validation: stories make their own; leave it out": "validation" in names,
                "words and tokenizer: give only one of them": {"words", "tokenizer"} <= names,
                "words='bpe': give a vocab_size, too": words == "bpe" and "vocab_size" not in names,
                "vocab_size: goes with words='bpe', not with 'word'": (
                    words == "word" and "vocab_size" in names
                ),
            }
        return mistakes | {
            f"words: only for the source '{STORIES}'; use vocab_size": "words" in names,
            f"tokens: only for the source '{STORIES}'; use max_tokens": "tokens" in names,
            "give a vocab_size or a tokenizer": not {"vocab_size", "tokenizer"} & names,
        }


def _check_name(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        hint = nearest(value, known) or f"; expected one of {', '.join(known)}"
        raise UserError(f"{option}: unknown '{value}'{hint}")
