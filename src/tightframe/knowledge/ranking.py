"""Gold among other facts' answers: a score that needs no decoding, the same for every learner.

    NAME.jsonl   a `Rank` a line
    NAME.json    whose they are, the rule, the seed, and the averages beside chance

Which score a learner gives a candidate is its own: one that fills masks and one that continues
sentences (`RULES`) are never compared on ranks.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from pydantic import ConfigDict, Field

from tightframe.errors import UserError
from tightframe.files import sha256
from tightframe.formats import Record, Sha256, read_signed
from tightframe.knowledge.asking import QuestionPrompt, prompts
from tightframe.knowledge.clozes import fact_generator
from tightframe.knowledge.data_files import read_records, write_records, write_report
from tightframe.knowledge.facts import Fact
from tightframe.knowledge.intervals import PERCENT, Bounds, Estimate, estimates
from tightframe.knowledge.qa_models import Objective, Prompt
from tightframe.knowledge.scores import normal_form

N_CANDIDATES = 20
RANKED = "rank20"  # name of this form of asking in a study: chosen among candidates, not answered
CORRECT = "correct"  # its score: whether the answer is the first of the candidates

# filled: log P(sentence filled with the candidate) - log P(candidate as a sentence).
# span: the sum of the log-probabilities of the candidate's tokens and its end.
Rule: TypeAlias = Literal["filled", "span"]


@runtime_checkable
class Scorer(Protocol):
    """What gives candidates their log-probabilities, as a `Learner` does."""

    @property
    def objective(self) -> Objective:
        """What it has learnt by."""
        ...

    def log_probabilities(
        self, prompts: Sequence[Prompt], candidates: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """How likely each candidate is as the answer to its prompt, nats."""
        ...


@dataclasses.dataclass(frozen=True)
class Rank:
    """Where the gold answer of one question stands among the candidates."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    question_id: str
    fact_id: str
    # 1 is best: 1 + how many candidates score higher + half of how many score equal
    rank: Annotated[float, Field(ge=1)]
    n_candidates: int  # gold included
    rule: Rule
    position: str  # of the answer in its fact
    gold: str  # first alias
    log_probability: float  # of the gold answer by the rule, nats


class _About(Record):
    """What is read of the second file."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    sha256: Sha256  # of the first one
    fingerprint: str


class RankSummary(NamedTuple):
    """Ranks on average, with intervals over facts, and what chance gives."""

    top1: Estimate  # percent of the questions with gold alone in front
    reciprocal_rank: Estimate  # mean of 1 / rank, in (0, 1]
    rank: Estimate  # mean
    chance_top1: float  # the same of scores drawn at random
    chance_reciprocal_rank: float
    chance_rank: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            name: value._asdict() if isinstance(value, Estimate) else value
            for name, value in self._asdict().items()
        }


def candidates(
    asked: Sequence[QuestionPrompt], facts: Sequence[Fact], *, n: int = N_CANDIDATES, seed: int = 0
) -> list[list[str]]:
    """Gold and up to n - 1 other facts' answers for each question, gold first.

    Drawn by seed and question id, whatever the order of the facts. All differ after
    normalisation, from each other and from every alias of the gold answer, so that no second one is
    right. Where there are fewer than n such answers, all of them are taken.

    Args:
        asked: Questions.
        facts: Whose reliability answers (first aliases) are drawn.
        n: Candidates of a question.
        seed: Of the draws.
    """
    if n < 2:
        raise ValueError(f"expected at least 2 candidates, got {n}")
    ordered = sorted(facts, key=lambda fact: fact.id)
    pool = [
        (fact.id, question.answers[0], normal_form(question.answers[0]))
        for fact in ordered
        for question in fact.questions
        if question.type == "reliability"
    ]
    found = []
    for one in asked:
        chosen = [one.answers[0]]
        taken = {normal_form(alias) for alias in one.answers}
        for index in fact_generator(seed, one.question_id).permutation(len(pool)):
            fact_id, answer, key = pool[index]
            if fact_id != one.fact_id and key not in taken:
                chosen.append(answer)
                taken.add(key)
                if len(chosen) == n:
                    break
        if len(chosen) == 1:
            raise UserError(
                f"question {one.question_id}: no other fact has another answer than "
                f"{one.answers[0]!r} to rank it among; rank more facts"
            )
        found.append(chosen)
    return found


def rank_questions(
    learner: Scorer, facts: Sequence[Fact], *, n: int = N_CANDIDATES, seed: int = 0
) -> list[Rank]:
    """Rank the gold answer of each fact's cloze question among other facts' answers.

    Args:
        learner: What gives candidates their log-probabilities.
        facts: With reliability questions, in whose order the ranks are.
        n: Candidates of a question, if there are so many.
        seed: Of the draws of candidates.
    """
    asked = prompts(facts, "cloze_question")
    if not asked:
        raise UserError(
            "nothing to rank: no fact has a reliability question with a wh-word; choose other facts"
        )
    chosen = candidates(asked, facts, n=n, seed=seed)
    scores = learner.log_probabilities([one.prompt for one in asked], chosen)
    rule: Rule = "filled" if learner.objective == "ntp" else "span"
    return [
        Rank(
            one.question_id,
            one.fact_id,
            rank_of_first(own),
            len(own),
            rule,
            one.position,
            one.answers[0],
            own[0],
        )
        for one, own in zip(asked, scores, strict=True)
    ]


def rank_of_first(scores: Sequence[float]) -> float:
    """The rank of the first score, 1 if it is the highest; a tie counts as half a place."""
    if any(math.isnan(score) for score in scores):
        raise ValueError(f"a score is NaN: {list(scores)}")
    first, *others = scores
    higher = sum(score > first for score in others)
    return 1 + higher + sum(score == first for score in others) / 2


def summarize_ranks(ranks: Sequence[Rank], *, seed: int = 0) -> RankSummary:
    """Return averages over questions, with intervals over facts.

    Args:
        ranks: At least one.
        seed: Of the resamples.
    """
    place = np.array([one.rank for one in ranks], dtype=np.float64)
    n = np.array([one.n_candidates for one in ranks])
    values = np.stack([100.0 * (place == 1), 1 / place, place], axis=1)  # (Q, 3)
    facts = np.unique([one.fact_id for one in ranks], return_inverse=True)[1]
    harmonic = np.array([sum(1 / k for k in range(1, own + 1)) for own in n])
    bounds: list[Bounds] = [PERCENT, (0.0, 1.0), (1.0, float(n.max()))]
    top1, reciprocal_rank, mean_rank = estimates(values, facts, bounds, seed=seed)
    return RankSummary(
        top1,
        reciprocal_rank,
        mean_rank,
        chance_top1=float((100 / n).mean()),
        chance_reciprocal_rank=float((harmonic / n).mean()),
        chance_rank=float((n + 1).mean() / 2),
    )


def save_ranks(
    path: Path, ranks: Sequence[Rank], *, model: str, trained_on: str | None, seed: int
) -> Mapping[str, Any]:
    """Write the ranks, then the file that says whose they are and how they stand.

    Returns:
        What stands in the second file.
    """
    content = {
        "model": model,
        "trained_on": trained_on,
        "rule": ranks[0].rule,
        "seed": seed,
        "questions": len(ranks),
        "candidates": sorted({one.n_candidates for one in ranks}),
        **summarize_ranks(ranks, seed=seed).to_dict(),
    }
    write_records(path, (dataclasses.asdict(one) for one in ranks))
    write_report(path.with_suffix(".json"), content | {"sha256": sha256(path)})
    return content


def load_ranks(path: str | Path) -> list[Rank]:
    """Return the ranks of a file that `save_ranks` wrote; one that was changed is refused."""
    path = Path(path)
    about: _About = read_signed(path.with_suffix(".json"), _About)
    return read_records(path, Rank, what="a rank of a question", sha256=about.sha256)
