"""Attention of a Transformer, and what packed rows, without their padding, take besides.

Attention is torch's `scaled_dot_product_attention` everywhere but on a CPU whose queries see at
most `SHORT` keys. There it multiplies by MKL, whichever library torch's other products use; its
backward pass in bfloat16 takes longer than in float32; with a window it computes what is hidden,
too; and with a mask it takes many times as long where `exact_float32` is on. Products over chunks
of queries take 0.3 to 0.8 of its time (`benchmarks/parts.py`).

Axes: B rows, T positions of a batch, D embedding, E = 3 D, H heads, N = B * H, Q queries of a
chunk, K its keys; n packed positions of rows of at most C.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable

SHORT = 512  # visible keys up to which the weights may be kept in memory for the backward pass


CHUNK = 64  # queries whose weights are computed at once; fastest of 32, 64, 128, 256


GELU_A, GELU_C = 0.044715, math.sqrt(2 / math.pi)
LOG2_E = math.log2(math.e)


Visible = Bool[Tensor, "B 1 T T"] | None  # which keys (last axis) a query sees; None is causal


def attend(
    projected: Float[Tensor, "B T E"], visible: Visible, *, heads: int, scale: float, window: int
) -> Float[Tensor, "B T D"]:
    """Return each query's mean of the values it sees, weighted by softmax(scale * query . key).

    Args:
        projected: Query, key and value side by side, E = 3 D.
        visible: Keys that a query sees; None is causal.
        heads: Parts that D is cut into, each with its own weights.
        scale: Factor of the inner products.
        window: A query sees only keys closer than this many positions; 0: any.
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
    """Yield the queries of each chunk, and the keys that they may see."""
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


class Packing(NamedTuple):
    """Rows of different length without their padding, so that it takes no part in products."""

    rows: int
    columns: int  # of the longest row
    places: Int[Tensor, " n"]  # of the packed positions among all, padding included

    @classmethod
    def of(cls, wanted: Bool[Tensor, "B T"]) -> "Packing":
        """Pack the wanted positions of each row, side by side."""
        lengths = wanted.sum(1)
        rows, columns = len(wanted), int(lengths.max())
        real = torch.arange(columns, device=wanted.device) < lengths[:, None]
        return cls(rows, columns, real.flatten().nonzero().squeeze(1))

    def pack(self, values: Shaped[Tensor, "B C E"]) -> Shaped[Tensor, "n E"]:
        """Drop the padding."""
        values = values.flatten(0, 1)
        return values if len(values) == len(self.places) else values.index_select(0, self.places)

    def pad(self, values: Shaped[Tensor, "n E"]) -> Shaped[Tensor, "B C E"]:
        """Put zeros where the padding is."""
        n = self.rows * self.columns
        if n > len(values):
            padded = values.new_zeros(n, values.shape[1])
            values = padded.index_add(0, self.places, values)  # takes 0.3 of an index_copy's time
        rows: Tensor = values.unflatten(0, (self.rows, self.columns))
        return rows


def gelu(values: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """Return torch's GELU of the tanh form, in 0.4 of its time on a CPU; differs by rounding."""
    if values.device.type != "cpu" or values.dtype != torch.float32:
        return F.gelu(values, approximate="tanh")
    activated: Tensor = _Gelu.apply(values)  # type: ignore[no-untyped-call]
    return activated


class _Gelu(torch.autograd.Function):
    """x s with s = sigmoid(2 c (x + a x^3)): exponentials are cheaper than torch's tanh."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        s = x.square().mul_(-2 * GELU_C * GELU_A * LOG2_E).sub_(2 * GELU_C * LOG2_E)
        s.mul_(x).exp2_().add_(1).reciprocal_()
        ctx.save_for_backward(x, s)
        return x * s

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x: Tensor
        x, s = ctx.saved_tensors
        # d(x s)/dx = s + s (1 - s) x 2 c (1 + 3 a x^2)
        part = x.square().mul_(6 * GELU_C * GELU_A).add_(2 * GELU_C).mul_(x).mul_(s)
        return part.addcmul_(part, s, value=-1).add_(s).mul_(gradient)
