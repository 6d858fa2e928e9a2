"""What a training is asked to be: its settings, the recipes that supply their defaults, its rate.

A recipe supplies only what is not given; every explicit setting wins. Nothing here needs torch.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import pydantic
from jaxtyping import Int
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from tightframe.errors import UserError
from tightframe.settings import given_settings

BY_RECIPE: Any = None  # the class default of a setting that the recipe supplies


Share = Annotated[float, Field(ge=0, lt=1)]


@pydantic.dataclasses.dataclass(
    frozen=True, config=pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
)
class TrainOptions:
    """Settings of one training run; `tokens` and `out` say where, the others what."""

    tokens: Path  # folder of token shards, which also fix vocabulary and context
    out: Path  # the run directory
    recipe: Literal["small-data", "linguistic-collapse"] = "small-data"

    # The model.
    width: PositiveInt = 128  # length of an embedding
    depth: PositiveInt = 2  # number of blocks
    heads: PositiveInt = BY_RECIPE  # attention heads; must divide the width
    window: NonNegativeInt = 256  # every second block sees keys closer than this; 0: all see all
    tied: bool = True  # the classifier is the token embedding

    # The course of the training.
    epochs: PositiveFloat = 1.0  # passes over the training split; may be fractional
    batch: PositiveInt = BY_RECIPE  # rows of tokens in a step; an epoch's last batch may be smaller
    learning_rate: PositiveFloat = BY_RECIPE  # its peak
    schedule: Literal["linear", "cosine", "constant"] = BY_RECIPE  # decay after the warm-up
    warmup: NonNegativeFloat = BY_RECIPE  # below 1 a share of all steps, else steps
    final_rate: Share = 0.0  # where the decay ends, as a share of the peak

    # AdamW.
    weight_decay: NonNegativeFloat = BY_RECIPE  # matrices only: neither biases nor norms
    betas: tuple[Share, Share] = BY_RECIPE
    eps: PositiveFloat = 1e-8
    clip: NonNegativeFloat = 1.0  # largest norm of the whole gradient; 0: not clipped

    # A term beside the loss that pushes the geometry (lm/regularizers.py), times its strength.
    regularizer: Literal["dispersion", "class_dispersion", "cdnv", "duality"] | None = None
    strength: NonNegativeFloat | None = None

    # Randomness.
    seed: NonNegativeInt = BY_RECIPE  # of the initial weights
    order_seed: NonNegativeInt = BY_RECIPE  # of the order of the rows, drawn anew each epoch

    # What is kept. The end of the training is always a checkpoint.
    checkpoints: tuple[NonNegativeFloat, ...] = BY_RECIPE  # epochs; may be fractional
    checkpoint_steps: tuple[NonNegativeInt, ...] = ()  # and steps
    log_every: PositiveInt = 10  # steps between the records of log.jsonl
    save_every: PositiveInt = 200  # steps between states to resume from; each replaces the last

    # The machine. What is "auto" or 0 is chosen once and recorded.
    precision: Literal["auto", "fp32", "bf16"] = BY_RECIPE  # bf16: autocast over float32 weights
    threads: NonNegativeInt = 0  # bits on a CPU depend on it; 0: as many as torch takes
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @pydantic.model_validator(mode="before")
    @classmethod
    def _supplied_by_recipe(cls, values: Any) -> Any:
        given = given_settings(values)
        recipe = RECIPES.get(given.get("recipe", "small-data"))
        return {**recipe(given), **given} if recipe else given

    @pydantic.model_validator(mode="after")
    def _checkpoints_lie_in_the_run(self) -> "TrainOptions":
        if self.checkpoints and max(self.checkpoints) > self.epochs:
            raise ValueError(
                f"a checkpoint at epoch {max(self.checkpoints):g}, but the run has "
                f"{self.epochs:g} epochs; change `checkpoints` or `epochs`"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _regularizer_has_a_strength(self) -> "TrainOptions":
        if (self.regularizer is None) != (self.strength is None):
            raise ValueError("`regularizer` and `strength` belong together; give both or neither")
        return self


def small_data(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return defaults with which a million tokens teach something: warm-up, cosine, a high rate.

    Batches are small (1,000 tokens with rows of 256), because steps are what a short run lacks.
    The rate falls with the width. It was tuned once on the generated corpus, see
    docs/decisions.md.
    """
    width = _size(given, "width", 128)
    return {
        "heads": 4,
        "batch": 4,
        "learning_rate": 3e-3 * 128 / width,
        "schedule": "cosine",
        "warmup": 0.05,
        "weight_decay": 0.1,
        "betas": (0.9, 0.95),
        "seed": 0,
        "order_seed": 0,
        "checkpoints": (),
        "precision": "auto",
    }


def linguistic_collapse(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the published study's settings.

    Its weight decay is 5e-4 (the runs "d") or 0.1 ("L"), its planned epochs 1, 3 or 10, its rows
    2,048 tokens; the decay of "d" is the default here.

    Source: Wu & Papyan (2024), arXiv:2405.17767, and its code; transformers' `Trainer`, about
    version 4.37.
    """
    depth, width = _size(given, "depth", 2), _size(given, "width", 128)
    epochs = given.get("epochs", 1)
    return {
        "heads": 16,
        "batch": _published_batch(depth, width),
        "learning_rate": 5e-5,
        "schedule": "linear",
        "warmup": 0.0,
        "weight_decay": 5e-4,
        "betas": (0.9, 0.999),
        "seed": 42,
        "order_seed": 42,
        "checkpoints": tuple(range(1, int(epochs) + 1)) if isinstance(epochs, int | float) else (),
        "precision": "bf16",
    }


RECIPES: dict[object, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "small-data": small_data,
    "linguistic-collapse": linguistic_collapse,
}


def _published_batch(depth: int, width: int) -> int:
    """Return the rows per step by shape; a depth between two published ones takes the next."""
    if depth == 1 or (depth == 2 and width <= 768):
        return 16
    if depth <= 4 or (depth <= 8 and width <= 256):
        return 8
    return 4


def _size(given: Mapping[str, Any], name: str, default: int) -> int:
    """Return a size that a default depends on; a wrong one is refused later, by its own check."""
    value = given.get(name, default)
    return value if isinstance(value, int) and value >= 1 else default


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Sizes and kind of a Transformer; the defaults are GPT-Neo's."""

    vocab_size: int
    width: int  # D, the length of an embedding
    depth: int  # number of blocks
    heads: int
    positions: int  # P, the longest context in tokens
    window: int = 256  # every second block sees keys closer than this; 0: all blocks see all
    tied: bool = True  # the classifier is the token embedding
    attention_bias: bool = False  # biases on query, key and value
    scale_attention: bool = False  # divide attention logits by sqrt(D / H), as GPT-2 does
    init_std: float = 0.02  # of embeddings and matrices at the start; biases start at 0

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "depth", "heads", "positions"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.window < 0:
            raise UserError(f"window is {self.window}, expected 0 (no local attention) or more")
        if self.width % self.heads:
            raise UserError(
                f"width {self.width} is not divisible by {self.heads} heads; "
                "choose a width that is a multiple of the heads"
            )

    @property
    def sizes(self) -> str:
        """Width and depth in words, for a message on its memory."""
        return f"a model of width {self.width:,} and depth {self.depth:,}"

    @property
    def n_parameters(self) -> int:
        """Number of parameters: embeddings, blocks with two norms each, and the last norm."""
        d = self.width
        vocabularies = 1 if self.tied else 2
        block = 12 * d**2 + (13 if self.attention_bias else 10) * d
        return d * (vocabularies * self.vocab_size + self.positions) + self.depth * block + 2 * d

    def training_bytes(self, rows: int) -> int:
        """Return about how many bytes a training takes at the least, with `rows` rows in a step.

        Of each parameter the weight, its gradient and AdamW's two moments, in float32; of each
        position of each block about sixteen vectors that the gradient needs: norms, queries, keys,
        values, the attention's output, and four times two of the hidden layer.
        """
        vocabularies = 1 if self.tied else 2
        parameters = self.width * (vocabularies * self.vocab_size + self.positions)
        parameters += 12 * self.depth * self.width**2
        activations = 16 * rows * self.positions * self.width * self.depth
        return 4 * (4 * parameters + activations)


def config_of(settings: TrainOptions, vocab_size: int, positions: int) -> TransformerConfig:
    """Return what the Transformer of a training is, on tokens of this vocabulary and block."""
    return TransformerConfig(
        vocab_size=vocab_size,
        width=settings.width,
        depth=settings.depth,
        heads=settings.heads,
        positions=positions,
        window=settings.window,
        tied=settings.tied,
    )


WARMUP = 200  # steps, where nothing else is said; of a short run a tenth


@runtime_checkable
class RunSettings(Protocol):
    """Settings that every training has; `TrainOptions` documents each field."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def learning_rate(self) -> float: ...  # noqa: D102
    @property
    def schedule(self) -> str: ...  # noqa: D102
    @property
    def warmup(self) -> float | None: ...  # noqa: D102
    @property
    def final_rate(self) -> float: ...  # noqa: D102
    @property
    def weight_decay(self) -> float: ...  # noqa: D102
    @property
    def betas(self) -> tuple[float, float]: ...  # noqa: D102
    @property
    def eps(self) -> float: ...  # noqa: D102
    @property
    def clip(self) -> float: ...  # noqa: D102
    @property
    def log_every(self) -> int: ...  # noqa: D102
    @property
    def save_every(self) -> int: ...  # noqa: D102
    @property
    def precision(self) -> str: ...  # noqa: D102
    @property
    def device(self) -> str: ...  # noqa: D102
    @property
    def threads(self) -> int: ...  # noqa: D102


def warmup_steps(settings: RunSettings, steps: int) -> int:
    """Return the steps before the peak of the learning rate, in a run of so many."""
    if settings.warmup is None:
        return min(WARMUP, steps // 10)
    return round(settings.warmup * steps if settings.warmup < 1 else settings.warmup)


def learning_rate(settings: RunSettings, step: int, *, steps: int) -> float:
    """Return the learning rate of the update that follows `step` of `steps` updates.

    During warm-up the rate is peak * (step + 1) / (warmup_steps + 1). It then decays from the peak
    towards `final_rate` * peak, which it would reach at step `steps`, after the last update.
    Without warm-up, `linear` is the rule of transformers.
    """
    peak, floor, warmup = settings.learning_rate, settings.final_rate, warmup_steps(settings, steps)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    left = {
        "constant": 1.0,
        "linear": 1 - done,
        "cosine": 0.5 + 0.5 * math.cos(math.pi * done),
    }[settings.schedule]
    return peak * (floor + (1 - floor) * left)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The steps of a run over `n_rows` rows of tokens."""

    settings: TrainOptions
    n_rows: int

    def __post_init__(self) -> None:
        late = [step for step in self.settings.checkpoint_steps if step > self.steps]
        if late:
            raise UserError(
                f"checkpoint_steps holds {late[0]}, but the run has {self.steps} steps "
                f"({self.settings.epochs:g} epochs of {self.epoch_steps}); leave it out, or train "
                "longer"
            )

    @property
    def epoch_steps(self) -> int:
        """Steps in an epoch; the last one takes what is left over."""
        return math.ceil(self.n_rows / self.settings.batch)

    @property
    def steps(self) -> int:
        """Number of optimizer updates of the whole run."""
        return self._step(self.settings.epochs)

    @property
    def warmup_steps(self) -> int:
        """Steps before the peak of the learning rate."""
        return warmup_steps(self.settings, self.steps)

    @property
    def checkpoints(self) -> frozenset[int]:
        """Steps after which the model is kept and validated; the end is always one."""
        by_epoch = (self._step(epoch) if epoch else 0 for epoch in self.settings.checkpoints)
        return frozenset({*by_epoch, *self.settings.checkpoint_steps, self.steps})

    def epoch(self, step: int) -> float:
        """Return the passes over the training split after `step` updates."""
        return step / self.epoch_steps

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of the update that follows `step` updates."""
        return learning_rate(self.settings, step, steps=self.steps)

    def order(self, epoch: int) -> Int[np.ndarray, " rows"]:
        """Return the permutation of the rows in one epoch (from 0); each has its own generator."""
        generator = np.random.default_rng([self.settings.order_seed, epoch])
        return generator.permutation(self.n_rows)

    def batches(self, step: int) -> Iterator[Int[np.ndarray, " B"]]:
        """Yield the rows of each update that follows `step` updates, to the end of the run."""
        order = None
        for following in range(step, self.steps):
            epoch, index = divmod(following, self.epoch_steps)
            if order is None or index == 0:
                order = self.order(epoch)
            yield order[index * self.settings.batch :][: self.settings.batch]

    def _step(self, epoch: float) -> int:
        return max(1, round(epoch * self.epoch_steps))
