"""One Transformer: pre-norm, learned positions, alternating global and local attention.

Its defaults are GPT-Neo's, which is what the published study trained; with them its logits are
those of transformers' `GPTNeoForCausalLM`. Causal, prefix and bidirectional batches differ only in
the mask, which is not a parameter.

Axes: B rows, T positions of a batch, D embedding (the width), V vocabulary, H heads, P positions
that the model knows, N packed positions, n wanted ones, at most Q in a row.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tightframe.lm.attention import Packing, Visible, attend, gelu
from tightframe.lm.interface import PRENORM, Batch, check_layers, check_positions
from tightframe.lm.options import TransformerConfig

MLP_RATIO = 4  # width of the hidden layer of the MLP over D
NORM_EPS = 1e-5


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

    def embed_at(self, batch: Batch, wanted: Bool[Tensor, "B T"]) -> Float[Tensor, "n D"]:
        """Return what `embed` returns, at the wanted positions alone, row by row."""
        embeddings: Tensor = self.embed(batch)[wanted]  # type: ignore[operator]
        return embeddings

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

    def embed_at(self, batch: Batch, wanted: Bool[Tensor, "B T"]) -> Float[Tensor, "n D"]:
        """Return what `embed` returns, at the wanted positions alone, row by row.

        Padding takes no part in matrix products, and the last block computes keys and values
        everywhere but all else at the wanted positions only: results differ by rounding.
        """
        batch = self._checked(batch)
        stream, visible = self._embed_inputs(batch.inputs), visible_keys(batch)
        place = torch.arange(stream.shape[1], device=stream.device)
        real = place < batch.lengths[:, None]
        packing = Packing(len(real), len(place), real.flatten().nonzero().squeeze(1))
        stream = packing.pack(stream)
        last = self.blocks[-1]
        assert isinstance(last, Block)
        for block in [*self.blocks][:-1]:
            stream = block(stream, visible, packing)
        chosen = (real.flatten().cumsum(0) - 1)[wanted.flatten()]  # (n,), among the real ones
        if last.window or 2 * len(chosen) > len(stream):
            stream = last(stream, visible, packing).index_select(0, chosen)
        else:
            asked = Packing.of(wanted)
            query = asked.pad(place.expand_as(wanted)[wanted][:, None])  # (B, Q, 1)
            seen = (place <= query) | (place < batch.prefix[:, None, None])  # (B, Q, T)
            seen &= place < batch.lengths[:, None, None]
            stream = last.at(stream, packing, chosen, asked, seen[:, None])
        embeddings: Tensor = self.norm(stream)
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

    dropout = 0.0  # share of what is added that a training drops

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

    def forward(
        self, stream: Float[Tensor, "*N D"], visible: Visible, packing: Packing | None = None
    ) -> Float[Tensor, "*N D"]:
        """Return the residual stream after this block; with a packing, of its positions only."""
        return self.transformed(self.attended(stream, visible, packing))

    def attended(
        self, stream: Float[Tensor, "*N D"], visible: Visible, packing: Packing | None = None
    ) -> Float[Tensor, "*N D"]:
        """Return the residual stream after attention."""
        projected = self.query_key_value(self.attention_norm(stream))
        attended = attend(
            projected if packing is None else packing.pad(projected),
            visible,
            heads=self.heads,
            scale=self.scale,
            window=self.window,
        )
        attended = attended if packing is None else packing.pack(attended)
        return stream + self._dropped(self.attention_out(attended))

    def at(
        self,
        stream: Float[Tensor, "N D"],
        real: Packing,
        chosen: Int[Tensor, " n"],
        asked: Packing,
        seen: Bool[Tensor, "B 1 Q T"],
    ) -> Float[Tensor, "n D"]:
        """Return the residual stream after this block at some positions only.

        Args:
            stream: Packed positions.
            real: Their places in the batch.
            chosen: Which of them are wanted.
            asked: The wanted positions, packed.
            seen: Keys that each of them sees.
        """
        width, projection = stream.shape[1], self.query_key_value
        normed, by_head = self.attention_norm(stream), (self.heads, width // self.heads)
        parts = [width, 2 * width]
        ours, theirs = projection.weight.split(parts)
        biases = (None, None) if projection.bias is None else projection.bias.split(parts)
        query = asked.pad(F.linear(normed.index_select(0, chosen), ours, biases[0]) * self.scale)
        both = real.pad(F.linear(normed, theirs, biases[1]))
        key, value = both.unflatten(2, (2, *by_head)).permute(2, 0, 3, 1, 4)
        logits = query.unflatten(2, by_head).transpose(1, 2) @ key.transpose(2, 3)  # (B, H, Q, T)
        attended = logits.masked_fill(~seen, -math.inf).softmax(-1) @ value
        added = self.attention_out(asked.pack(attended.transpose(1, 2).flatten(2)))
        return self.transformed(stream.index_select(0, chosen) + self._dropped(added))

    def transformed(self, stream: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        """Return the residual stream after the MLP."""
        hidden = self.mlp_in(self.mlp_norm(stream))
        hidden = gelu(hidden) if stream.ndim == 2 else F.gelu(hidden, approximate="tanh")
        return stream + self._dropped(self.mlp_out(hidden))

    def _dropped(self, added: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        return F.dropout(added, self.dropout, self.training) if self.dropout else added


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
