from pathlib import Path

import numpy as np
import pytest

from reference import blocks as reference
from tightframe.corpus import blocks
from tightframe.corpus.blocks import Packed, Published, ShardWriter, Whole
from tightframe.errors import UserError

END = 0


@pytest.fixture(autouse=True, params=[40, 2**20])
def chunk(request, monkeypatch):
    """Every test holds however much is written at once."""
    monkeypatch.setattr(blocks, "_CHUNK_TOKENS", request.param)


class _Rows(ShardWriter):
    """Keeps what it is given instead of writing it."""

    def __init__(self, block):
        super().__init__(Path(), "train", block)
        self.rows, self.lengths, self.starts = [], [], []

    def write(self, tokens, lengths, documents):
        self.starts += [int(start) + len(self.rows) * self.block for start in documents]
        self.rows += tokens.tolist()
        self.lengths += lengths.tolist()

    def close(self, *, n_bytes):
        self.n_bytes = n_bytes
        return {"blocks": len(self.rows)}

    @property
    def kept(self):
        """Rows without their padding."""
        return [row[:n] for row, n in zip(self.rows, self.lengths, strict=True)]


def _documents(seed, n, longest, *, shortest=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(shortest, longest + 1, n)
    return [rng.integers(1, 50, length).tolist() for length in lengths]


def _add(maker, documents, *, bytes_per_token=3):
    for document in documents:
        maker.add(np.array(document, dtype=np.int32), bytes_per_token * len(document))
    maker.finish()


@pytest.mark.parametrize("bos", [None, 7])
def test_pieces_of_one_document_have_nothing_between_them(bos):
    documents = _documents(0, 12, 30, shortest=2)
    whole, pieces = _Rows(8), _Rows(8)
    _add(Packed(whole, end=END, bos=bos), documents)
    maker = Packed(pieces, end=END, bos=bos)
    for document in documents:
        ids = np.array(document, dtype=np.int32)
        cuts = np.split(ids, [1, len(ids) // 2])
        for number, part in enumerate(cuts):
            maker.add(part, 3 * len(part), goes_on=number > 0)
    maker.finish()
    assert pieces.kept == whole.kept
    assert pieces.starts == whole.starts
    assert pieces.n_bytes == whole.n_bytes


def _documents_at(writer, documents):
    """Whether every start is that of the next document that begins in a kept block."""
    line = [token for row in writer.rows for token in row]
    return [line[start] for start in writer.starts] == [document[0] for document in documents]


@pytest.mark.parametrize("shards", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 999, 2_000, 3_001, 4_005])
def test_published_blocks_are_those_of_the_definition(n, shards):
    documents = _documents(n, n, 6)
    writer = _Rows(7)
    _add(Published(writer, shards=shards, n_documents=n), documents)
    assert writer.rows == reference.published(documents, 7, shards)
    assert set(writer.lengths) <= {7}
    assert writer.n_bytes == 3 * 7 * len(writer.rows)


def test_published_blocks_of_one_shard_need_no_number_of_documents():
    documents = _documents(0, 2_500, 6)
    writer = _Rows(7)
    _add(Published(writer, shards=1, n_documents=None), documents)
    assert writer.rows == reference.published(documents, 7, 1)
    with pytest.raises(ValueError, match="several shards need the number of documents"):
        Published(writer, shards=2, n_documents=None)


def test_published_remainders_take_their_documents_with_them():
    # One group of 5 + 5 + 5 + 5 tokens in blocks of 8: 16 are kept, so the fourth document keeps
    # one token of five, and of its 15 bytes a fifth.
    documents = [[index] * 5 for index in range(1, 5)]
    writer = _Rows(8)
    _add(Published(writer, shards=1, n_documents=4), documents)
    assert writer.rows == [[1, 1, 1, 1, 1, 2, 2, 2], [2, 2, 3, 3, 3, 3, 3, 4]]
    assert writer.starts == [0, 5, 10, 15]
    assert writer.n_bytes == 48
    # In blocks of 15 the fourth is gone.
    writer = _Rows(15)
    _add(Published(writer, shards=1, n_documents=4), documents)
    assert writer.starts == [0, 5, 10]
    assert writer.n_bytes == 45


@pytest.mark.parametrize("bos", [None, 60])
@pytest.mark.parametrize("end", [END, None])
@pytest.mark.parametrize("block", [2, 7, 64, 5_000])
def test_packed_blocks_drop_nothing(block, end, bos):
    documents = _documents(block, 300, 20)
    writer = _Rows(block)
    _add(Packed(writer, end=end, bos=bos), documents)
    assert writer.kept == reference.packed(documents, block, end, bos)
    assert all(length == block for length in writer.lengths[:-1])
    assert writer.n_bytes == 3 * sum(map(len, documents))
    # The last block is padded with end-of-text, or else with what the vocabulary surely has.
    padding = next(token for token in (end, bos, 0) if token is not None)
    assert set(writer.rows[-1][writer.lengths[-1] :]) <= {padding}
    filled = [document for document in documents if document]
    assert len(writer.starts) == len(filled)
    assert _documents_at(writer, filled)


def test_a_block_that_begins_with_bos_labels_all_of_the_line():
    # Five tokens in blocks of 3 behind bos (9): 2 + 2 + 1, and documents at columns 1, 2 and 1.
    writer = _Rows(3)
    _add(Packed(writer, end=END, bos=9), [[1], [2], [3]])
    assert writer.kept == [[9, 1, END], [9, 2, END], [9, 3]]
    assert writer.starts == [1, 4, 7]
    assert sum(length - 1 for length in writer.lengths) == 5
    # Without end-of-text the line is 1, 2, 3.
    writer = _Rows(3)
    _add(Packed(writer, end=None, bos=9), [[1], [2], [3]])
    assert writer.rows == [[9, 1, 2], [9, 3, 9]]
    assert writer.starts == [1, 2, 4]


@pytest.mark.parametrize("open_blocks", [1, 4, 1_000])
def test_whole_blocks_never_split_a_document(open_blocks, monkeypatch):
    monkeypatch.setattr(blocks, "OPEN_BLOCKS", open_blocks)
    documents = _documents(5, 500, 14, shortest=1)
    writer = _Rows(16)
    _add(Whole(writer, end=END), documents)
    found = []
    for row in writer.kept:
        # Documents hold no END here, so a block is END, document, END, document, ..., END.
        assert row[0] == row[-1] == END
        parts = _between(row)
        assert all(parts)
        found += parts
    assert sorted(found) == sorted(documents)
    assert writer.n_bytes == 3 * sum(map(len, documents))
    assert len(writer.starts) == len(documents)
    assert _documents_at(writer, found)
    # Every token of a document and the END after it is a label: all but the first of a block.
    labels = sum(length - 1 for length in writer.lengths)
    assert labels == sum(len(document) + 1 for document in documents)


def test_whole_blocks_take_the_first_one_with_room():
    # Blocks of 8 hold 7 after their END. 4+1 | 4+1 | 1+1 fits the first | 1+1 the second.
    documents = [[1] * 4, [2] * 4, [3], [4]]
    writer = _Rows(8)
    _add(Whole(writer, end=END), documents)
    assert writer.kept == [[0, 1, 1, 1, 1, 0, 3, 0], [0, 2, 2, 2, 2, 0, 4, 0]]


def test_more_open_blocks_fill_better_and_keep_the_documents_near_their_order(monkeypatch):
    documents = _documents(6, 2_000, 14, shortest=1)
    n_blocks = []
    for open_blocks in (1, 64):
        monkeypatch.setattr(blocks, "OPEN_BLOCKS", open_blocks)
        writer = _Rows(16)
        _add(Whole(writer, end=END), documents)
        n_blocks.append(len(writer.rows))
    least = -(-sum(len(document) + 1 for document in documents) // 15)
    assert least <= n_blocks[1] < n_blocks[0]
    assert n_blocks[1] < 1.1 * least


def test_a_document_that_fits_no_block_is_refused_with_its_length():
    maker = Whole(_Rows(16), end=END)
    maker.add(np.ones(14, dtype=np.int32), 14)
    with pytest.raises(UserError, match="a document of 15 tokens is too long for blocks='whole'"):
        maker.add(np.ones(15, dtype=np.int32), 15)


def _between(row):
    parts, part = [], []
    for token in row[1:]:
        if token == END:
            parts.append(part)
            part = []
        else:
            part.append(token)
    return parts
