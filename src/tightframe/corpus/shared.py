"""Classes that two tokenizers share, and as many samples of each: what makes two models comparable.

Axes: n shared classes, A and B ids of either vocabulary, N positions.

Tokenizers write the same string in other ways ('Ġthe', '▁the'), so strings are compared as the
bytes that they add to a text, here ' the'.
"""

import torch
from jaxtyping import Bool, Int, Int64
from tokenizers import Tokenizer
from torch import Tensor

from tightframe.corpus.tokenizer import is_byte, marks_ends, token_bytes
from tightframe.errors import UserError


def shared_classes(a: Tokenizer, b: Tokenizer) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    """Ids in `a` and in `b` of the strings that are one token in both, in the order of their bytes.

    Special tokens are left out: an end of text is no string. Tokenizers that lower their text
    before they cut it have only lower-case strings, and a ' the' of theirs stands for ' The', too.
    """
    ids_a, ids_b = _ids(a), _ids(b)
    strings = sorted(ids_a.keys() & ids_b.keys())
    shared = [[ids[string] for string in strings] for ids in (ids_a, ids_b)]
    return torch.tensor(shared[0], dtype=torch.int64), torch.tensor(shared[1], dtype=torch.int64)


def matched_counts(
    counts_a: Int[Tensor, " A"],
    counts_b: Int[Tensor, " B"],
    shared: tuple[Int[Tensor, " n"], Int[Tensor, " n"]],
) -> tuple[Int64[Tensor, " A"], Int64[Tensor, " B"]]:
    """How many samples of each class both splits have: the smaller count; 0 if it is not shared.

    Args:
        counts_a: Labels of each class in the one split.
        counts_b: The same in the other.
        shared: Ids of the shared classes in either, see `shared_classes`.

    Returns:
        The same numbers by the ids of either, to be taken by `Capped`.
    """
    fewer = torch.minimum(counts_a[shared[0]], counts_b[shared[1]]).long()
    matched_a = torch.zeros(len(counts_a), dtype=torch.int64)
    matched_b = torch.zeros(len(counts_b), dtype=torch.int64)
    matched_a[shared[0]] = fewer
    matched_b[shared[1]] = fewer
    return matched_a, matched_b


class Capped:
    """Takes the first samples of each class, up to its quota, in the order of the stream.

    What is taken does not depend on how the stream is cut into batches. After a restart, a new
    one with the quota less what was taken before goes on.

    Attributes:
        remaining: How many of each class are still to be taken.
    """

    def __init__(self, quota: Int[Tensor, " C"]) -> None:
        self.remaining = quota.long().clone()

    def take(self, labels: Int[Tensor, " N"]) -> Bool[Tensor, " N"]:
        """Which of the next positions are taken; those with a negative label never."""
        taken = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
        order = labels.argsort(stable=True)  # positions of a class stand together, in order
        order = order[labels[order] >= 0]
        classes, counts = labels[order].unique_consecutive(return_counts=True)
        first = (counts.cumsum(0) - counts).repeat_interleave(counts)
        nth = torch.arange(len(order), device=labels.device) - first  # of its class in this batch
        taken[order] = nth < self.remaining[labels[order]]
        self.remaining[classes] -= torch.minimum(counts, self.remaining[classes])
        return taken


def _ids(tokenizer: Tokenizer) -> dict[bytes, int]:
    """Return the id of each string that is one token, by its bytes."""
    if marks_ends(tokenizer):
        raise UserError(
            "a tokenizer that marks the ends of words shares no strings with one that marks their "
            "beginnings; compare its model by bits per byte only"
        )
    ids: dict[bytes, int] = {}
    bytes_only: dict[bytes, int] = {}
    for index, string in sorted(token_bytes(tokenizer).items()):
        # Where a letter is a token and its byte is one, too, text is written with the letter.
        byte = is_byte(str(tokenizer.id_to_token(index)), tokenizer)
        (bytes_only if byte else ids).setdefault(string, index)
    return bytes_only | ids
