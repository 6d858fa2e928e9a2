import json

import pytest
import torch

from tightframe.corpus.shards import TokenShards
from tightframe.errors import UserError
from tightframe.geometry.labels import LabelledBlocks, LabelSpec
from tightframe.lm.interface import IGNORE
from tiny_tokens import write_tokens

BLOCK, VOCAB = 9, 23


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    path = write_tokens(tmp_path_factory.mktemp("tokens") / "x", vocab_size=VOCAB, block=BLOCK)
    return TokenShards.open(path).split("train")


def positions(split):
    """Block, position, token there and token after it, for every labelled position."""
    for block, (tokens, length) in enumerate(zip(*split.rows(range(len(split))), strict=True)):
        for position in range(int(length) - 1):
            yield block, position, int(tokens[position]), int(tokens[position + 1])


@pytest.mark.parametrize("skip", [0, 1, 3])
@pytest.mark.parametrize("labels", ["next", "current"])
def test_a_reading_gives_each_position_its_label(split, labels, skip):
    read = LabelledBlocks(split, LabelSpec(labels, skip)).rows(range(len(split)))
    expected = torch.full_like(read.labels, IGNORE)
    targets = expected.clone()
    for block, position, current, after in positions(split):
        if position >= skip:
            expected[block, position] = {"next": after, "current": current}[labels]
            targets[block, position] = after
    assert torch.equal(read.labels, expected)
    assert torch.equal(read.batch.targets, targets)
    passed = torch.full_like(read.labels, IGNORE)
    for block, position, _, after in positions(split):
        if position < skip and labels == "next":
            passed[block, position] = after
    assert torch.equal(read.passed, passed)
    counts = torch.bincount(expected[expected != IGNORE], minlength=VOCAB)
    assert torch.equal(LabelledBlocks(split, LabelSpec(labels, skip)).label_counts(), counts)


@pytest.mark.parametrize("labels", ["next", "current", "shuffled"])
def test_positions_after_a_special_token_are_left_out(tmp_path, labels):
    # The end of text is token 3, and the tokenizer marks token 5 as special and 7 as added only.
    added = [{"id": 5, "special": True}, {"id": 7, "special": False}]
    path = write_tokens(
        tmp_path / "x",
        vocab_size=VOCAB,
        block=BLOCK,
        train=60,
        end_of_text=3,
        tokenizer=json.dumps({"added_tokens": added}),
    )
    shards = TokenShards.open(path)
    assert shards.special == (3, 5)
    split = shards.split("train")
    reader = LabelledBlocks(split, LabelSpec(labels, skip_special=True))
    read = reader.rows(range(len(split)))
    whole = LabelledBlocks(split, LabelSpec(labels)).rows(range(len(split)))
    for block, position, current, after in positions(split):
        left_out = current in (3, 5)
        assert read.labels[block, position] == (
            IGNORE if left_out else whole.labels[block, position]
        )
        assert read.batch.targets[block, position] == (IGNORE if left_out else after)
    counts = torch.bincount(read.labels[read.labels != IGNORE], minlength=VOCAB)
    assert torch.equal(reader.label_counts(), counts)
    assert counts.sum() < split.n_labels


def test_shuffled_labels_are_the_same_labels_elsewhere(split):
    shuffled = LabelledBlocks(split, LabelSpec("shuffled", seed=1))
    assert torch.equal(shuffled.label_counts(), split.label_counts())
    rows = range(len(split))
    read, plain = shuffled.rows(rows), LabelledBlocks(split, LabelSpec()).rows(rows)
    labelled = plain.labels != IGNORE
    assert torch.equal(read.labels != IGNORE, labelled)
    # Labels of a block are nearly one token (see tiny_tokens), elsewhere one of 23.
    assert float((read.labels == plain.labels)[labelled].double().mean()) < 0.3
    one_by_one = torch.cat([shuffled.rows(range(row, row + 1)).labels for row in rows])
    assert torch.equal(one_by_one, read.labels)


def test_each_position_belongs_to_the_group_that_its_place_lies_in(split):
    groups = split.groups(5)
    read = LabelledBlocks(split, LabelSpec(), groups).rows(range(len(split)))
    for block, position, *_ in positions(split):
        place = block * BLOCK + position + 1
        group = int(read.groups[block, position])
        assert groups.bounds[group] <= place < groups.bounds[group + 1]
    assert read.groups.unique().tolist() == list(range(5))


def test_positions_to_skip_must_leave_one(split):
    with pytest.raises(UserError, match="skip is 8, but blocks of 9 tokens have 8 positions"):
        LabelledBlocks(split, LabelSpec(skip=BLOCK - 1))
