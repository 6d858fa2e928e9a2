"""The arms of the comparison: one network, one stream of examples, another mask or objective.

`clm_sp` against `bilm_sp` isolates the attention, `clm_ntp` against `clm_sp` the objective. All but
the last have the same parameters, for a mask is not one; the last has as many as depths and the
width of its hidden layers allow.
"""

import dataclasses
from typing import Literal, TypeAlias

from tightframe.errors import UserError, nearest
from tightframe.knowledge.models.exchanges import Objective

# causal: read and answered left to right. prefix: the prompt is read both ways, the answer follows
# left to right. slots: everything is read both ways, the answer stands in slots after the prompt.
Layout: TypeAlias = Literal["causal", "prefix", "slots", "encoder-decoder"]


@dataclasses.dataclass(frozen=True)
class Arm:
    """How a network reads, and what it learns."""

    name: str
    layout: Layout
    objective: Objective


ARMS = (
    Arm("clm_ntp", "causal", "ntp"),
    Arm("clm_sp", "causal", "sp"),
    Arm("bilm_sp", "prefix", "sp"),
    Arm("bilm_mlm", "slots", "sp"),
    Arm("bilm_ed", "encoder-decoder", "sp"),
)


def find_arm(name: str) -> Arm:
    """The arm of this name."""
    found = next((arm for arm in ARMS if arm.name == name), None)
    if found is None:
        names = [arm.name for arm in ARMS]
        hint = nearest(name, names) or f"; expected one of {', '.join(names)}"
        raise UserError(f"no arm is called {name!r}{hint}")
    return found
