"""Attention: which keys a query sees, and the fastest way there on this device.

torch's `scaled_dot_product_attention` everywhere but on a CPU whose queries see at most `SHORT`
keys. There it multiplies by MKL, whichever library torch's other products use; its backward pass
in bfloat16 takes longer than in float32; with a window it computes what is hidden, too; and with a
mask it takes many times as long where `exact_float32` is on. Products over chunks of queries take
0.3 to 0.8 of its time (`benchmarks/parts.py`).

Axes: B rows, T positions, D embedding, H heads, N = B * H, Q queries of a chunk, K its keys.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

SHORT = 512  # visible keys up to which the weights may be kept in memory for the backward pass
CHUNK = 64  # queries whose weights are computed at once; fastest of 32, 64, 128, 256

Visible = Bool[Tensor, "B 1 T T"] | None  # which keys (last axis) a query sees; None is causal


def attend(
    projected: Float[Tensor, "B T E"], visible: Visible, *, heads: int, scale: float, window: int
) -> Float[Tensor, "B T D"]:
    """Each query's mean of the values that it sees, weighted by softmax(scale * query . key).

    Args:
        projected: Query, key and value side by side, E = 3 D.
        visible: Which keys a query sees; None is causal.
        heads: Parts that D is cut into, each with its own weights.
        scale: Of the inner products.
        window: A query sees only keys that are less than this many positions away; 0: any.
    """
    rows, n_positions, _ = projected.shape
    window = window if window < n_positions else 0
    n_keys = window if window and visible is None else n_positions  # that a query sees, at most
    chunked = projected.device.type == "cpu" and n_keys <= SHORT
    if window and not (chunked and visible is None):
        place = torch.arange(n_positions, device=projected.device)
        ahead = place - place[:, None]  # (T, T), of the key
        near = ahead.abs() < window
        visible = near & (ahead <= 0 if visible is None else visible)
    if chunked:
        with torch.autocast("cpu", enabled=False):  # every product in the dtype it is given
            attended: Tensor = _Chunked.apply(  # type: ignore[no-untyped-call]
                projected, visible, heads, scale, window
            )
        return attended
    by_head = projected.view(rows, n_positions, 3, heads, -1).transpose(1, 3)
    query, key, value = by_head.unbind(2)  # each (B, H, T, D / H)
    attended = F.scaled_dot_product_attention(
        query, key, value, attn_mask=visible, is_causal=visible is None, scale=scale
    )
    return attended.transpose(1, 2).flatten(2)


class _Chunked(torch.autograd.Function):
    """Attention, a chunk of queries at a time, that keeps its weights; causal without a mask."""

    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, visible: Visible, heads: int, scale: float, window: int
    ) -> Tensor:
        rows, n_positions, _ = projected.shape
        by_head = projected.view(rows, n_positions, 3, heads, -1).permute(2, 0, 3, 1, 4)
        stacked = by_head.contiguous().flatten(1, 2)  # (3, N, T, D / H)
        query, key, value = stacked.unbind(0)
        if scale != 1:
            query.mul_(scale)
        attended = torch.empty_like(query)
        kept = []
        hidden = None if visible is None else ~visible
        chunks = list(_chunks(n_positions, window, causal=visible is None))
        for queries, keys in chunks:
            logits = query[:, queries] @ key[:, keys].transpose(1, 2)  # (N, Q, K)
            if hidden is None:
                _hide(logits, keys.start, queries.start, window)
            else:
                by_row = logits.view(rows, heads, *logits.shape[1:])
                by_row.masked_fill_(hidden[:, :, queries], -math.inf)
            weights = logits.softmax(-1)
            attended[:, queries] = weights @ value[:, keys]
            kept.append(weights)
        ctx.save_for_backward(stacked, attended, *kept)
        ctx.shape, ctx.scale, ctx.chunks = (rows, heads, n_positions, -1), scale, chunks
        return attended.view(ctx.shape).transpose(1, 2).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        stacked, attended, *kept = ctx.saved_tensors
        query, key, value = stacked.unbind(0)
        rows, heads, n_positions, _ = ctx.shape
        by_head = gradient.view(rows, n_positions, heads, -1).transpose(1, 2)
        d_attended = by_head.flatten(0, 1)  # (N, T, D / H)
        # d logits = weights * (d weights - sum over keys of weights * d weights), and that sum is
        # the inner product of attended and d attended.
        shared = (d_attended * attended).sum(-1, keepdim=True)  # (N, T, 1)
        d_stacked = torch.zeros_like(stacked)
        d_query, d_key, d_value = d_stacked.unbind(0)
        for weights, (queries, keys) in zip(kept, ctx.chunks, strict=True):
            d_chunk = d_attended[:, queries]
            d_value[:, keys].baddbmm_(weights.transpose(1, 2), d_chunk)
            d_logits = d_chunk @ value[:, keys].transpose(1, 2)
            d_logits.sub_(shared[:, queries]).mul_(weights)
            d_query[:, queries] = d_logits @ key[:, keys]
            d_key[:, keys].baddbmm_(d_logits.transpose(1, 2), query[:, queries])
        if ctx.scale != 1:
            d_query.mul_(ctx.scale)
        d_stacked = d_stacked.view(3, *ctx.shape)  # (3, B, H, T, D / H)
        return d_stacked.permute(1, 3, 0, 2, 4).flatten(2), None, None, None, None


def _chunks(n_positions: int, window: int, *, causal: bool) -> Iterator[tuple[slice, slice]]:
    """The queries of each chunk, and the keys that they may see."""
    for start in range(0, n_positions, CHUNK):
        stop = min(start + CHUNK, n_positions)
        first = max(0, start - window + 1) // CHUNK * CHUNK if window and causal else 0
        yield slice(start, stop), slice(first, stop if causal else n_positions)


def _hide(logits: Tensor, first: int, start: int, window: int) -> None:
    """Set the logits of later keys, and of those that are `window` or more back, to -inf."""
    _, n_queries, n_keys = logits.shape
    hidden = logits.new_full((n_queries, n_queries), -math.inf)
    logits[:, :, start - first :] += hidden.triu(1)
    n_far = n_keys - window  # keys that are too far back for the last query
    if window and n_far > 0:
        hidden = logits.new_full((n_queries, n_far), -math.inf)
        logits[:, :, :n_far] += hidden.tril(start - first - window)
