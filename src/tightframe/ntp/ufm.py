r"""Training of free embeddings: the unconstrained features model under first-order optimizers.

Full-batch descent on the cross-entropy of logits `W H^T`, both factors free: what a model large
enough to place every embedding at will would do. Each step costs three products; the gradient is
written out, the softmax minus the soft labels.

Axes: V tokens, M contexts, D embedding. Losses are nats per pair, contexts weighted.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from tightframe.lm.optimizer import AdamW
from tightframe.ntp.soft_labels import (
    SoftLabels,
    excess,
    finite_component,
    project_in_support,
)

Optimizer = Literal["gd", "ngd", "adam", "adamw"]

RATES: dict[Optimizer, float] = {"gd": 1.0, "ngd": 1.0, "adam": 1e-3, "adamw": 1e-3}
PUBLISHED_DECAYS = {
    "synthetic": dict.fromkeys((5_000, 10_000, 15_000, 20_000, 25_000), 0.4),
    "stories": dict.fromkeys((2_500, 4_000, 8_000, 12_000, 16_000, 22_500, 25_000), 0.5),
}
"""By which factors the published runs lower their rate, 1e-4, and after which steps."""

DIVERGED = 1e100  # logits whose squares may overflow

PUBLISHED = {"optimizer": "adamw", "learning_rate": 1e-4, "weight_decay": 1e-6, "dim": 128}


@dataclasses.dataclass(frozen=True, eq=False)
class UfmCheckpoint:
    """Free embeddings after a number of steps, and how far they have come.

    Attributes:
        step: Updates taken.
        classifier: (V, D), one row per token.
        embeddings: (M, D), one row per context.
        excess: CE - H in nats per pair.
        classifier_norm, embedding_norm: Frobenius norms.
        finite_error: Frobenius norm of P_F(L) - L_in.
    """

    step: int
    classifier: Float[np.ndarray, "V D"]
    embeddings: Float[np.ndarray, "M D"]
    excess: float
    classifier_norm: float
    embedding_norm: float
    finite_error: float

    @property
    def logits(self) -> Float[np.ndarray, "V M"]:
        """Logits L."""
        product: Float[np.ndarray, "V M"] = self.classifier @ self.embeddings.T
        return product

    def to_dict(self) -> dict[str, float | int]:
        """Return the numbers, without the factors, for a log."""
        arrays = ("classifier", "embeddings")
        return {name: value for name, value in vars(self).items() if name not in arrays}


@dataclasses.dataclass(frozen=True, eq=False)
class UfmRun:
    """One training: the arguments that made it, and its checkpoints by rising step."""

    settings: dict[str, object]
    checkpoints: tuple[UfmCheckpoint, ...]

    @property
    def log(self) -> list[dict[str, float | int]]:
        """The numbers of each checkpoint."""
        return [checkpoint.to_dict() for checkpoint in self.checkpoints]


def published_steps(steps: int) -> list[int]:
    """Return the steps at which published runs were measured: 0, 1, 10, 100, each 1000, the end."""
    return sorted({s for s in (0, 1, 10, 100) if s <= steps} | {*range(1000, steps, 1000), steps})


def train_ufm(
    labels: SoftLabels,
    *,
    dim: int,
    optimizer: Optimizer = "gd",
    steps: int,
    learning_rate: float | None = None,
    decays: Mapping[int, float] | None = None,
    n_pairs: int = 1,
    lam: float = 0.0,
    weight_decay: float = 0.0,
    initial_std: float = 0.02,
    seed: int = 0,
    log_steps: Iterable[int] | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float64,
) -> UfmRun:
    """Train free embeddings on all soft labels at once.

    Args:
        labels: Soft labels of the contexts.
        dim: D.
        optimizer: "gd", gradient descent; "ngd", steps of a length of their own along the
            gradient, `learning_rate / sqrt(step)` (a length that does not fall hovers); "adam";
            "adamw".
        steps: Updates.
        learning_rate: By default 1 for "gd" and "ngd", 1e-3 for the others.
        decays: Factors that the rate is multiplied by, each after so many steps.
        n_pairs: The loss is summed over so many pairs; 1 gives their mean. Matters little to
            "adam" and "adamw", and to "ngd" nothing.
        lam: Ridge on both factors, for the mean loss, as in `ridge_path`.
        weight_decay: Decoupled decay of "adamw": a step takes `rate * weight_decay` of a weight
            away. It is no ridge.
        initial_std: Standard deviation of the entries at step 0.
        seed: Seed of the entries at step 0, which are the same on every device.
        log_steps: Steps that become checkpoints; `published_steps` by default.
        device, dtype: Device and precision of the training; measures are float64.

    Raises:
        ValueError: An argument out of range, or a training that diverges.
    """
    rate = RATES[optimizer] if learning_rate is None else learning_rate
    wanted = sorted(set(published_steps(steps) if log_steps is None else log_steps))
    _check(dim=dim, n_pairs=n_pairs, initial_std=initial_std, learning_rate=rate)
    _check_nonnegative(steps=steps, lam=lam, weight_decay=weight_decay)
    if weight_decay and optimizer != "adamw":
        raise ValueError(f"weight_decay: is for 'adamw', not {optimizer!r}; lam is the ridge")
    if wanted and not 0 <= wanted[0] <= wanted[-1] <= steps:
        raise ValueError(f"log_steps: {wanted[0]} to {wanted[-1]}, expected within 0 to {steps}")

    random = torch.Generator().manual_seed(seed)
    sizes = (labels.vocab_size, dim), (labels.n_contexts, dim)
    factors = [
        (initial_std * torch.randn(size, generator=random, dtype=torch.float64)).to(device, dtype)
        for size in sizes
    ]
    slope = _Slope(labels, factors, n_pairs, lam)
    update = _updates(optimizer, factors, slope, weight_decay)
    measure = _Measure(labels)
    checkpoints = []
    for step in range(steps + 1):
        if step in wanted:
            checkpoints.append(measure(step, factors, rate))
        if step < steps:
            rate *= (decays or {}).get(step, 1.0)
            update(rate, step)
    settings: dict[str, object] = {
        "dim": dim,
        "optimizer": optimizer,
        "steps": steps,
        "learning_rate": RATES[optimizer] if learning_rate is None else learning_rate,
        "decays": dict(decays or {}),
        "n_pairs": n_pairs,
        "lam": lam,
        "weight_decay": weight_decay,
        "initial_std": initial_std,
        "seed": seed,
        "dtype": str(dtype).removeprefix("torch."),
    }
    return UfmRun(settings, tuple(checkpoints))


class _Slope:
    """Gradients of the summed loss by both factors, contexts along rows so that sums are local."""

    def __init__(self, labels: SoftLabels, factors: list[Tensor], n_pairs: int, lam: float):
        like = factors[0]
        shares = n_pairs * torch.from_numpy(labels.weights)
        target = shares[:, None] * torch.from_numpy(labels.probabilities.toarray().T)
        self.factors = factors
        self.shares = shares[:, None].to(like)  # (M, 1)
        self.target = target.to(like).contiguous()  # (M, V)
        self.ridge = n_pairs * lam

    def __call__(self) -> list[Tensor]:
        classifier, embeddings = self.factors
        excess_share = torch.softmax(embeddings @ classifier.T, dim=1)  # (M, V)
        excess_share.mul_(self.shares).sub_(self.target)
        slopes = [excess_share.T @ embeddings, excess_share @ classifier]
        if self.ridge:
            for slope, factor in zip(slopes, self.factors, strict=True):
                slope.add_(factor, alpha=self.ridge)
        return slopes


def _updates(
    optimizer: Optimizer, factors: list[Tensor], slope: _Slope, weight_decay: float
) -> Callable[[float, int], None]:
    """Return a function that takes one step with a rate."""
    if optimizer in ("adam", "adamw"):
        return _adaptive(factors, slope, weight_decay)

    def descend(rate: float, step: int) -> None:
        slopes = slope()
        if optimizer == "ngd":
            length = math.hypot(*(float(s.norm()) for s in slopes))
            rate = rate / math.sqrt(step + 1) / length if length else 0.0
        for factor, along in zip(factors, slopes, strict=True):
            factor.sub_(along, alpha=rate)

    return descend


def _adaptive(
    factors: list[Tensor], slope: _Slope, weight_decay: float
) -> Callable[[float, int], None]:
    """Return the steps of AdamW, which is Adam without decay; a ridge is part of the slopes."""
    parameters = nn.ParameterList(nn.Parameter(f) for f in factors)
    adamw = AdamW(parameters, betas=(0.9, 0.999), eps=1e-8, weight_decay=weight_decay)

    def descend(rate: float, step: int) -> None:
        for parameter, along in zip(parameters, slope(), strict=True):
            parameter.grad = along
        adamw.update(rate)

    return descend


class _Measure:
    """Checkpoints of factors, measured in float64."""

    def __init__(self, labels: SoftLabels):
        self.labels = labels
        self.support = labels.matrix
        self.finite = finite_component(labels).toarray()

    def __call__(self, step: int, factors: list[Tensor], rate: float) -> UfmCheckpoint:
        classifier, embeddings = (
            factor.detach().to("cpu", torch.float64, copy=True).numpy() for factor in factors
        )
        logits = classifier @ embeddings.T
        if not np.abs(logits).max() < DIVERGED:
            raise ValueError(
                f"learning_rate: the training diverged before step {step}, at a rate of {rate:.3g}"
            )
        return UfmCheckpoint(
            step=step,
            classifier=classifier,
            embeddings=embeddings,
            excess=excess(logits, self.labels),
            classifier_norm=float(np.linalg.norm(classifier)),
            embedding_norm=float(np.linalg.norm(embeddings)),
            finite_error=float(
                np.linalg.norm(project_in_support(logits, self.support) - self.finite)
            ),
        )


def _check(**positive: float | int) -> None:
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name}: {value}, expected > 0")


def _check_nonnegative(**values: float | int) -> None:
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}: {value}, expected >= 0")
