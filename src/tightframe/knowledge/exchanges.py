"""What passes between a study and a learner (lessons, prompts and answers, as text), and the arms.

Nothing here needs torch, so that facts, settings and questions are checked before it is loaded.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from tightframe.errors import UserError, nearest
from tightframe.knowledge.facts import Template

# ntp: the whole sentence, token by token. sp: the words that a mask hides. qa: the answer to a
# question. mlm: tokens drawn and hidden by the learner itself (encoder-only models of the hub).
Objective: TypeAlias = Literal["ntp", "sp", "qa", "mlm"]

# cloze: a sentence with one MASK where the answer belongs. question: a question in words.
# continuation: the words before the answer.
Form: TypeAlias = Literal["cloze", "question", "continuation"]

MAX_NEW_TOKENS = 32  # of an answer, unless a gold answer is longer

Draws: TypeAlias = Sequence[np.random.Generator]  # one a prompt


class Lesson(NamedTuple):
    """One thing to learn, shown once."""

    fact_id: str
    objective: Objective
    prompt: str  # sp: the sentence with one MASK; qa: the question; ntp and mlm: empty
    target: str  # sp: the words behind the MASK; qa: the answer; ntp and mlm: the sentence
    draw: int = 0  # which exposure of the fact this is; what is random in a lesson depends on it


class Prompt(NamedTuple):
    """What is put to a learner."""

    form: Form
    text: str
    context: str = ""  # to read before it; cut from its beginning where there is no room for all


class Said(NamedTuple):
    """What a learner answered."""

    text: str  # special tokens removed
    finish: Literal["end", "length"]
    template: Template = "plain"


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
