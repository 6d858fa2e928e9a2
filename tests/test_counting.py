import tracemalloc

import numpy as np
import pytest

from reference import contexts as reference
from tightframe.corpus import tokenizer
from tightframe.corpus.blocks import Packed, ShardWriter, Whole
from tightframe.corpus.manifest import write_manifest
from tightframe.corpus.shards import TokenShards
from tightframe.errors import UserError
from tightframe.files import sha256
from tightframe.ntp import count, windows
from tightframe.ntp.windows import documents as read_documents

END = 0
WORDS = ("<|endoftext|>", "a", "b", "c", "d", "e")
LENGTHS = (1, 2, 3, 5, "all")

pytestmark = pytest.mark.filterwarnings("ignore:.*(occur, and such|single token)")


def draw_documents(seed=0, n=40, vocab_size=6, longest=30):
    rng = np.random.default_rng(seed)
    return [rng.integers(1, vocab_size, rng.integers(1, longest)).tolist() for _ in range(n)]


def as_dict(table):
    found = {}
    for context, start, stop in zip(
        table.contexts, table.counts.indptr, table.counts.indptr[1:], strict=False
    ):
        following = table.tokens[table.counts.indices[start:stop]].tolist()
        counts = table.counts.data[start:stop].tolist()
        key = tuple(token for token in context.tolist() if token >= 0)
        assert key not in found
        found[key] = dict(zip(following, counts, strict=True))
    return found


def write_shards(path, documents, *, layout="packed", block=8, bos=None, shard_tokens=64):
    """A tokens folder with documents cut into small blocks, several shards."""
    path.mkdir()
    words = (*WORDS, "<bos>")
    tokenizer.save(tokenizer.word_level(words), path / "tokenizer.json")
    splits = {}
    for split in ("train", "val"):
        writer = ShardWriter(path, split, block, shard_tokens=shard_tokens)
        maker = Whole(writer, end=END) if layout == "whole" else Packed(writer, end=END, bos=bos)
        for document in documents:
            maker.add(np.array(document, dtype=np.int32), len(document))
        splits[split] = maker.finish()
    manifest = {
        "name": path.name,
        "source": {},
        "blocks": layout,
        "block": block,
        "vocab_size": len(words),
        "end_of_text": END,
        "bos": bos,
        "tokenizer": {"kind": "word", "sha256": sha256(path / "tokenizer.json")},
        "splits": splits,
        "entropy_floor": None,
    }
    write_manifest(path, manifest)
    return TokenShards.open(path)


@pytest.mark.parametrize("length", LENGTHS)
def test_counts_are_those_of_dictionaries(length):
    documents = draw_documents()
    assert as_dict(count(documents, length)) == reference.count(documents, length)


@pytest.mark.parametrize("length", [1, 3, 5])
@pytest.mark.parametrize("memory", [1_000, 20_000])
def test_memory_changes_how_often_the_text_is_read_and_nothing_else(length, memory):
    documents = draw_documents()
    n_tokens = sum(map(len, documents))
    assert windows.n_parts(n_tokens, length, memory) > 1
    whole = count(documents, length)
    parts = count(documents, length, memory=memory)
    assert np.array_equal(whole.contexts, parts.contexts)
    assert (whole.counts != parts.counts).nnz == 0


@pytest.mark.parametrize("bits", [0, 1, 3])
def test_contexts_that_share_a_hash_are_told_apart_by_their_tokens(bits):
    # With 0 bits every context has the hash of every other one.
    documents = draw_documents()

    def poor(rows):
        return windows.hash_windows(rows) & np.uint64(2**bits - 1)

    assert as_dict(count(documents, 3, hashed=poor)) == reference.count(documents, 3)


@pytest.mark.parametrize("length", [2, "all"])
def test_pieces_change_nothing(length, monkeypatch):
    documents = draw_documents()
    expected = as_dict(count(documents, length))
    for piece in (1, 3, 7):
        monkeypatch.setattr("tightframe.ntp.windows.PIECE", piece)
        assert as_dict(count(documents, length)) == expected


@pytest.mark.parametrize("length", [3, "all"])
def test_the_order_of_documents_changes_nothing(length):
    documents = draw_documents()
    forwards, backwards = count(documents, length), count(documents[::-1], length)
    assert np.array_equal(forwards.contexts, backwards.contexts)
    assert (forwards.counts != backwards.counts).nnz == 0


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("bos", [None, len(WORDS)])
@pytest.mark.parametrize("block", [3, 8, 64])
def test_documents_go_on_over_packed_blocks_and_end_with_end_of_text(tmp_path, length, bos, block):
    documents = draw_documents()
    shards = write_shards(tmp_path / "x", documents, bos=bos, block=block)
    assert block == 64 or len(list(tmp_path.glob("x/train-*"))) > 1
    # Packed text has an end-of-text between documents, none after the last one.
    told = [*([*document, END] for document in documents[:-1]), documents[-1]]
    assert as_dict(count(shards, length)) == reference.count(told, length)
    assert as_dict(count(shards.split("val"), length)) == reference.count(told, length)


@pytest.mark.parametrize("length", LENGTHS)
def test_whole_documents_end_with_end_of_text_and_padding_is_no_token(tmp_path, length):
    documents = draw_documents(longest=14)
    shards = write_shards(tmp_path / "x", documents, layout="whole", block=16)
    told = [[*document, END] for document in documents]
    assert as_dict(count(shards, length)) == reference.count(told, length)


def test_blocks_of_a_sample_begin_anew(tmp_path):
    shards = write_shards(tmp_path / "x", draw_documents())
    sample = shards.split("train").sample(60, seed=1)
    rows, lengths = sample.rows(range(len(sample)))
    told = []
    for row, n in zip(rows.tolist(), lengths.tolist(), strict=True):
        told.append([])
        for token in row[:n]:
            told[-1].append(token)
            if token == END:
                told.append([])
    assert as_dict(count(sample, 3)) == reference.count(told, 3)


@pytest.mark.parametrize("length", [1, 3])
def test_pairs_with_ids_beyond_the_vocabulary_are_dropped_and_counted(length):
    documents = draw_documents()
    cut = []  # what is left: runs between the unknown ids
    for document in documents:
        cut.append([])
        for token in document:
            cut.append([]) if token >= 5 else cut[-1].append(token)
    table = count(documents, length, vocab_size=5)
    assert as_dict(table) == reference.count(cut, length)
    assert table.vocab_size == 5
    n_all = sum(sum(f.values()) for f in reference.count(documents, length).values())
    assert table.source["dropped_pairs"]["vocab_size"] == n_all - table.n_pairs > 0


def test_a_beginning_ends_at_the_first_unknown_token():
    table = count([[1, 2, 9, 1], [1, 2, 3]], "all", vocab_size=5)
    assert as_dict(table) == {(1,): {2: 2}, (1, 2): {3: 1}}
    assert table.source["pairs"] == 5
    assert table.source["dropped_pairs"]["vocab_size"] == 2


@pytest.mark.parametrize("length", [2, "all"])
@pytest.mark.parametrize("memory", [1_500, 2**30])
def test_floors_are_those_of_dictionaries_and_say_what_they_dropped(length, memory):
    documents = draw_documents(n=80, vocab_size=12)
    expected = reference.count(documents, length)
    n_pairs = sum(sum(following.values()) for following in expected.values())
    frequent = {c: f for c, f in expected.items() if sum(f.values()) >= 6}
    after_context = sum(sum(following.values()) for following in frequent.values())
    floored = {c: {z: n for z, n in f.items() if n >= 3} for c, f in frequent.items()}
    floored = {c: f for c, f in floored.items() if f}
    after_count = sum(sum(following.values()) for following in floored.values())
    table = count(
        documents, length, min_context=6, min_count=3, memory=memory if length != "all" else 2**30
    )
    assert as_dict(table) == floored
    assert table.source["pairs"] == n_pairs
    assert table.source["dropped_contexts"] == len(expected) - len(floored)
    assert table.source["dropped_pairs"] == {
        "vocab_size": 0,
        "min_context": n_pairs - after_context,
        "min_count": after_context - after_count,
        "max_contexts": 0,
    }
    assert n_pairs > after_context > after_count


@pytest.mark.parametrize("memory", [1_000, 2**30])
def test_the_most_frequent_contexts_come_first_ties_by_ids(memory):
    documents = draw_documents()
    expected = reference.count(documents, 2)
    order = sorted(expected, key=lambda context: (-sum(expected[context].values()), context))
    table = count(documents, 2, memory=memory)
    assert [tuple(context) for context in table.contexts.tolist()] == order
    few = count(documents, 2, max_contexts=7, memory=memory)
    assert [tuple(context) for context in few.contexts.tolist()] == order[:7]
    assert few.source["dropped_contexts"] == len(order) - 7
    assert few.source["dropped_pairs"]["max_contexts"] == table.n_pairs - few.n_pairs


def test_contexts_wider_than_a_word_are_ordered_by_ids_too():
    # 21 bits an id: three fit a word of 64 bits, five take two.
    rng = np.random.default_rng(0)
    documents = [(rng.integers(0, 2, 12) * 2_000_000).tolist() for _ in range(20)]
    expected = reference.count(documents, 5)
    order = sorted(expected, key=lambda context: (-sum(expected[context].values()), context))
    assert [tuple(row) for row in count(documents, 5).contexts.tolist()] == order


def test_a_sample_of_contexts_is_drawn_by_its_seed_alone():
    documents = draw_documents()
    some = as_dict(count(documents, 3, max_contexts=20, sample_seed=1))
    again = count(documents[::-1], 3, max_contexts=20, sample_seed=1, memory=1_000)
    assert as_dict(again) == some
    assert as_dict(count(documents, 3, max_contexts=20, sample_seed=2)) != some
    assert some.items() <= reference.count(documents, 3).items()
    assert len(some) == 20


def test_a_sample_takes_every_context_about_as_often():
    # 36 contexts, 6 drawn by each of 300 seeds: 50 times each on average, with a standard
    # deviation below sqrt(300 * (1/6) * (5/6)) = 6.5; five of them either way are 17 and 83.
    document = [np.random.default_rng(0).integers(0, 6, 2_000)]
    drawn = np.zeros((6, 6), dtype=int)
    for seed in range(300):
        chosen = count(document, 2, max_contexts=6, sample_seed=seed).contexts
        drawn[tuple(chosen.T)] += 1
    assert drawn.sum() == 1_800
    assert 17 < drawn.min() <= drawn.max() < 83


def test_beginnings_stop_at_the_longest_length_asked_for():
    documents = draw_documents()
    expected = {c: f for c, f in reference.count(documents, "all").items() if len(c) <= 4}
    table = count(documents, "all", max_length=4)
    assert table.contexts.shape[1] == 4
    assert as_dict(table) == expected


def test_arrays_are_documents_and_rows_of_them():
    row = np.array([1, 2, 1, 2, 3])
    assert as_dict(count(row, 1)) == reference.count([row.tolist()], 1)
    two = np.stack([row, row[::-1]])
    assert as_dict(count(two, 1)) == reference.count(two.tolist(), 1)


def test_the_source_says_what_was_counted(tmp_path):
    shards = write_shards(tmp_path / "x", draw_documents())
    table = count(shards, 2, split="val", min_count=2)
    assert table.source["tokens"] == "x"
    assert table.source["fingerprint"] == shards.fingerprint
    assert table.source["split"] == "val"
    assert (table.source["length"], table.source["min_count"]) == (2, 2)
    assert table.words == (*WORDS, "<bos>") == table.vocabulary


def test_what_is_held_at_once_stays_within_the_memory_asked_for():
    # One piece of text, far more than may be held at once.
    rng = np.random.default_rng(0)
    document = [rng.integers(0, 1_000, 200_000).astype(np.int32)]
    text = read_documents(document, split="train", vocab_size=None)
    memory = 2**22
    parts = windows.n_parts(text.n_tokens, 5, memory)
    assert parts > 4
    tracemalloc.start()
    n_pairs = sum(int(part.counts.sum()) for part in windows.pairs_by_parts(text, 5, parts=parts))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n_pairs == 200_000 - 5
    piece = 200_000 * (6 * 4 + 8 * 8)  # the windows of one piece, and their places and hashes
    assert peak < memory + piece


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: count([[1, 2]], 0), "length: 0, expected at least 1"),
        (lambda: count([[1, 2]], 1, min_count=0), "min_count: 0, expected at least 1"),
        (lambda: count([[1, 2]], 1, min_context=0), "min_context: 0, expected at least 1"),
        (lambda: count([[1, 2]], 1, max_contexts=0), "max_contexts: 0, expected at least 1"),
        (lambda: count([[1, 2]], "all", max_length=0), "max_length: 0, expected at least 1"),
        (lambda: count([[1, 2]], 1, memory=0), "memory must be at least 1"),
        (lambda: count([[1, 2]], 1, max_length=3), "max_length is for length 'all'"),
        (lambda: count([[1, 2]], 1, sample_seed=3), "sample_seed needs max_contexts"),
        (lambda: count([[1, 2], [3, -100]], 1), "-100 at position 1 of document 1"),
        (
            lambda: count([np.array([1.0, 2.0])], 1),
            "document 0 holds float64",
        ),
        (lambda: count([np.array(3)], 1), r"document 0 has shape \(\), expected a line"),
        (lambda: count(np.zeros((2, 2, 2), int), 1), r"got shape \(2, 2, 2\)"),
    ],
)
def test_a_wrong_argument_is_named(call, message):
    with pytest.raises((ValueError, UserError), match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: count([[1, 2, 3]], 3), "no document of 3 tokens has 3 tokens and a next"),
        (lambda: count([[1], [2]], "all"), "has a token and a next one"),
        (lambda: count([], 1), "no document of 0 tokens"),
        (
            lambda: count([[1, 2, 3]], 1, min_context=2),
            "none of 2 pairs is left with min_c",
        ),
        (
            lambda: count(draw_documents(), "all", memory=1_000),
            "take more than 1,000 bytes; keep fewer with max_length",
        ),
    ],
)
def test_a_text_that_gives_no_table_is_refused_in_one_line(call, message):
    with pytest.raises(UserError, match=message):
        call()


@pytest.mark.filterwarnings("default")
def test_dense_supports_are_warned_of():
    with pytest.warns(UserWarning, match="78% of all .* occur"):
        # Contexts 0, 1, 2 are followed by 0 1, 0 1 2 and 0 1: seven of nine.
        count([[0, 0, 1, 0], [1, 1, 2, 0], [2, 1]], 1)


@pytest.mark.filterwarnings("default")
def test_single_next_tokens_are_warned_of():
    with pytest.warns(UserWarning, match="every context is followed by a single token"):
        count([[0, 1, 2, 3]], 1)
