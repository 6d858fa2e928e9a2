"""A fixed set of positions on which a model is measured again and again, and what that costs."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from tightframe.corpus.shards import Split, TokenShards
from tightframe.errors import UserError
from tightframe.geometry import stream
from tightframe.geometry.decisions import Decisions, class_decisions
from tightframe.geometry.measures import Measure, extras_of, metrics
from tightframe.geometry.moments import ClassMoments
from tightframe.geometry.values import Value
from tightframe.lm.load import Model

# Share of the training's time that measuring is planned to take by default. It may take 0.02: the
# rest is for what counting doesn't see, such as steps in bfloat16 beside pairs in float64.
OVERHEAD = 0.01

# Multiplications that all default measures of a pair of classes are worth, beside those of its
# distance; and those of D x D matrices of the class means, for a class. Both were taken on a CPU
# from times, in units of what a training step multiplies in the same time, and make up for what has
# no such order: few classes take up to 1.5 times as long as this, 4,000 and more 0.7 to 0.8 times.
_A_PAIR, _A_DIMENSION, _EIGEN = 1000, 3, 10


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """Result of one evaluation of a model on the fixed batch."""

    moments: ClassMoments
    decisions: Decisions | None
    values: dict[str, Value]


class Probe:
    """Some whole blocks of a split, drawn once by a seed, and the measures taken of them.

    Args:
        shards: The tokens.
        split: "train" or "val": whose embeddings make the class moments.
        n_positions: Labelled positions, about; there are always whole blocks.
        measures: Where some are about decisions, as many validation positions are drawn, too.
        min_count: Embeddings in the probe that a class needs to take part.
        seed: Of the draw.
    """

    def __init__(
        self,
        shards: TokenShards,
        split: str,
        n_positions: int,
        *,
        measures: Sequence[Measure],
        min_count: int,
        seed: int,
    ) -> None:
        self.measures = tuple(measures)
        self.min_count = min_count
        self.seed = seed
        self.split = shards.split(split).sample(n_positions, seed=seed)
        self.validation: Split | None = None
        if any(measure.split == "val" for measure in measures):
            self.validation = shards.split("val").sample(n_positions, seed=seed)
        self.n_classes = int((self.split.label_counts() >= min_count).sum())
        if self.n_classes < 2:
            raise UserError(
                f"{shards.path}: {self.n_classes} classes occur {min_count} times or more in the "
                f"{self.split.n_labels:,} probe positions of split '{split}', expected 2 at least; "
                "take more probe_tokens or a lower min_count"
            )

    def read(self, model: Model, *, precision: stream.Precision) -> Reading:
        """Measure a model whose weights stand still."""
        moments = stream.class_moments(
            model,
            self.split,
            scatter=any(measure.needs_scatter for measure in self.measures),
            dimensions=any(measure.needs_dimensions for measure in self.measures),
            precision=precision,
        )
        decisions = None
        if self.validation is not None:
            decisions = class_decisions(
                model,
                self.validation,
                moments,
                min_count=self.min_count,
                extras=extras_of(self.measures),
                precision=precision,
            )
        values = metrics(
            moments,
            model.classifier,
            decisions,
            measures=[measure.name for measure in self.measures],
            min_count=self.min_count,
        )
        return Reading(moments, decisions, values)

    def every(self, model: Model, step_tokens: int) -> int:
        """Return the steps between two evaluations that take `OVERHEAD` of the time.

        A forward pass is a third of a training step over the same tokens; pairs of classes and
        matrices of the means are counted by what they multiply. The same settings give the same
        steps everywhere, so that a resumed training measures where it would have.
        """
        width = model.classifier.shape[1]
        # An input embedding that is not the classifier multiplies nothing.
        multiplied = model.n_parameters - (0 if model.tied else model.classifier.numel())
        n_pairs = self.n_classes * (self.n_classes - 1) // 2
        of_pairs = n_pairs * (_A_PAIR + _A_DIMENSION * width)
        of_matrices = _EIGEN * self.n_classes * width**2
        positions = self.split.n_tokens
        if self.validation is not None:
            positions += 2 * self.validation.n_tokens  # two decisions at each
        # In tokens of training, a token being three times the multiplications of a forward pass.
        work = positions / 3 + (of_pairs + of_matrices) / (3 * multiplied)
        return max(1, math.ceil(work / (OVERHEAD * step_tokens)))

    @property
    def facts(self) -> dict[str, Any]:
        """Facts for headers and fingerprints."""
        parts = [self.split, *([self.validation] if self.validation else [])]
        return {
            "seed": self.seed,
            **{
                part.name: {
                    "blocks": part.n_blocks,
                    "positions": part.n_labels,
                    "fingerprint": part.fingerprint,
                }
                for part in parts
            },
        }
