"""A Transformer with an encoder: the source is read both ways, the target one way.

The class of T5 at the size of our other networks. Blocks, learned positions, tied embeddings and
norms are those of `Transformer`; encoder and decoder share the token and position embeddings.

Axes: B rows, T positions of the target, S positions of the source, D embedding, V vocabulary.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tightframe.errors import UserError
from tightframe.formats import read_listed
from tightframe.lm.checkpoints import CONFIG, REMEDY, WEIGHTS, fill, load_content, save_weights
from tightframe.lm.interface import PRENORM, Batch, check_layers
from tightframe.lm.options import TransformerConfig
from tightframe.lm.transformer import (
    MLP_RATIO,
    NORM_EPS,
    Block,
    Embedder,
    Linear,
    Transformer,
    draw_weights,
    visible_keys,
)
from tightframe.settings import resolve

TOLERANCE = 0.03  # of the number of parameters, as a share
FORMAT = "tightframe-encoder-decoder-1"  # of a folder that holds one
HIDDEN_STEP = 8  # the hidden layers of the MLPs are a multiple of it


@dataclasses.dataclass(frozen=True)
class EncoderDecoderConfig:
    """Sizes of an encoder-decoder."""

    base: TransformerConfig  # its depth is that of the encoder
    decoder_depth: int
    hidden: int  # width of the hidden layers of the MLPs

    @classmethod
    def as_large_as(cls, decoder: TransformerConfig) -> "EncoderDecoderConfig":
        """Return the config with about as many parameters as a Transformer of this kind.

        The blocks are divided in half, at least one each. A block of the decoder has a second
        attention, so the hidden layers of all MLPs are as narrow as it takes.
        """
        wanted = _n_parameters(decoder)
        base = dataclasses.replace(decoder, depth=max(1, (decoder.depth + 1) // 2), window=0)
        depth = max(1, decoder.depth - base.depth)
        sizes = [
            cls(base, depth, hidden)
            for hidden in range(HIDDEN_STEP, MLP_RATIO * decoder.width + 1, HIDDEN_STEP)
        ]
        nearest = min(sizes, key=lambda config: abs(config.n_parameters - wanted))
        if abs(nearest.n_parameters - wanted) > TOLERANCE * wanted:
            raise UserError(
                f"an encoder-decoder has at least {nearest.n_parameters:,} parameters here, the "
                f"network that it is compared with {wanted:,}; take a depth of 2 or more"
            )
        return nearest

    @property
    def n_parameters(self) -> int:
        """Number of parameters, computed without making the network."""
        width, hidden = self.base.width, self.hidden
        norm = 2 * width
        attention = 4 * width * width + width * (4 if self.base.attention_bias else 1)
        mlp = 2 * width * hidden + hidden + width
        encoder = self.base.depth * (2 * norm + attention + mlp)
        decoder = self.decoder_depth * (3 * norm + 2 * attention + mlp)
        tables = (self.base.vocab_size + self.base.positions) * width
        output = 0 if self.base.tied else self.base.vocab_size * width
        return tables + output + encoder + decoder + 2 * norm


class EncoderDecoder(Embedder):
    """An encoder-decoder behind the interface of `tightframe.lm.interface.LanguageModel`.

    Its batches have a source; layers are those of the decoder.

    Args:
        config: Its sizes.
        seed: Seed of the generator that draws the weights; torch's global one is not touched.
        name: Its name in results.
    """

    def __init__(
        self, config: EncoderDecoderConfig, *, seed: int = 0, name: str = "encoder-decoder"
    ):
        super().__init__()
        self.config = config
        self.name = name
        base, hidden = config.base, config.hidden
        width = base.width
        self.token_embedding = nn.Parameter(torch.empty(base.vocab_size, width))
        self.position_embedding = nn.Parameter(torch.empty(base.positions, width))
        self.encoder = nn.ModuleList(
            Block(base, window=0, hidden=hidden) for _ in range(base.depth)
        )
        self.encoder_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.decoder = nn.ModuleList(
            DecoderBlock(base, hidden=hidden) for _ in range(config.decoder_depth)
        )
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.output = None if base.tied else nn.Parameter(torch.empty(base.vocab_size, width))
        if not self.token_embedding.is_meta:
            draw_weights(self, base.init_std, torch.Generator().manual_seed(seed))

    @property
    def depth(self) -> int:
        """The number of blocks of the decoder."""
        return self.config.decoder_depth

    def embed(self, batch: Batch | Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Return the vectors that the classifier multiplies, after the final norm."""
        return self.embed_layers(batch, [self.depth])[0]

    def embed_layers(
        self, batch: Batch | Int[Tensor, "B T"], layers: Sequence[int]
    ) -> list[Float[Tensor, "B T D"]]:
        """Return the embeddings at some layers of the decoder, in their order.

        Layer 0 is the sum of token and position embedding, layer i the residual stream after
        block i, and the last one what `embed` gives. The stream before the final norm is PRENORM.
        """
        check_layers(layers, self.depth)
        if isinstance(batch, Tensor) or batch.source is None:
            raise ValueError(f"{self.name} has an encoder; expected a batch with a source")
        read, readable = self._read(batch.source)
        stream = self._embed_inputs(batch.inputs)
        found = {0: stream}
        visible = visible_keys(batch)
        for i, block in enumerate(self.decoder, start=1):
            stream = block(stream, visible, read, readable)
            found[i] = stream
        found |= {PRENORM: stream, self.depth: self.norm(stream)}
        return [found[layer] for layer in layers]

    def _read(self, source: Batch) -> tuple[Float[Tensor, "B S D"], Bool[Tensor, "B 1 1 S"]]:
        """Encode the source; return its embeddings, and which of them are no padding."""
        stream = self._embed_inputs(source.inputs)
        visible = visible_keys(source)
        for block in self.encoder:
            stream = block(stream, visible)
        place = torch.arange(source.inputs.shape[1], device=source.inputs.device)
        return self.encoder_norm(stream), (place < source.lengths[:, None])[:, None, None]


class DecoderBlock(Block):
    """Attention to the target so far, attention to the source, and an MLP, behind norms."""

    def __init__(self, config: TransformerConfig, *, hidden: int):
        super().__init__(config, window=0, hidden=hidden)
        width = config.width
        self.source_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.source_query = Linear(width, width, bias=config.attention_bias)
        self.source_key_value = Linear(width, 2 * width, bias=config.attention_bias)
        self.source_out = Linear(width, width)

    def forward(  # type: ignore[override]
        self,
        stream: Float[Tensor, "B T D"],
        visible: Bool[Tensor, "B 1 T T"] | None,
        read: Float[Tensor, "B S D"],
        readable: Bool[Tensor, "B 1 1 S"],
    ) -> Float[Tensor, "B T D"]:
        """Return the residual stream after this block."""
        stream = self.attended(stream, visible)
        query = self.source_query(self.source_norm(stream)).unflatten(2, (self.heads, -1))
        key, value = self.source_key_value(read).unflatten(2, (2, self.heads, -1)).unbind(2)
        found = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=readable,
            scale=self.scale,
        )
        return self.transformed(stream + self.source_out(found.transpose(1, 2).flatten(2)))


def _n_parameters(config: TransformerConfig) -> int:
    with torch.device("meta"):
        return Transformer(config).n_parameters


def save_encoder_decoder(model: EncoderDecoder, folder: Path) -> None:
    """Write a new folder with the weights (safetensors) and what they are (config.json)."""
    save_weights(folder, model, format=FORMAT, name=model.name, config=model.config)


def load_encoder_decoder(folder: Path) -> EncoderDecoder:
    """Load a folder that `save_encoder_decoder` wrote; a damaged or altered one is refused."""
    content = load_content(folder, format=FORMAT)
    source = str(folder / CONFIG)
    config = resolve(EncoderDecoderConfig, content.model, source=source)
    tensors = read_listed(folder / WEIGHTS, content.sha256, remedy=REMEDY)
    with torch.device("meta"):
        model = EncoderDecoder(config, name=content.name)
    fill(model, tensors, source=folder)
    return model
