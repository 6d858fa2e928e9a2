"""What is asked of a measurement: with model and tokens, it names a results file."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from tightframe.collapse.checks import check_compat, check_numbers, layer_names, unknown_layer
from tightframe.collapse.measures import Measure, choose, extras_of
from tightframe.collapse.shared import SharedClasses
from tightframe.collapse.states import Pass
from tightframe.collapse.subject import Model
from tightframe.errors import UserError
from tightframe.lm.interface import PRENORM
from tightframe.moments.nearest import Extra
from tightframe.moments.projection import Projection
from tightframe.moments.reading import Labels, Reading
from tightframe.moments.stream import Precision

# They are about the classifier alone, so an inner layer has none of them.
_OF_THE_HEAD = ("rank_pr_head", "rank_stable_head", "rank_entropy_head", "head_overlap_sq")


@dataclasses.dataclass(frozen=True)
class Asked:
    """The measures, by name, and what they are measured on; see `measure_run` for each."""

    measures: tuple[str, ...]
    layers: str = "last"
    labels: Labels = "next"
    min_count: int = 1
    groups: int = 1
    by_frequency: bool = False
    skip_positions: int = 0
    project: int | None = None
    precision: Precision = "fp32"
    ood: str | None = None  # fingerprint of the out-of-distribution tokens
    compat: tuple[str, ...] = ()
    shared_with: str | None = None  # fingerprint of the other model's tokens
    matched: bool = False

    def __post_init__(self) -> None:
        check_numbers(min_count=self.min_count, groups=self.groups, project=self.project)
        check_numbers(least=0, skip_positions=self.skip_positions)
        check_compat(self.compat, min_count=self.min_count, labels=self.labels)

    @classmethod
    def of(cls, measures: Sequence[str] | None, **settings: Any) -> "Asked":
        """With measures as `choose` takes them."""
        return cls(tuple(measure.name for measure in choose(measures)), **settings)

    @property
    def settings(self) -> dict[str, Any]:
        """As the header of the results tells them."""
        listed = {"measures": list(self.measures), "compat": list(self.compat)}
        return dataclasses.asdict(self) | listed

    @property
    def way(self) -> dict[str, Any]:
        """What makes two values of one measure, layer, subset and minimum count different."""
        names = ["labels", "groups", "skip_positions", "project", "precision", "ood"]
        names += ["shared_with", "matched"]
        return {name: getattr(self, name) for name in names}

    @property
    def reading(self) -> Reading:
        """How positions are read."""
        return Reading(self.labels, self.skip_positions)

    def a_pass(self, model: Model, batch_tokens: int, shared: SharedClasses | None = None) -> Pass:
        """What has to be kept of the model's embeddings."""
        return Pass(
            layers=parse_layers(self.layers, model),
            reading=self.reading,
            groups=self.groups,
            scatter=any(measure.needs_scatter for measure in choose(self.measures)),
            dimensions=any(measure.needs_dimensions for measure in choose(self.measures)),
            projection=None if self.project is None else Projection(self.project),
            precision=self.precision,
            batch_tokens=batch_tokens,
            shared=shared,
        )

    @property
    def extras(self) -> tuple[Extra, ...]:
        """What decisions must tell besides what they always do."""
        return extras_of(choose(self.measures))

    def of_layer(self, *, last: bool, dual: bool = True) -> tuple[Measure, ...]:
        """The measures that say something of a layer; `dual` ones compare with the classifier."""
        return tuple(
            measure
            for measure in choose(self.measures)
            # The classifier's choices are of next tokens; what it is alike is so at one layer.
            if not (measure.name.startswith("nc4_") and self.labels != "next")
            and (last or not measure.name.startswith(_OF_THE_HEAD))
            and (dual or not measure.name.startswith(("nc3_", "unc3_")))
        )


def parse_layers(spec: str, model: Model) -> tuple[int, ...]:
    """Return the layers of "all", or of a list like "0-3,prenorm"; the last is always one."""
    depth = model.depth
    if spec == "all":
        return (*range(depth), *([PRENORM] if _has_prenorm(model) else []), depth)
    found = {depth}
    for name in layer_names(spec):
        if name == "prenorm":
            found.add(PRENORM)
        elif name.isdecimal() and int(name) <= depth:
            found.add(int(name))
        elif name != "last":
            raise unknown_layer(name, depth)
    return tuple(sorted(found, key=lambda layer: (depth - 0.5) if layer == PRENORM else layer))


def _has_prenorm(model: Model) -> bool:
    """Whether a final norm makes the last layer, so that there is a stream before it."""
    token = torch.zeros(1, 1, dtype=torch.long, device=model.classifier.device)
    try:
        with torch.no_grad():
            model.embed_layers(token, [PRENORM])
    except UserError:
        return False
    return True
