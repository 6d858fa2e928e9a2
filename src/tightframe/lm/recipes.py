"""What a training run is: its settings, and two recipes by name that supply their defaults.

A recipe only supplies what isn't given; every explicit setting wins.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from tightframe.settings import given_settings

BY_RECIPE: Any = None  # the class default of a setting that the recipe supplies

Share = Annotated[float, Field(ge=0, lt=1)]


@pydantic.dataclasses.dataclass(
    frozen=True, config=pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
)
class TrainSettings:
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
    def _checkpoints_lie_in_the_run(self) -> "TrainSettings":
        if self.checkpoints and max(self.checkpoints) > self.epochs:
            raise ValueError(
                f"a checkpoint at epoch {max(self.checkpoints):g}, but the run has "
                f"{self.epochs:g} epochs; change `checkpoints` or `epochs`"
            )
        return self


def small_data(given: Mapping[str, Any]) -> dict[str, Any]:
    """A first run of a million tokens learns something: warm-up, cosine decay, a high rate.

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
    """The published study's training.

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
    """Rows in a step by shape; a depth between two published ones takes that of the next."""
    if depth == 1 or (depth == 2 and width <= 768):
        return 16
    if depth <= 4 or (depth <= 8 and width <= 256):
        return 8
    return 4


def _size(given: Mapping[str, Any], name: str, default: int) -> int:
    """A size that a default depends on; a wrong one is refused later, by its own check."""
    value = given.get(name, default)
    return value if isinstance(value, int) and value >= 1 else default
