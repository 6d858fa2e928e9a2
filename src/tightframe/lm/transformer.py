"""One Transformer: pre-norm, learned positions, alternating global and local attention; its folder.

Its defaults are GPT-Neo's, which is what the published study trained; with them its logits are
those of transformers' `GPTNeoForCausalLM`. Causal, prefix and bidirectional batches differ only in
the mask, which is not a parameter.

A model's folder holds model.safetensors, and config.json that says what it is: no code, no pickle.
config.json holds the SHA-256 of the weights and a fingerprint of itself, so that a damaged or
altered folder is refused.

Axes: B rows, T positions of a batch, D embedding (the width), V vocabulary, H heads,
P positions that the model knows.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tightframe.errors import UserError
from tightframe.files import whole_folder
from tightframe.formats import (
    Record,
    Sha256,
    read_json,
    read_listed,
    read_signed,
    write_listed,
    write_signed,
)
from tightframe.lm.attention import Visible, attend
from tightframe.lm.interface import PRENORM, Batch, check_layers, check_positions
from tightframe.lm.options import TransformerConfig
from tightframe.settings import resolve

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
REMEDY = "use another checkpoint"


class Content(Record):
    """What config.json says of the weights beside it."""

    format: str
    name: str
    sha256: Sha256  # of the weights
    fingerprint: str
    model: dict[str, Any]  # what the model is, by the class that `format` names


def save_weights(folder: Path, model: nn.Module, *, format: str, name: str, config: Any) -> None:
    """Write a new folder with the weights and what they are; `config` is a dataclass."""
    with whole_folder(folder) as temporary:
        content = {
            "format": format,
            "name": name,
            "model": dataclasses.asdict(config),
            "sha256": write_listed(temporary / WEIGHTS, model.state_dict()),
        }
        write_signed(temporary / CONFIG, content)


def load_content(folder: Path, *, format: str) -> Content:
    """What config.json says of the weights beside it."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such checkpoint folder")
    path = folder / CONFIG
    if (found := read_json(path, dict[str, Any], remedy=REMEDY).get("format")) != format:
        raise UserError(f"{path}: holds {found!a}, expected a checkpoint of tightframe, {format}")
    content: Content = read_signed(path, Content, remedy=REMEDY)
    return content


def digest_of_weights(folder: Path) -> str:
    """Return the SHA-256 that a checkpoint's config.json lists: which weights it holds."""
    content: Content = read_signed(folder / CONFIG, Content, remedy=REMEDY)
    return content.sha256


def fill(model: nn.Module, tensors: dict[str, Tensor], *, source: Path | str) -> None:
    """Give a model on the meta device a copy of these weights; `source` is named in errors.

    Tensors of a mapped file are aligned otherwise than torch's own, which changes the last bits
    of products; the copy gives the bits of the model that was saved.
    """
    for name, value in model.state_dict().items():
        if name in tensors and tensors[name].shape != value.shape:
            raise UserError(
                f"{source}: the weights don't fit config.json: {name} is "
                f"{list(tensors[name].shape)}, expected {list(value.shape)}; {REMEDY}"
            )
    copies = {name: value.clone() for name, value in tensors.items()}
    try:
        model.load_state_dict(copies, assign=True)
    except RuntimeError as error:
        reason = str(error).split("\n\t")[1]  # the first line says only that there is one
        raise UserError(f"{source}: the weights don't fit config.json: {reason}") from None


FORMAT = "tightframe-transformer-1"  # what config.json of a checkpoint folder says
MLP_RATIO = 4  # width of the hidden layer of the MLP over D
NORM_EPS = 1e-5


class Embedder(nn.Module):
    """What reads tokens and writes logits with one vocabulary, perhaps with one matrix for both."""

    name: str  # what results call it
    token_embedding: nn.Parameter  # (V, D)
    position_embedding: nn.Parameter  # (P, D)
    output: nn.Parameter | None  # (V, D); None: the classifier is the token embedding

    @property
    def classifier(self) -> Float[Tensor, "V D"]:
        """The output matrix, a row a token; the parameter itself."""
        return self.token_embedding if self.output is None else self.output

    @property
    def bias(self) -> None:
        """None: the logits have no bias."""
        return None

    @property
    def positions(self) -> int:
        """P: how many positions it knows, of each of its inputs."""
        return len(self.position_embedding)

    @property
    def n_parameters(self) -> int:
        """Numbers that are trained; a tied classifier counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def head(self, embeddings: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """Logits: the inner products with the rows of the classifier."""
        return F.linear(embeddings, self.classifier)

    def _embed_inputs(self, inputs: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """What goes into the first block; rows that are longer than its positions are refused."""
        check_positions(inputs.shape[1], self.positions, name=self.name)
        tokens = F.embedding(inputs, self.token_embedding)
        return tokens + self.position_embedding[: inputs.shape[1]]


class Transformer(Embedder):
    """A language model behind the interface of `tightframe.lm.interface.LanguageModel`.

    Args:
        config: What it is.
        seed: Of the generator that draws the weights; torch's global one is not touched.
        name: What results call it.
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
        """What results call its kind."""
        return "Transformer"

    @property
    def tied(self) -> bool:
        """Whether the classifier is the token embedding."""
        return self.config.tied

    def embed(self, batch: Batch | Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """The vectors that the classifier multiplies, after the final norm.

        Those of real positions don't depend on the padding after them; those of padding mean
        nothing.
        """
        batch = self._checked(batch)
        embeddings: Tensor = self(batch.inputs, visible_keys(batch))
        return embeddings

    def embed_layers(
        self, batch: Batch | Int[Tensor, "B T"], layers: Sequence[int]
    ) -> list[Float[Tensor, "B T D"]]:
        """The embeddings at some layers, in the order asked for.

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
        """`embed` with the mask given, so that nothing looks at the batch's values.

        Args:
            inputs: Token ids.
            visible: Which keys a query of a global block sees; None is causal.
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
        """The residual stream after this block."""
        return self.transformed(self.attended(stream, visible))

    def attended(self, stream: Float[Tensor, "B T D"], visible: Visible) -> Float[Tensor, "B T D"]:
        """The residual stream after attention."""
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
        """The residual stream after the MLP."""
        hidden = F.gelu(self.mlp_in(self.mlp_norm(stream)), approximate="tanh")
        added: Tensor = self.mlp_out(hidden)
        return stream + added


class Linear(nn.Linear):
    """A linear map whose weights the Transformer draws, from its own generator."""

    def reset_parameters(self) -> None:
        """Leave the weights empty."""


def draw_weights(model: nn.Module, std: float, generator: torch.Generator) -> None:
    """Embeddings and matrices from a normal distribution, biases at 0; norms stay as they are."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=std, generator=generator)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


def visible_keys(batch: Batch) -> Visible:
    """Which keys the queries see; None if the batch is causal.

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


def save_checkpoint(model: Transformer, folder: Path) -> None:
    """Write a new folder with the weights (safetensors) and what they are (config.json)."""
    save_weights(folder, model, format=FORMAT, name=model.name, config=model.config)


def load_checkpoint(folder: Path) -> Transformer:
    """The model of a folder that `save_checkpoint` wrote; a damaged or altered one is refused."""
    content = load_content(folder, format=FORMAT)
    config = resolve(TransformerConfig, content.model, source=str(folder / CONFIG))
    tensors = read_listed(folder / WEIGHTS, content.sha256, remedy=REMEDY)
    return from_tensors(config, tensors, name=content.name, source=folder)


def from_tensors(
    config: TransformerConfig, tensors: dict[str, Tensor], *, name: str, source: Path | str
) -> Transformer:
    """A Transformer with a copy of these weights; `source` is named in errors."""
    with torch.device("meta"):
        model = Transformer(config, name=name)
    fill(model, tensors, source=source)
    return model
