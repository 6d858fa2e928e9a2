import pytest
import torch

from tightframe.lm.interface import IGNORE
from tightframe.lm.objectives import next_token


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
