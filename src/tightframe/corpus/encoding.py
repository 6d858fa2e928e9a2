"""Documents to token ids, a batch at a time; the tokenizer's own threads share a batch."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Int32
from tokenizers import Tokenizer, models, pre_tokenizers

from tightframe.corpus import hub
from tightframe.corpus.sources import Document
from tightframe.errors import UserError

BATCH_DOCUMENTS = 1_000
BATCH_BYTES = 2**21

Ids = Int32[np.ndarray, " n"]


def encoded(
    documents: Iterable[tuple[str, Document]], tokenizer: Tokenizer
) -> Iterator[list[tuple[str, Document, Ids]]]:
    """Batches of documents with their split and ids; reads no more than a batch ahead.

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
    """Whether a tokenizer is as `word_level` makes them: splitting and looking up is 10x faster."""
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
