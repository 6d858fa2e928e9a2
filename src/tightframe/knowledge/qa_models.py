"""Interface of models that are trained on facts and answer questions.

Training examples, prompts and answers are text; tokens are the model's own business. An objective
decides what an example is, the model how it reads one. Nothing here loads torch, so that facts,
settings and questions can be checked before.

Axes: C candidates of a prompt.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np

from tightframe.errors import UserError, nearest
from tightframe.knowledge.facts import MASK, Template

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tightframe.lm.interface import Batch, Example

# ntp: the whole sentence, token by token. sp: the words that a mask hides. qa: the answer to a
# question. mlm: tokens that the model itself draws and hides (encoder-only models of the hub).
# restore: the whole sentence, after a copy with words hidden. noise: ntp with input tokens hidden.
# diffusion: hidden tokens where they stand. The last three are of our own networks (`masking`).
Objective: TypeAlias = Literal["ntp", "sp", "qa", "mlm", "restore", "noise", "diffusion"]

# cloze: a sentence with one MASK where the answer belongs. question: a question in words.
# continuation: the words before the answer.
PromptForm: TypeAlias = Literal["cloze", "question", "continuation"]

MAX_NEW_TOKENS = 32  # of an answer, unless a gold answer is longer
HUB_NEW_TOKENS = 64  # of an answer of a model of transformers

Generators: TypeAlias = Sequence[np.random.Generator]  # one for each prompt


class TrainingExample(NamedTuple):
    """A text to learn from, shown once."""

    fact_id: str
    objective: Objective
    prompt: str  # sp: the sentence with one MASK; qa: the question; others: empty
    target: str  # sp: the words behind the MASK; qa: the answer; others: the sentence
    draw: int = 0  # seed of what is random in the example


class Prompt(NamedTuple):
    """A text that a model is asked to complete or answer."""

    form: PromptForm
    text: str
    context: str = ""  # read before it; cut from its beginning if there is no room for all

    @property
    def opening(self) -> str:
        """Text up to the mask of a cloze, without a blank at its end; all text of others."""
        return self.text.partition(MASK)[0].rstrip() if self.form == "cloze" else self.text

    def filled(self, candidate: str) -> str:
        """Return the sentence that a candidate makes of this prompt."""
        if self.form == "cloze":
            return self.text.replace(MASK, candidate)
        return f"{self.text} {candidate}"


class Generation(NamedTuple):
    """The text with which a model answered a prompt."""

    text: str  # special tokens removed
    finish: Literal["end", "length"]
    template: Template = "plain"


@runtime_checkable
class QAModel(Protocol):
    """A model that is trained on facts and answers questions about them."""

    name: str

    @property
    def objective(self) -> Objective:
        """Objective of its training, which decides how it is asked."""
        ...

    @property
    def module(self) -> "nn.Module":
        """Module that is trained: those of its parameters that require gradients."""
        ...

    @property
    def pad(self) -> int:
        """Id of the token that stands in padding."""
        ...

    def encode(self, example: TrainingExample) -> "Example":
        """Encode a training example as tokens; refuse one that is too long, never cut it."""
        ...

    def loss(self, batch: "Batch") -> "Tensor":
        """Return the mean cross-entropy over the labelled positions, nats per token."""
        ...

    def save(self, folder: Path) -> None:
        """Write a new folder, whole, that the loader of this kind of model reads."""
        ...

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        generators: Generators | None = None,
    ) -> list[Generation]:
        """Answer prompts, in their order; batching never changes an answer.

        Args:
            prompts: All are checked before any is answered.
            max_new_tokens: Where an answer that does not end is cut.
            generators: Draw each token of an answer (temperature 1) if the model reads left to
                right; one that reads both ways stays greedy, as published. None: take the
                likeliest token.
        """
        ...

    def log_probabilities(
        self, prompts: Sequence[Prompt], candidates: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Return the log-probability of each candidate as the answer to its prompt, nats.

        For a cloze or question it is the sum over the candidate's tokens and the end. A model
        trained on `ntp` returns log P(the sentence filled with the candidate) - log P(candidate
        after the beginning), both without an end, since short candidates would win otherwise;
        scores of the two kinds are never compared.
        """
        ...


# causal: read and answered left to right. prefix: the prompt is read both ways, the answer follows
# left to right. slots: everything is read both ways, the answer stands in slots after the prompt.
# in_place: the same, the answer stands where it belongs in the sentence.
Layout: TypeAlias = Literal["causal", "prefix", "slots", "encoder-decoder", "in_place"]


@dataclasses.dataclass(frozen=True)
class Arm:
    """A way in which a network reads, and what it learns."""

    name: str  # in papers and on disk
    title: str  # in plain words
    layout: Layout
    objective: Objective


ARMS = (
    Arm("clm_ntp", "causal", "causal", "ntp"),
    Arm("clm_sp", "causal_span", "causal", "sp"),
    Arm("bilm_sp", "prefix_span", "prefix", "sp"),
    Arm("bilm_mlm", "masked", "slots", "sp"),
    Arm("bilm_ed", "encoder_decoder", "encoder-decoder", "sp"),
    Arm("clm_masked", "causal_masked", "causal", "restore"),
    Arm("clm_noise", "causal_noise", "causal", "noise"),
    Arm("bilm_diffusion", "diffusion", "in_place", "diffusion"),
)


def continues(objective: Objective) -> bool:
    """Return whether a model of this objective continues sentences, and fills no masks."""
    return objective in ("ntp", "noise")


def named_arm(name: str) -> str | None:
    """Return the name of the arm with this name or title; None if no arm has it."""
    return next((arm.name for arm in ARMS if name in (arm.name, arm.title)), None)


def find_arm(name: str) -> Arm:
    """Return the arm of this name."""
    found = next((arm for arm in ARMS if arm.name == name), None)
    if found is None:
        names = [arm.name for arm in ARMS]
        hint = nearest(name, names) or f"; expected one of {', '.join(names)}"
        raise UserError(f"no arm is called {name!r}{hint}")
    return found
