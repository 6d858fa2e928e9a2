"""One Transformer: pre-norm, learned positions, alternating global and local attention.

Its defaults are GPT-Neo's, which is what the published study trained; with them its logits are
those of transformers' `GPTNeoForCausalLM`. Causal, prefix and bidirectional batches differ only in
the mask, which is not a parameter.

Attention is torch's `scaled_dot_product_attention` everywhere but on a CPU whose queries see at
most `SHORT` keys. There it multiplies by MKL, whichever library torch's other products use; its
backward pass in bfloat16 takes longer than in float32; with a window it computes what is hidden,
too; and with a mask it takes many times as long where `exact_float32` is on. Products over chunks
of queries take 0.3 to 0.8 of its time (`benchmarks/parts.py`).

Axes: B rows, T positions of a batch, D embedding (the width), V vocabulary, H heads, P positions
that the model knows, N = B * H, Q queries of a chunk, K its keys.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tightframe.lm.interface import PRENORM, Batch, check_layers, check_positions
from tightframe.lm.options import TransformerConfig

MLP_RATIO = 4  # width of the hidden layer of the MLP over D
NORM_EPS = 1e-5


SHORT = 512  # visible keys up to which the weights may be kept in memory for the backward pass


CHUNK = 64  # queries whose weights are computed at once; fastest of 32, 64, 128, 256


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


class Embedder(nn.Module):
    """A network that reads tokens and writes logits with one vocabulary, perhaps one matrix."""

    name: str  # what results call it
    token_embedding: nn.Parameter  # (V, D)
    position_embedding: nn.Parameter  # (P, D)
    output: nn.Parameter | None  # (V, D); None: the classifier is the token embedding

    @property
    def classifier(self) -> Float[Tensor, "V D"]:
        """The output matrix, one row per token; the parameter itself."""
        return self.token_embedding if self.output is None else self.output

    @property
    def bias(self) -> None:
        """No bias: None."""
        return None

    @property
    def positions(self) -> int:
        """Number of positions it knows, P, in each of its inputs."""
        return len(self.position_embedding)

    @property
    def n_parameters(self) -> int:
        """Number of parameters; a tied classifier counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def head(self, embeddings: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """Return the logits: inner products with the rows of the classifier."""
        return F.linear(embeddings, self.classifier)

    def _embed_inputs(self, inputs: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Return the input of the first block; refuse rows that are longer than its positions."""
        check_positions(inputs.shape[1], self.positions, name=self.name)
        tokens = F.embedding(inputs, self.token_embedding)
        return tokens + self.position_embedding[: inputs.shape[1]]


class Transformer(Embedder):
    """A Transformer behind the interface of `tightframe.lm.interface.LanguageModel`.

    Args:
        config: Its sizes.
        seed: Seed of the generator that draws the weights; torch's global one is not touched.
        name: Its name in results.
    """

    def __init__(self, config: TransformerConfig, *, seed: int = 0, name: str = "transformer"):
        super().__init__()
        self.config = config
        self.name = name
        width = config.width
        self.token_embedding = nn.Parameter(torch.empty(config.vocab_size, width))
        self.position_embedding = nn.Parameter(torch.empty(config.positions, width))
        self.blocks = nn.ModuleList(
            Block(config, window=config.window if i % 2 else 0) for i in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.output = None if config.tied else nn.Parameter(torch.empty(config.vocab_size, width))
        if not self.token_embedding.is_meta:
            draw_weights(self, config.init_std, torch.Generator().manual_seed(seed))

    @property
    def depth(self) -> int:
        """The number of blocks, and of the layer that the classifier multiplies."""
        return self.config.depth

    @property
    def architecture(self) -> str:
        """Name of its kind in results."""
        return "Transformer"

    @property
    def tied(self) -> bool:
        """True if the classifier is the token embedding."""
        return self.config.tied

    def embed(self, batch: Batch | Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Return the vectors that the classifier multiplies, after the final norm.

        Those of real positions don't depend on the padding after them; those of padding mean
        nothing.
        """
        batch = self._checked(batch)
        embeddings: Tensor = self(batch.inputs, visible_keys(batch))
        return embeddings

    def embed_layers(
        self, batch: Batch | Int[Tensor, "B T"], layers: Sequence[int]
    ) -> list[Float[Tensor, "B T D"]]:
        """Return the embeddings at some layers, in their order.

        Layer 0 is the sum of token and position embedding, layer i the residual stream after
        block i, and the last layer (`depth`) is what `embed` gives: after the last block and the
        final norm. The stream between these two is PRENORM.
        """
        check_layers(layers, self.depth)
        batch = self._checked(batch)
        stream = self._embed_inputs(batch.inputs)
        visible = visible_keys(batch)
        found = {0: stream} if 0 in layers else {}
        for i, block in enumerate(self.blocks, start=1):
            stream = block(stream, visible)
            if i in layers:  # no other layer is kept in memory
                found[i] = stream
        if PRENORM in layers:
            found[PRENORM] = stream
        if self.depth in layers:
            found[self.depth] = self.norm(stream)
        return [found[layer] for layer in layers]

    def forward(
        self, inputs: Int[Tensor, "B T"], visible: Visible = None
    ) -> Float[Tensor, "B T D"]:
        """Return what `embed` does, with the mask given: nothing looks at the batch's values.

        Args:
            inputs: Token ids.
            visible: Keys that a query of a global block sees; None is causal.
        """
        stream = self._embed_inputs(inputs)
        for block in self.blocks:
            stream = block(stream, visible)
        embeddings: Tensor = self.norm(stream)
        return embeddings

    def _checked(self, batch: Batch | Int[Tensor, "B T"]) -> Batch:
        if isinstance(batch, Tensor):
            batch = Batch.causal(batch)
        if batch.source is not None:
            raise ValueError(f"{self.name} has no encoder; expected a batch without a source")
        return batch


class Block(nn.Module):
    """Attention and an MLP, each added to the residual stream, each behind its own norm."""

    def __init__(self, config: TransformerConfig, *, window: int, hidden: int | None = None):
        super().__init__()
        width = config.width
        hidden = hidden or MLP_RATIO * width
        self.window = window
        self.heads = config.heads
        self.scale = (width // config.heads) ** -0.5 if config.scale_attention else 1.0
        self.attention_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.query_key_value = Linear(width, 3 * width, bias=config.attention_bias)
        self.attention_out = Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp_in = Linear(width, hidden)
        self.mlp_out = Linear(hidden, width)

    def forward(self, stream: Float[Tensor, "B T D"], visible: Visible) -> Float[Tensor, "B T D"]:
        """Return the residual stream after this block."""
        return self.transformed(self.attended(stream, visible))

    def attended(self, stream: Float[Tensor, "B T D"], visible: Visible) -> Float[Tensor, "B T D"]:
        """Return the residual stream after attention."""
        attended = attend(
            self.query_key_value(self.attention_norm(stream)),
            visible,
            heads=self.heads,
            scale=self.scale,
            window=self.window,
        )
        added: Tensor = self.attention_out(attended)
        return stream + added

    def transformed(self, stream: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Return the residual stream after the MLP."""
        hidden = F.gelu(self.mlp_in(self.mlp_norm(stream)), approximate="tanh")
        added: Tensor = self.mlp_out(hidden)
        return stream + added


class Linear(nn.Linear):
    """A linear map whose weights the Transformer draws, from its own generator."""

    def reset_parameters(self) -> None:
        """Leave the weights empty."""


def draw_weights(model: nn.Module, std: float, generator: torch.Generator) -> None:
    """Draw embeddings and matrices from a normal distribution; biases become 0, norms stay."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=std, generator=generator)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


def visible_keys(batch: Batch) -> Visible:
    """Return which keys the queries see; None if the batch is causal.

    A causal batch needs no mask for its padding, which comes after every real query.
    """
    if not bool((batch.prefix > 1).any()):  # the first key is seen by all in any case
        return None
    place = torch.arange(batch.inputs.shape[1], device=batch.inputs.device)
    query, key = place[:, None], place
    visible = (key <= query) | (key < batch.prefix[:, None, None])  # (B, T, T)
    visible &= key < batch.lengths[:, None, None]
    visible |= query == key  # so that queries of padding see something, not NaN
    return visible[:, None]
