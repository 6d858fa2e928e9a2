import pytest
import torch

from tightframe.lm.interface import (
    IGNORE,
    Example,
    collate,
    continued,
    next_token,
    slotted,
    translated,
)


def test_each_position_predicts_the_token_after_it():
    # Row 1 has 3 real tokens, hence 2 labels; the 9s are padding.
    tokens = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 9], [8, 9, 9, 9]])
    batch = next_token(tokens, torch.tensor([4, 3, 1]))
    assert batch.inputs.tolist() == [[1, 2, 3], [5, 6, 7], [8, 9, 9]]
    assert batch.targets.tolist() == [[2, 3, 4], [6, 7, IGNORE], [IGNORE, IGNORE, IGNORE]]
    assert batch.lengths.tolist() == [3, 3, 1]
    assert batch.prefix.tolist() == [0, 0, 0]


def test_labels_are_one_fewer_than_the_tokens_of_a_row():
    lengths = torch.arange(11)
    batch = next_token(torch.zeros(11, 10, dtype=torch.long), lengths)
    found = (batch.targets != IGNORE).sum(1)
    assert found.tolist() == (lengths - 1).clamp(min=0).tolist()


def test_padding_is_never_a_label():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 50, (20, 8), generator=generator)
    lengths = torch.randint(1, 9, (20,), generator=generator)
    tokens[torch.arange(8) >= lengths[:, None]] = 0
    assert not (next_token(tokens, lengths).targets == 0).any()


def test_a_row_of_one_token_is_refused():
    with pytest.raises(ValueError, match="rows of at least 2 tokens, got 1"):
        next_token(torch.zeros(3, 1, dtype=torch.long), torch.ones(3, dtype=torch.long))


def test_the_last_position_of_a_prompt_predicts_the_first_of_the_target():
    example = continued([1, 2, 3], [4, 5], bidirectional=True)
    assert example.inputs == (1, 2, 3, 4)
    assert example.targets == (IGNORE, IGNORE, 4, 5)
    assert (example.prefix, continued([1, 2, 3], [4, 5], bidirectional=False).prefix) == (3, 0)


def test_slots_that_are_left_over_predict_the_end():
    example = slotted([1, 2], [4], slot=7, n_slots=3, end=9)
    assert example.inputs == (1, 2, 7, 7, 7)
    assert example.targets == (IGNORE, IGNORE, 4, 9, 9)
    assert example.prefix == 5


def test_a_decoder_is_given_its_start_and_the_target_so_far():
    example = translated([1, 2], [4, 5], start=0)
    assert (example.inputs, example.targets, example.source) == ((0, 4), (4, 5), (1, 2))


def test_padding_of_examples_has_no_targets():
    batch = collate([Example((1, 2), (3, 4), 1), Example((5,), (6,))], pad=0)
    assert batch.inputs.tolist() == [[1, 2], [5, 0]]
    assert batch.targets.tolist() == [[3, 4], [6, IGNORE]]
    assert (batch.lengths.tolist(), batch.prefix.tolist()) == ([2, 1], [1, 0])
    assert batch.source is None


def test_a_source_is_read_both_ways():
    batch = collate([translated([1, 2], [4], start=9), translated([3], [4], start=9)], pad=0)
    assert batch.source is not None
    assert batch.source.inputs.tolist() == [[1, 2], [3, 0]]
    assert batch.source.prefix.tolist() == batch.source.lengths.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: continued([], [1], bidirectional=False), "got 0 of prompt, 1 of target"),
        (lambda: slotted([1], [1, 2], slot=0, n_slots=1, end=9), "1 to 1 tokens, got 2"),
        (lambda: translated([1], [], start=0), "got 1 of source, 0 of target"),
        (lambda: collate([], pad=0), "expected examples, got none"),
        (
            lambda: collate([Example((1,), (2,)), Example((1,), (2,), source=(3,))], pad=0),
            "1 of 2 examples have a source",
        ),
    ],
)
def test_examples_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
