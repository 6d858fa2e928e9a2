import json
import math

import numpy as np
import pytest
import torch

from reference import blocks as reference
from reference import groups as reference_groups
from tightframe.corpus import tokenizer as tokenizers
from tightframe.corpus.blocks import ShardWriter
from tightframe.corpus.manifest import write_manifest
from tightframe.corpus.shards import Split, TokenShards
from tightframe.errors import UserError
from tightframe.files import sha256

WORDS = [tokenizers.END_OF_TEXT, *"abcdefghi"]
BLOCK = 4


def _lines(seed, n):
    """Rows of 1 to 4 tokens out of ten."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, len(WORDS), rng.integers(1, BLOCK + 1)).tolist() for _ in range(n)]


def _write(folder, lines, *, shard_blocks=3, name="x", blocks="packed", bos=None, starts=None):
    """A tokens folder whose blocks hold the given lines, each line one document.

    Or documents begin at the offsets `starts` of every split, all in the first five lines.
    """
    folder.mkdir()
    tokenizers.save(tokenizers.word_level(WORDS), folder / "tokenizer.json")
    entries = {}
    for split, rows in lines.items():
        writer = ShardWriter(folder, split, BLOCK, shard_tokens=shard_blocks * BLOCK)
        for start in range(0, len(rows), 5):  # pieces that fit no shard evenly
            part = rows[start : start + 5]
            padded = np.array([row + [0] * (BLOCK - len(row)) for row in part], dtype=np.int32)
            begin = np.arange(len(part), dtype=np.int64) * BLOCK
            if starts is not None:
                begin = np.array(starts if start == 0 else [], dtype=np.int64)
            writer.write(padded, np.array([len(row) for row in part], dtype=np.int32), begin)
        entries[split] = writer.close(n_bytes=7)
    manifest = {
        "name": name,
        "source": {"text": str(folder)},
        "blocks": blocks,
        "bos": bos,
        "block": BLOCK,
        "vocab_size": len(WORDS),
        "end_of_text": 0,
        "tokenizer": {"kind": "word", "sha256": sha256(folder / "tokenizer.json")},
        "splits": entries,
        "entropy_floor": None,
    }
    write_manifest(folder, manifest)
    return folder


@pytest.fixture
def lines():
    return {"train": _lines(0, 17), "val": _lines(1, 4)}


@pytest.fixture
def folder(tmp_path, lines):
    return _write(tmp_path / "x", lines)


def _read(split: Split, indices):
    tokens, lengths = split.rows(indices)
    return [row[:n].tolist() for row, n in zip(tokens, lengths.tolist(), strict=True)]


def test_rows_come_back_in_the_order_asked_for_across_shards(folder, lines):
    split = TokenShards.open(folder).split("train")
    # 17 blocks in shards of 3: the order below jumps between first, last and middle shards.
    order = [16, 0, 5, 5, 2, 9, 1]
    expected = [lines["train"][index] for index in order]
    for indices in (order, np.array(order), torch.tensor(order), np.array(order, dtype=np.int32)):
        assert _read(split, indices) == expected
    tokens, lengths = split.rows([])
    assert tokens.shape == (0, BLOCK)
    assert lengths.shape == (0,)


def test_counts_of_the_manifest_are_those_of_the_rows(folder, lines):
    shards = TokenShards.open(folder)
    for name, rows in lines.items():
        split = shards.split(name)
        assert len(split) == split.n_blocks == len(rows)
        assert split.n_tokens == sum(len(row) for row in rows)
        assert split.n_labels == sum(len(row) - 1 for row in rows)
        assert split.n_bytes == 7
        assert shards.manifest["splits"][name]["documents"] == len(rows)
        assert split.document_starts().tolist() == [BLOCK * row for row in range(len(rows))]


@pytest.mark.parametrize("chunk", [1, 3 * BLOCK, 2**20])
def test_label_counts_are_those_of_plain_loops(folder, lines, chunk, monkeypatch):
    monkeypatch.setattr("tightframe.corpus.shards._CHUNK_TOKENS", chunk)
    split = TokenShards.open(folder).split("train")
    counts = split.label_counts()
    assert counts.tolist() == reference.label_counts(lines["train"], len(WORDS))
    assert counts.sum() == split.n_labels


@pytest.mark.parametrize("shard_blocks", [1, 2, 5, 16, 17, 100])
def test_size_of_shards_changes_no_row(tmp_path, lines, shard_blocks):
    folder = _write(tmp_path / "x", lines, shard_blocks=shard_blocks)
    shards = TokenShards.open(folder)
    split = shards.split("train")
    assert _read(split, range(17)) == lines["train"]
    assert split.document_starts().tolist() == [BLOCK * row for row in range(17)]
    blocks = [shard["blocks"] for shard in shards.manifest["splits"]["train"]["shards"]]
    assert sum(blocks) == 17
    assert max(blocks) == min(17, shard_blocks)


def test_labels_can_be_asked_for_by_their_place_among_all(folder, lines):
    split = TokenShards.open(folder).split("train")
    labels = [token for row in lines["train"] for token in row[1:]]
    first, end = split.label_ordinals(range(17))
    assert [labels[a:b] for a, b in zip(first, end, strict=True)] == [
        row[1:] for row in lines["train"]
    ]
    order = np.random.default_rng(0).permutation(len(labels))
    assert split.labels(order).tolist() == [labels[index] for index in order]
    assert split.labels(np.zeros(0, dtype=np.int64)).shape == (0,)


def test_bits_per_byte_are_those_of_all_tokens_of_the_text(tmp_path, lines):
    # A loss of ln 2 is one bit a token. Where blocks begin with text, the first token of a block
    # costs what the others cost: as many bits as tokens, for 7 bytes.
    split = TokenShards.open(_write(tmp_path / "x", lines)).split("train")
    assert split.bits_per_byte(math.log(2)) == pytest.approx(split.n_tokens / 7, rel=1e-15)
    # Where they begin with something else, only labels are text.
    for name, options in {"y": {"bos": 3}, "z": {"blocks": "whole"}}.items():
        split = TokenShards.open(_write(tmp_path / name, lines, **options)).split("train")
        assert split.n_labels < split.n_tokens
        assert split.bits_per_byte(math.log(2)) == pytest.approx(split.n_labels / 7, rel=1e-15)


def test_groups_hold_whole_documents_of_about_as_many_labels(folder, lines):
    split = TokenShards.open(folder).split("train")
    # A document a line: those with one token have no label and count for nothing.
    labelled = [row for row, line in enumerate(lines["train"]) if len(line) > 1]
    weights = [len(lines["train"][row]) - 1 for row in labelled]
    for n in (1, 2, 5, len(labelled)):
        bounds, unit = split.groups(n)
        assert unit == "documents"
        cuts = reference_groups.cuts(weights, n)
        assert bounds.tolist() == [0, *(labelled[cut] * BLOCK for cut in cuts), 17 * BLOCK]


def test_documents_may_begin_anywhere_in_a_block(tmp_path):
    # Rows of 4, 4, 3 and 4 tokens; labels stand at 1 2 3, 5 6 7, 9 10, 13 14 15.
    rows = [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3], [1, 2, 3, 4]]
    lines = {"train": rows, "val": rows}
    # Documents begin at 1, 3, 7, 8 and 13: with 2 (of 0..2), 3, 1, 2 and 3 labels.
    split = TokenShards.open(_write(tmp_path / "x", lines, starts=[1, 3, 7, 8, 13])).split("val")
    lengths = [len(row) for row in rows]
    assert reference_groups.weights([0, 3, 7, 8, 13], lengths, BLOCK) == [2, 3, 1, 2, 3]
    assert split.groups(5).bounds.tolist() == [0, 3, 7, 8, 13, 16]
    # Thirds of 11 labels end at 3.7 and 7.3: nearest are 5 (before 7) and 8 (before 13).
    assert split.groups(3).bounds.tolist() == [0, 7, 13, 16]
    # A document that begins at the end of a block, without any label, goes with the one before:
    # columns 3 of row 2 (padding) and 0 of row 3 hold none.
    bare = TokenShards.open(_write(tmp_path / "y", lines, starts=[0, 11, 12])).split("val")
    assert bare.groups(2).bounds.tolist() == [0, 12, 16]
    assert reference_groups.weights([0, 11, 12], lengths, BLOCK) == [8, 0, 3]


def test_fewer_documents_than_groups_are_cut_at_blocks_and_said_to_be(tmp_path):
    rows = [[1, 2, 3, 4]] * 8 + [[1]]
    lines = {"train": rows, "val": rows}
    split = TokenShards.open(_write(tmp_path / "x", lines, starts=[0, 13])).split("train")
    assert split.groups(2).unit == "documents"
    bounds, unit = split.groups(4)
    assert unit == "blocks"
    # Eight blocks of three labels; the ninth has none and goes with the last.
    assert bounds.tolist() == [0, 8, 16, 24, 36]
    with pytest.raises(UserError) as caught:
        split.groups(9)
    assert str(caught.value) == (
        "split 'train' of 2 documents: 2 of them and 8 of its blocks have labels, too few for 9 "
        "groups; ask for fewer"
    )
    with pytest.raises(ValueError, match="expected one group or more, got 0"):
        split.groups(0)


def test_blocks_in_the_middle_of_a_document_begin_none(tmp_path):
    # One document over several blocks: the blocks after the first begin none.
    writer = ShardWriter(tmp_path, "val", BLOCK, shard_tokens=BLOCK)
    tokens = np.arange(12, dtype=np.int32).reshape(3, BLOCK)
    writer.write(tokens, np.full(3, BLOCK, dtype=np.int32), np.array([2], dtype=np.int64))
    entry = writer.close(n_bytes=0)
    assert entry["documents"] == 1
    assert [shard["blocks"] for shard in entry["shards"]] == [1, 1, 1]


def test_fingerprints_tell_content_and_not_place(tmp_path, lines):
    first = TokenShards.open(_write(tmp_path / "x", lines))
    same = TokenShards.open(_write(tmp_path / "y", lines, name="y"))
    other = TokenShards.open(_write(tmp_path / "z", {**lines, "val": _lines(2, 4)}))
    assert first.name == "x"
    assert same.name == "y"
    assert first.fingerprint == same.fingerprint != other.fingerprint
    assert len(first.fingerprint) == 12
    assert first.split("train").fingerprint == other.split("train").fingerprint
    assert first.split("val").fingerprint != other.split("val").fingerprint


def test_the_tokenizer_of_the_folder_is_the_one_that_made_it(folder, lines):
    shards = TokenShards.open(folder)
    assert shards.vocab_size == len(WORDS)
    assert shards.end_of_text == 0
    assert shards.entropy_floor is None
    first = lines["train"][0]
    decoded = shards.tokenizer.decode(first, skip_special_tokens=False)
    assert decoded == " ".join(WORDS[token] for token in first)


@pytest.mark.parametrize("file", ["train-00002.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_a_file_that_is_not_as_written_is_refused_by_name(folder, file, harm):
    path = folder / file
    data = bytearray(path.read_bytes())
    if harm == "flip":
        data[-1] ^= 1
        path.write_bytes(data)
    elif harm == "truncate":
        path.write_bytes(data[:-1])
    else:
        path.unlink()
    with pytest.raises(UserError) as caught:
        TokenShards.open(folder)
    assert str(caught.value).startswith(f"{path}: ")
    assert ("no such file" if harm == "remove" else "damaged or changed") in str(caught.value)
    assert "build the tokens again" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_says_which_token_its_blocks_begin_with(tmp_path, lines):
    shards = TokenShards.open(_write(tmp_path / "x", lines))
    assert shards.bos is None
    other = TokenShards.open(_write(tmp_path / "y", lines, bos=3))
    assert other.bos == 3
    assert other.fingerprint != shards.fingerprint


def test_a_changed_manifest_is_refused(folder):
    path = folder / "manifest.json"
    text = path.read_text()
    for changed, message in [
        (text.replace('"block": 4', '"block": 2'), "damaged or changed"),
        (text.replace('"revision": 1', '"revision": 9'), "revision is 9: expected 1"),
        (text[:100], "not JSON"),
        ("[]", "the content is "),
    ]:
        path.write_text(changed)
        with pytest.raises(UserError, match=message):
            TokenShards.open(folder)
    path.write_text(text)
    assert TokenShards.open(folder).manifest == json.loads(text)


def test_a_folder_without_tokens_says_how_to_make_them(tmp_path):
    with pytest.raises(UserError, match="no such folder; make it with `tightframe corpus build`"):
        TokenShards.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no manifest\.json"):
        TokenShards.open(tmp_path)


def test_rows_and_splits_that_do_not_exist_are_the_callers_mistake(folder):
    shards = TokenShards.open(folder)
    with pytest.raises(ValueError, match="must be one of"):
        shards.split("test")
    with pytest.raises(ValueError, match=r"rows must lie in \[0, 17\), got -1\.\.17"):
        shards.split("train").rows([3, -1, 17])


def test_a_sample_is_some_whole_blocks_in_their_order(folder, lines):
    split = TokenShards.open(folder).split("train")
    sample = split.sample(split.n_labels // 3, seed=4)
    rows = _read(sample, range(len(sample)))
    later = iter(lines["train"])
    assert all(row in later for row in rows)  # each is found after the one before it
    # As many blocks as hold a third of the positions on average: 17 / 3, rounded up.
    assert len(rows) == 6
    assert sample.n_tokens == sum(map(len, rows))
    assert sample.n_labels == sum(len(row) - 1 for row in rows)
    labels = np.concatenate([row[1:] for row in rows]).astype(int)
    assert sample.label_counts().tolist() == np.bincount(labels, minlength=10).tolist()
    # Each line is a document, and stays one.
    assert sample.document_starts().tolist() == list(range(0, 6 * BLOCK, BLOCK))
    assert sample.block == split.block


def test_a_sample_depends_on_its_seed_alone(folder):
    split = TokenShards.open(folder).split("train")
    once, again, other = (split.sample(9, seed=seed) for seed in (1, 1, 2))
    assert once.fingerprint == again.fingerprint != other.fingerprint
    assert _read(once, range(len(once))) == _read(again, range(len(again)))
    assert len(split) == 17  # the split itself stays whole


def test_a_sample_of_more_than_there_is_is_everything(folder, lines):
    split = TokenShards.open(folder).split("val")
    sample = split.sample(10**6, seed=0)
    assert _read(sample, range(len(sample))) == lines["val"]
    assert sample.n_bytes == split.n_bytes
    assert sample.document_starts().tolist() == split.document_starts().tolist()
    with pytest.raises(ValueError, match="n_labels must be at least 1, got 0"):
        split.sample(0, seed=0)
