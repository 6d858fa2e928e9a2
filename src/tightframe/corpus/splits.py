"""Choose which documents train and which validate, and encode them to token ids.

Neighbouring paragraphs never lie on both sides of a random cut: a model that has read one knows
too much of the other. So a made validation split takes units (a file, a record) whole, one of
every 1 / share consecutive ones, at a place drawn by the seed. A unit that alone is longer than
the share of its whole source is too long to be taken whole: its last share is validation, from the
first document that begins there, or, within a document that is as long, from its next line.

Documents are encoded in batches; the tokenizer's own threads share a batch.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32
from tokenizers import Tokenizer, models, pre_tokenizers

from tightframe.corpus import hub
from tightframe.corpus.sources import Document, Source
from tightframe.corpus.stories import Grammar, usual_grammar
from tightframe.errors import UserError

BATCH_DOCUMENTS, BATCH_BYTES = 1_000, 2**21  # encoded at once, at most

Ids = Int32[np.ndarray, " n"]

RULE = (
    "one unit (a text file, or a record) of every 1 / share, drawn by the seed; "
    "of a unit longer than the share of its source, the last share"
)


@dataclasses.dataclass(frozen=True)
class SplitText:
    """Documents and the split of each, "train" or "val"; the same at every reading.

    `read(wanted)` yields the documents of the wanted splits. Whoever reads takes a split out of
    `wanted` once it has enough of it, and reading goes on no further than the rest needs.
    """

    name: str
    description: dict[str, Any]  # what it is and how it was split, for the manifest
    read: Callable[[set[str]], Iterator[tuple[str, Document]]]
    sources: tuple[Source, ...] = ()  # what it is read from


def made(source: Source, share: float, seed: int) -> SplitText:
    """Split one source by the rule above; `share` in (0, 1) is of its units, or of a long one."""

    def read(wanted: set[str]) -> Iterator[tuple[str, Document]]:
        for split, document in _divide(source, share, seed):
            if not wanted:
                return
            if split in wanted:
                yield split, document

    how = {"validation": RULE, "validation_share": share, "seed": seed}
    return SplitText(source.name, source.description | how, read, (source,))


def given(train: Source, validation: Source) -> SplitText:
    """Use all of one source for training and all of another for validation."""

    def read(wanted: set[str]) -> Iterator[tuple[str, Document]]:
        for split, source in (("train", train), ("val", validation)):
            documents = source.read() if split in wanted else iter(())
            for document in documents:
                yield split, document
                if split not in wanted:
                    break

    described = train.description | {"validation": validation.description}
    return SplitText(train.name, described, read, (train, validation))


def generated(grammar: Grammar, n_tokens: int, share: float, seed: int) -> SplitText:
    """Split generated stories: two streams with seeds of their own.

    Args:
        grammar: The grammar that generates them.
        n_tokens: Words and ends, train and validation together.
        share: Share of them that is validation, in (0, 1).
        seed: Seed of both streams.
    """
    seeds = np.random.SeedSequence(seed).generate_state(2).tolist()
    n_val = round(n_tokens * share)
    streams = {"train": (n_tokens - n_val, seeds[0]), "val": (n_val, seeds[1])}

    def read(wanted: set[str]) -> Iterator[tuple[str, Document]]:
        made = 0
        for split in [split for split in streams if split in wanted]:
            for unit, words in enumerate(grammar.generate(*streams[split])):
                text = " ".join(words)
                n_bytes = len(text.encode())
                yield split, Document(text, n_bytes, unit, n_bytes, 0.0, min(1.0, made / n_tokens))
                made += len(words) + 1

    how = {"text": "stories", "tokens": n_tokens, "validation": "a stream of its own"}
    return SplitText("stories", how | {"validation_share": share, "seed": seed}, read)


def _divide(source: Source, share: float, seed: int) -> Iterator[tuple[str, Document]]:
    longest = math.inf if source.n_bytes is None else share * source.n_bytes
    drawn = _one_of_every(1 / share, seed)
    for _, unit in itertools.groupby(source.read(), lambda document: document.unit):
        first = next(unit)
        # Documents of a long unit go by their place; nothing is drawn for it.
        long = first.unit_bytes > longest
        whole = None if long else "val" if next(drawn) else "train"
        for document in itertools.chain([first], unit):
            if whole or document.place >= 1 - share:
                yield whole or "val", document
            elif document.n_bytes > longest and document.place + document.share > 1 - share:
                yield from _cut(document, (1 - share - document.place) / document.share)
            else:
                yield "train", document


def _one_of_every(n: float, seed: int) -> Iterator[bool]:
    """Yield True once in every `n` consecutive places (n >= 1), at a random one of them."""
    rng = np.random.default_rng(seed)
    start = 0
    for window in itertools.count(1):
        stop = max(start + 1, math.ceil(window * n))
        chosen = rng.integers(start, stop)
        yield from (place == chosen for place in range(start, stop))
        start = stop


def _cut(document: Document, share: float) -> Iterator[tuple[str, Document]]:
    """Cut a long document after a share of it; all trains if it has no white space to be cut at."""
    text = document.text
    mark, end = int(share * len(text)), len(text.rstrip())
    places = [text.find(space, mark, end) for space in "\n "]
    after = next((place + 1 for place in places if place >= 0), len(text))
    for split, part in (("train", text[:after]), ("val", text[after:])):
        if part.strip():
            yield split, document._replace(text=part, n_bytes=len(part.encode()))


def entropy_floor(text: SplitText, n_labels: int) -> dict[str, float | int]:
    """Return the loss that no model can beat on the validation stories, in nats per label token.

    Sums over stories, exact under the grammar, divided by the number of labels: for word-level
    tokens that is the number of words and ends; for other tokens the same nats are shared by as
    many labels as they are cut into.

    Returns:
        mean_conditional_entropy: Entropy of the next word given its story, at these positions.
        realised_nll: -ln of the true probability of what did follow.
        positions: `n_labels`.
        standard_error: That of realised_nll - mean_conditional_entropy, 0 on average: how
            far the two lie apart by chance. The differences at single words are uncorrelated.
    """
    grammar = usual_grammar()
    entropy = nll = squares = 0.0
    for _, document in text.read({"val"}):
        score = grammar.score(document.text.split())
        entropy += float(score.entropy.sum())
        nll += float(score.nll.sum())
        squares += float(np.square(score.nll - score.entropy).sum())
    return {
        "mean_conditional_entropy": entropy / n_labels,
        "realised_nll": nll / n_labels,
        "positions": n_labels,
        "standard_error": math.sqrt(squares) / n_labels,
    }


def encoded(
    documents: Iterable[tuple[str, Document]], tokenizer: Tokenizer
) -> Iterator[list[tuple[str, Document, Ids]]]:
    """Yield batches of documents with their split and ids, reading at most one batch ahead.

    The tokenizer adds no special tokens and reads none from a text; only in a chat that a template
    wrote are they tokens.
    """
    splitting = _only_splits(tokenizer)
    ids_of_word = tokenizer.get_vocab() if splitting else {}
    for batch in _batches(documents):
        texts = [document.text for _, document in batch]
        templated = [document.templated for _, document in batch]
        try:
            if splitting:
                ids = [[ids_of_word[word] for word in text.split()] for text in texts]
            else:
                ids = _encode(texts, templated, tokenizer)
        except Exception as error:  # an unknown word; the library raises bare Exceptions
            raise UserError(
                f"the tokenizer cannot write all of this text ({hub.reason(error)}); "
                "use one that can"
            ) from None
        yield [
            (split, document, np.array(row, dtype=np.int32))
            for (split, document), row in zip(batch, ids, strict=True)
        ]


def bytes_of_first(n: int, document: Document, tokenizer: Tokenizer) -> int:
    """Return how many bytes of a document's text its first `n` tokens stand for, in UTF-8."""
    if not n:
        return 0
    tokenizer.encode_special_tokens = not document.templated
    encoding = tokenizer.encode(document.text, add_special_tokens=False)
    tokenizer.encode_special_tokens = True
    span = encoding.token_to_chars(n - 1)
    assert span is not None  # every token is of the text
    return len(document.text[: span[1]].encode())


def _encode(
    texts: Sequence[str], templated: Sequence[bool], tokenizer: Tokenizer
) -> list[list[int]]:
    ids: list[list[int]] = [[]] * len(texts)
    for special in set(templated):
        rows = [row for row, value in enumerate(templated) if value == special]
        tokenizer.encode_special_tokens = not special  # to encode them as text, that is
        made = tokenizer.encode_batch_fast([texts[row] for row in rows], add_special_tokens=False)
        for row, encoding in zip(rows, made, strict=True):
            ids[row] = encoding.ids
    tokenizer.encode_special_tokens = True
    return ids


def _only_splits(tokenizer: Tokenizer) -> bool:
    """Return whether `word_level` made a tokenizer: splitting and looking up is 10x faster."""
    return (
        isinstance(tokenizer.model, models.WordLevel)
        and tokenizer.normalizer is None
        and isinstance(tokenizer.pre_tokenizer, pre_tokenizers.WhitespaceSplit)
        and tokenizer.token_to_id(tokenizer.model.unk_token) is None
    )


def _batches(
    documents: Iterable[tuple[str, Document]],
) -> Iterator[list[tuple[str, Document]]]:
    batch: list[tuple[str, Document]] = []
    n_bytes = 0
    for split, document in documents:
        batch.append((split, document))
        n_bytes += document.n_bytes
        if len(batch) == BATCH_DOCUMENTS or n_bytes >= BATCH_BYTES:
            yield batch
            batch, n_bytes = [], 0
    if batch:
        yield batch
