import json
import os
from pathlib import Path

import numpy as np
import pytest
from tokenizers import normalizers

from reference import blocks as reference
from tightframe.corpus import build, stories
from tightframe.corpus import tokenizer as tokenizers
from tightframe.corpus.shards import TokenShards
from tightframe.corpus.sources import Document, open_source
from tightframe.corpus.splits import BATCH_DOCUMENTS, encoded, made
from tightframe.corpus.stories import usual_grammar
from tightframe.errors import UserError

NAMES = ["Anna", "Tim", "Zoë", "the dog", "a 猫"]


def _records(path, n=300, *, empty=()):
    rng = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        for index in range(n):
            told = [f"{NAMES[rng.integers(5)]} saw {index}." for _ in range(rng.integers(1, 9))]
            file.write(json.dumps({"text": "" if index in empty else " ".join(told)}) + "\n")
    return path


@pytest.fixture
def records(tmp_path):
    return _records(tmp_path / "records.jsonl")


def _rows(shards, split):
    """Rows without their padding, as lists."""
    rows = shards.split(split)
    tokens, lengths = rows.rows(range(len(rows)))
    return [row[:n].tolist() for row, n in zip(tokens, lengths.tolist(), strict=True)]


def _texts(source, split, **options):
    return [
        document.text
        for name, document in made(open_source(source), **options).read({"train", "val"})
        if name == split
    ]


def _decoded(shards, split):
    """The documents of a split of packed rows, cut at the end-of-text tokens."""
    line = [token for row in _rows(shards, split) for token in row]
    text = shards.tokenizer.decode(line, skip_special_tokens=False)
    return text.split(tokenizers.END_OF_TEXT)


def test_packed_tokens_give_all_the_text_back(tmp_path, records):
    shards = build(records, out=tmp_path / "x", vocab_size=300, block=32)
    for split in ("train", "val"):
        texts = _texts(records, split, share=0.1, seed=0)
        assert _decoded(shards, split) == texts
        entry = shards.manifest["splits"][split]
        assert entry["documents"] == len(texts)
        assert entry["bytes"] == sum(len(text.encode()) for text in texts)
    assert shards.manifest["splits"]["val"]["documents"] == 30


def test_the_tokenizer_learns_from_training_text_only(tmp_path, records):
    shards = build(records, out=tmp_path / "x", vocab_size=300, block=32)
    expected = tokenizers.train_bpe(_texts(records, "train", share=0.1, seed=0), 300)
    assert shards.tokenizer.to_str() == expected.to_str()


@pytest.mark.parametrize("shards", [1, 2])
def test_published_blocks_are_those_of_plain_lists(tmp_path, shards):
    # 2,500 documents, some empty: they count in their group.
    records = _records(tmp_path / "a.jsonl", 2_500, empty=(0, 7, 999, 1_000, 2_499))
    found = build(
        records, out=tmp_path / "x", vocab_size=400, block=64, blocks="published", shards=shards
    )
    for split in ("train", "val"):
        texts = _texts(records, split, share=0.1, seed=0)
        ids = [encoding.ids for encoding in found.tokenizer.encode_batch(texts)]
        assert _rows(found, split) == reference.published(ids, 64, shards)
    assert found.manifest["source"]["shards"] == shards
    assert set(found.split("train").rows(range(3))[1].tolist()) == {64}


def test_published_blocks_are_those_of_a_map_over_a_data_set(tmp_path):
    # The published chunking itself: datasets' batched map over groups of 1,000 of each shard.
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    records = _records(tmp_path / "a.jsonl", 2_301)
    validation = _records(tmp_path / "b.jsonl", 20)
    shards = build(
        records,
        out=tmp_path / "x",
        vocab_size=400,
        block=64,
        blocks="published",
        validation=validation,
    )

    def chunk(batch):
        line = [token for ids in batch["ids"] for token in ids]
        return {"ids": [line[at : at + 64] for at in range(0, len(line) // 64 * 64, 64)]}

    texts = [document.text for document in open_source(records).read()]
    ids = [encoding.ids for encoding in shards.tokenizer.encode_batch(texts)]
    data = datasets.Dataset.from_dict({"ids": ids})
    expected = []
    for index in range(2):
        shard = data.shard(num_shards=2, index=index, contiguous=True)
        expected += shard.map(chunk, batched=True, batch_size=1_000)["ids"]
    assert _rows(shards, "train") == expected


def test_whole_blocks_hold_every_document_between_two_ends(tmp_path, records):
    shards = build(records, out=tmp_path / "x", vocab_size=300, block=128, blocks="whole")
    rows = _rows(shards, "train")
    texts = []
    for row in rows:
        text = shards.tokenizer.decode(row, skip_special_tokens=False)
        first, *documents, last = text.split(tokenizers.END_OF_TEXT)
        assert first == last == ""
        texts += documents
    assert sorted(texts) == sorted(_texts(records, "train", share=0.1, seed=0))
    split = shards.split("train")
    assert split.label_counts()[0] == len(texts)


def test_label_counts_are_those_of_plain_loops(tmp_path, records):
    shards = build(records, out=tmp_path / "x", vocab_size=270, block=16)
    for split in ("train", "val"):
        counts = shards.split(split).label_counts()
        assert counts.tolist() == reference.label_counts(_rows(shards, split), 270)


def test_the_same_call_gives_the_same_fingerprint(tmp_path, records):
    options = {"vocab_size": 300, "block": 32}
    one = build(records, out=tmp_path / "x", **options)
    two = build(records, out=tmp_path / "y", **options)
    assert one.fingerprint == two.fingerprint
    moved = _records(tmp_path / "other.jsonl")
    assert build(moved, out=tmp_path / "z", **options).fingerprint == one.fingerprint
    reseeded = build(records, out=tmp_path / "w", seed=1, **options)
    assert reseeded.fingerprint != one.fingerprint


def test_a_tokenizer_can_be_taken_from_another_corpus(tmp_path, records):
    one = build(records, out=tmp_path / "x", vocab_size=300, block=32)
    two = build(records, out=tmp_path / "y", tokenizer=tmp_path / "x", block=32)
    assert one.manifest["tokenizer"]["kind"] == "bpe"
    assert two.manifest["tokenizer"]["kind"] == "file"
    assert one.split("train").fingerprint == two.split("train").fingerprint
    assert two.manifest["source"]["tokenizer"] == str(tmp_path / "x")


def test_max_tokens_is_never_exceeded_and_leaves_the_rest_unread(tmp_path):
    records = _records(tmp_path / "a.jsonl", 5_000)
    with records.open("a") as file:
        file.write("not json\n")  # refused if it were reached
    shards = build(records, out=tmp_path / "x", vocab_size=300, block=32, max_tokens=4_000)
    for split, most in (("train", 3_600), ("val", 400)):
        entry = shards.manifest["splits"][split]
        text_tokens = entry["tokens"] - (entry["documents"] - 1)
        # No document has as many as 200 tokens.
        assert most - 200 < text_tokens <= most


def test_encoding_reads_one_batch_ahead_and_no_more():
    def endless():
        for unit in range(BATCH_DOCUMENTS):
            yield "train", Document("the dog", 7, unit, 7, 0.0, None)
        raise AssertionError("read further than asked")

    batch = next(encoded(endless(), tokenizers.word_level(["the", "dog"])))
    assert len(batch) == BATCH_DOCUMENTS
    assert batch[0][2].tolist() == [0, 1]


def test_progress_ends_where_the_source_does(tmp_path, records):
    calls = []
    shards = build(
        records,
        out=tmp_path / "x",
        vocab_size=300,
        block=32,
        progress=lambda *call: calls.append(call),
    )
    assert {stage for stage, _, _ in calls} == {"tokenizer", "tokens"}
    _, share, n_tokens = calls[-1]
    assert 0.9 < share <= 1
    entries = shards.manifest["splits"].values()
    assert n_tokens == sum(entry["tokens"] - entry["documents"] + 1 for entry in entries)


# Stories


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Ten thousand tokens of stories, one word one token."""
    return build("stories", out=tmp_path_factory.mktemp("tokens") / "told", tokens=10_000)


def _stories_of(shards, split):
    found = []
    for row in _rows(shards, split):
        text = shards.tokenizer.decode(row, skip_special_tokens=False)
        first, *told_here, last = text.split(stories.END)
        assert first == last == ""
        found += [story.split() for story in told_here]
    return found


def test_stories_are_whole_and_as_many_as_asked(told):
    assert stories.END == tokenizers.END_OF_TEXT
    grammar = usual_grammar()
    assert told.vocab_size == len(grammar.words)
    assert told.manifest["blocks"] == "whole"
    assert told.manifest["tokenizer"]["kind"] == "word"
    assert told.end_of_text == 0
    for split, n_tokens in (("train", 9_000), ("val", 1_000)):
        found = _stories_of(told, split)
        # Stories are told to their end: the last one may go beyond what was asked.
        lengths = [len(story) + 1 for story in found]
        assert sum(lengths) - max(lengths) < n_tokens <= sum(lengths)
        assert told.split(split).n_labels == sum(lengths)
        for story in found[:5]:
            grammar.score(story)


def test_training_and_validation_tell_other_stories(told):
    train = {" ".join(story) for story in _stories_of(told, "train")}
    val = {" ".join(story) for story in _stories_of(told, "val")}
    assert not train & val


def test_the_floor_is_that_of_the_stories_scored_one_by_one(told):
    grammar = usual_grammar()
    scores = [grammar.score(story) for story in _stories_of(told, "val")]
    nll = np.concatenate([score.nll for score in scores])
    entropy = np.concatenate([score.entropy for score in scores])
    floor = told.entropy_floor
    assert floor["positions"] == told.split("val").n_labels == len(nll)
    assert floor["mean_conditional_entropy"] == pytest.approx(entropy.mean(), rel=1e-12)
    assert floor["realised_nll"] == pytest.approx(nll.mean(), rel=1e-12)
    error = np.sqrt(np.square(nll - entropy).sum()) / len(nll)
    assert floor["standard_error"] == pytest.approx(error, rel=1e-12)
    assert abs(nll.mean() - entropy.mean()) < 4 * error


def test_fast_encoding_of_words_is_the_tokenizers_own(told):
    story = " ".join(_stories_of(told, "val")[0])
    document = Document(story, len(story), 0, len(story), 0.0, None)
    [[(_, _, ids)]] = encoded([("val", document)], told.tokenizer)
    assert ids.tolist() == told.tokenizer.encode(story).ids


def test_a_bpe_shares_the_same_nats_among_its_labels(tmp_path, told):
    shards = build("stories", out=tmp_path / "x", tokens=10_000, vocab_size=600)
    assert shards.manifest["tokenizer"]["kind"] == "bpe"
    assert sorted(_stories_of(shards, "val")) == sorted(_stories_of(told, "val"))
    floor, words = shards.entropy_floor, told.entropy_floor
    assert floor["positions"] == shards.split("val").n_labels > words["positions"]
    for name in ("mean_conditional_entropy", "realised_nll", "standard_error"):
        nats = words[name] * words["positions"]
        assert floor[name] * floor["positions"] == pytest.approx(nats, rel=1e-12)


def test_stories_that_are_cut_have_no_floor_and_say_why(tmp_path):
    shards = build("stories", out=tmp_path / "x", tokens=5_000, blocks="packed")
    assert shards.entropy_floor is None
    assert "cuts stories" in shards.manifest["source"]["entropy_floor"]


def test_the_seed_tells_other_stories(tmp_path, told):
    same = build("stories", out=tmp_path / "x", tokens=10_000)
    other = build("stories", out=tmp_path / "y", tokens=10_000, seed=1)
    assert same.fingerprint == told.fingerprint != other.fingerprint


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": "pact"}, "blocks: unknown 'pact'; did you mean 'packed'?"),
        ({"documents": "words"}, "documents: unknown 'words'; expected one of paragraphs, files"),
        ({"documents": "lines"}, "documents: unknown 'lines'; did you mean 'files'?"),
        ({"block": 1}, "block is 1; expected 2 tokens or more"),
        ({"blocks": "whole", "block": 2}, "block is 2; expected 3 tokens or more"),
        ({"blocks": "whole", "bos": "auto"}, "bos with blocks='whole': only packed blocks"),
        ({"vocab_size": 0}, "vocab_size is 0; expected 1 or more"),
        ({"vocab_size": 10**11}, "a vocabulary of 100,000,000,000 is too large"),
        ({"block": 10**11}, "block is 100,000,000,000; expected at most 16,777,216 tokens"),
        ({"vocab_size": 100}, "a vocabulary of 100 is too small; the smallest is 257"),
        ({"vocab_size": 50_000}, "a vocabulary of 50,000 is larger than this text supports"),
        ({"max_tokens": -1}, "max_tokens is -1; expected 1 or more"),
        ({"shards": 0}, "shards is 0; expected 1 or more"),
        ({"validation_share": 1.0}, "validation_share is 1.0; expected a number in (0, 1)"),
        ({"vocab_size": None}, "give a vocab_size or a tokenizer"),
        ({"tokenizer": "gpt2"}, "tokenizer and vocab_size: give only one of them"),
        ({"words": "bpe"}, "words: only for the source 'stories'; use vocab_size"),
        ({"tokens": 5}, "tokens: only for the source 'stories'; use max_tokens"),
        ({"blocks": "published", "max_tokens": 9}, "max_tokens with blocks='published'"),
        ({"field": "story"}, "records.jsonl:1: no field 'story', but text"),
        ({"block": 2_000}, "a block of 2,000 is longer than the val text ("),
        ({"block": 20_000}, "a block of 20,000 is longer than the train text ("),
        ({"blocks": "whole", "block": 16}, "tokens is too long for blocks='whole'"),
        ({"validation": "nowhere.txt"}, "nowhere.txt: no such file or folder"),
        ({"tokenizer": "nowhere.json", "vocab_size": None}, "nowhere.json: no such tokenizer"),
    ],
)
def test_options_of_text_that_cannot_be_are_refused(tmp_path, records, options, message):
    with pytest.raises(UserError) as caught:
        build(records, out=tmp_path / "x", **({"vocab_size": 300, "block": 32} | options))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["records.jsonl"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 5}, "max_tokens: stories have no end; use tokens"),
        ({"validation": "x.txt"}, "validation: stories make their own; leave it out"),
        ({"words": "letters"}, "words: unknown 'letters'; expected one of word, bpe"),
        ({"words": "bpe"}, "words='bpe': give a vocab_size, too"),
        ({"words": "word", "vocab_size": 300}, "vocab_size: goes with words='bpe'"),
        ({"words": "word", "tokenizer": "x"}, "words and tokenizer: give only one of them"),
        ({"tokens": 0}, "tokens is 0; expected 1 or more"),
        ({"tokens": 500}, "stories: a block of 256 is longer than the val text ("),
    ],
)
def test_options_of_stories_that_cannot_be_are_refused(tmp_path, options, message):
    with pytest.raises(UserError) as caught:
        build("stories", out=tmp_path / "x", **options)
    assert message in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_published_groups_shorter_than_a_block_are_refused(tmp_path):
    # Groups of 1,000 one-token documents: 1,800 tokens of training text, no block of 1,500.
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' * 2_000)
    options = {"vocab_size": 257, "blocks": "published", "shards": 1}
    with pytest.raises(UserError, match="longer than a group of the train text"):
        build(tmp_path / "a.jsonl", out=tmp_path / "x", block=1_500, **options)


def test_text_without_a_long_enough_stretch_to_validate_on_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("one paragraph and no other " * 20)
    with pytest.raises(UserError, match="longer than the val text"):
        build(tmp_path / "a.txt", out=tmp_path / "x", vocab_size=257, block=128)


def test_a_folder_that_exists_is_left_as_it_is(tmp_path, records):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_text("mine")
    with pytest.raises(UserError, match="already exists; remove it or choose another name"):
        build(records, out=tmp_path / "x", vocab_size=300)
    assert (tmp_path / "x" / "mine").read_text() == "mine"


def test_words_that_the_tokenizer_does_not_know_are_one_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a b a"}\n' * 100 + '{"text": "a Bob"}\n')
    tokenizers.save(tokenizers.word_level(["a", "b"]), tmp_path / "tokenizer.json")
    with pytest.raises(UserError) as caught:
        build(tmp_path / "a.jsonl", out=tmp_path / "x", tokenizer=tmp_path, block=4)
    assert str(caught.value) == (
        "the tokenizer cannot write all of this text (KeyError: 'Bob'); use one that can"
    )
    # One that does more than split and look up is asked itself.
    other = tokenizers.word_level(["a", "b", "<unk>"])
    other.normalizer = normalizers.Lowercase()
    tokenizers.save(other, tmp_path / "tokenizer.json")
    shards = build(tmp_path / "a.jsonl", out=tmp_path / "x", tokenizer=tmp_path, block=4)
    assert set(shards.split("train").label_counts().tolist()[:2]) <= {*range(60, 200)}


def test_documents_follow_each_other_where_the_tokenizer_has_no_end_of_text(tmp_path):
    tokenizers.save(tokenizers.word_level(["a", "b"]), tmp_path / "tokenizer.json")
    (tmp_path / "a.jsonl").write_text('{"text": "a b a"}\n' * 100)
    options = {"tokenizer": tmp_path / "tokenizer.json", "block": 4}
    with pytest.raises(UserError, match="the tokenizer has none; use another tokenizer or blocks"):
        build(tmp_path / "a.jsonl", out=tmp_path / "x", blocks="whole", **options)
    for layout in ("published", "packed"):
        shards = build(tmp_path / "a.jsonl", out=tmp_path / layout, blocks=layout, **options)
        assert shards.end_of_text is None
        assert shards.manifest["end_of_text"] is None
        assert _rows(shards, "train")[:3] == [[0, 1, 0, 0], [1, 0, 0, 1], [0, 0, 1, 0]]
    assert "no end-of-text" in shards.manifest["source"]["separator"]


# Real text

AUSTEN = Path(os.environ.get("TIGHTFRAME_DATA", "data")) / "austen"


@pytest.mark.skipif(not AUSTEN.is_dir(), reason="no austen texts in TIGHTFRAME_DATA")
def test_six_novels_as_4096_tokens_in_blocks_of_256(tmp_path):
    shards = build(AUSTEN, out=tmp_path / "austen", vocab_size=4_096)
    train, val = (shards.manifest["splits"][split] for split in ("train", "val"))
    # 10,298 paragraphs; line ends between them are not text.
    assert train["documents"] + val["documents"] == 10_298
    line_ends = 4_017_392 - train["bytes"] - val["bytes"]
    assert 2 * 10_298 - 20 <= line_ends <= 2 * 10_298 + 20
    assert val["bytes"] == pytest.approx(0.1 * 4_017_392, rel=0.05)
    for entry in (train, val):
        assert 3.9 < entry["bytes"] / entry["tokens"] < 4.4
        assert entry["blocks"] == -(-entry["tokens"] // 256)
        assert entry["labels"] == entry["tokens"] - entry["blocks"]
    # Every novel begins in training and ends in validation.
    decoded = {split: set(_decoded(shards, split)) for split in ("train", "val")}
    for novel in AUSTEN.glob("*.txt"):
        paragraphs = novel.read_text(encoding="utf-8").strip().split("\n\n")
        assert paragraphs[10] in decoded["train"]
        assert paragraphs[-1] in decoded["val"]
    counts = shards.split("train").label_counts()
    assert (counts > 0).sum() > 3_700
    assert TokenShards.open(tmp_path / "austen").fingerprint == shards.fingerprint
