"""What injection trains and questions are put to: one interface for our networks and others'.

Text goes in and comes out; tokens are the learner's own business. An objective decides what a
lesson is, the learner how it reads one.

Axes: N prompts, C candidates of a prompt, D embedding.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tightframe.knowledge.exchanges import (
    MAX_NEW_TOKENS,
    Draws,
    Lesson,
    Objective,
    Prompt,
    Said,
)
from tightframe.lm.interface import Batch, Example


@runtime_checkable
class Learner(Protocol):
    """A model that facts are injected into and that is asked for them."""

    name: str

    @property
    def objective(self) -> Objective:
        """What it has learnt by, which decides how it is asked."""
        ...

    @property
    def module(self) -> nn.Module:
        """What is trained: those of its parameters that require gradients."""
        ...

    @property
    def pad(self) -> int:
        """The id that stands in padding."""
        ...

    def encode(self, lesson: Lesson) -> Example:
        """What the learner reads and predicts; one too long for it is refused, never cut."""
        ...

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Mean cross-entropy over the labelled positions, nats per token; differentiable."""
        ...

    def save(self, folder: Path) -> None:
        """Write a new folder, whole, that the loader of this kind of learner reads."""
        ...

    @torch.no_grad()
    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        draws: Draws | None = None,
    ) -> list[Said]:
        """Answers, in the order of the prompts; batching never changes one.

        Args:
            prompts: All are checked before any is answered.
            max_new_tokens: Where an answer that does not end is cut.
            draws: A generator a prompt, to draw each token of its answer where the model reads
                left to right (temperature 1). One that reads both ways stays greedy, as published.
                None: the likeliest token.
        """
        ...

    @torch.no_grad()
    def log_probabilities(
        self, prompts: Sequence[Prompt], candidates: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """How likely each candidate is as the answer to its prompt, nats; higher is likelier.

        A cloze or question: the sum over the candidate's tokens and the end. An `ntp` learner:
        log P(the sentence filled with the candidate) - log P(candidate after the beginning), both
        without an end, since short candidates would win otherwise; scores of the two kinds are
        never compared.
        """
        ...


@runtime_checkable
class EmbeddingLearner(Learner, Protocol):
    """A learner whose embeddings can be looked at: our own networks."""

    @torch.no_grad()
    def answer_embeddings(self, prompts: Sequence[Prompt]) -> Float[Tensor, "N D"]:
        """What the classifier multiplies where the first token of the answer is predicted."""
        ...

    @property
    def classifier(self) -> Float[Tensor, "V D"]:
        """The output matrix, a row a token."""
        ...

    def first_token(self, answer: str) -> int:
        """Id of the first token of an answer, as the learner would say it."""
        ...
