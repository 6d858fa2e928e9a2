"""Ranks of gold answers among other facts' answers: a score that needs no decoding.

    NAME.jsonl   one `Rank` per line
    NAME.json    the model, the rule, the seed, and the averages beside chance

Each model scores candidates by its own rule: one that fills masks and one that continues
sentences (`RULES`) are never compared on ranks.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeAlias

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
from tightframe.knowledge.qa_models import Objective, QAModel
from tightframe.knowledge.scores import normal_form
from tightframe.results import ResultTable

if TYPE_CHECKING:
    import pandas as pd

N_CANDIDATES = 20
RANKED = "rank20"  # name of this form of asking in a study: chosen among candidates, not answered
CORRECT = "correct"  # its score: whether the answer is the first of the candidates

# filled: log P(sentence filled with the candidate) - log P(candidate as a sentence).
# span: the sum of the log-probabilities of the candidate's tokens and its end.
# restored: the same of the candidate and the rest of its sentence.
# bound: the bound of masked diffusion on the candidate's tokens, their number given.
Rule: TypeAlias = Literal["filled", "span", "restored", "bound"]
RULES: dict[Objective, Rule] = {
    "ntp": "filled",
    "noise": "filled",
    "restore": "restored",
    "diffusion": "bound",
}  # span for all others


@dataclasses.dataclass(frozen=True)
class Rank:
    """Rank of the gold answer of one question among the candidates."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    question_id: str
    fact_id: str
    # 1 is best: 1 + candidates that score higher + half of those that score equal
    rank: Annotated[float, Field(ge=1)]
    n_candidates: int  # gold included
    rule: Rule
    position: str  # of the answer in its fact
    gold: str  # first alias
    log_probability: float  # of the gold answer by the rule, nats


class _RankFacts(Record):
    """Fields that are read of the second file."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    sha256: Sha256  # of the first one
    fingerprint: str


class RankSummary(NamedTuple):
    """Average ranks with intervals over facts, beside those of chance."""

    top1: Estimate  # percent of the questions with gold alone in front
    reciprocal_rank: Estimate  # mean of 1 / rank, in (0, 1]
    rank: Estimate  # mean
    chance_top1: float  # the same of scores drawn at random
    chance_reciprocal_rank: float
    chance_rank: float

    def to_dict(self) -> dict[str, Any]:
        """Return the averages as values of JSON."""
        return {
            name: value._asdict() if isinstance(value, Estimate) else value
            for name, value in self._asdict().items()
        }


@dataclasses.dataclass(frozen=True, repr=False)
class Ranks(ResultTable):
    """Ranks of one model, one per question."""

    ranks: tuple[Rank, ...]
    model: str
    trained_on: str | None  # `facts_fingerprint` of the injected facts; None: nothing was injected
    seed: int = 0

    @functools.cached_property
    def summary(self) -> RankSummary:
        """Averages over questions, with intervals over facts."""
        return summarize_ranks(self.ranks, seed=self.seed)

    @property
    def rule(self) -> Rule:
        """Rule of the scores; ranks by different rules are not comparable."""
        return self.ranks[0].rule

    @property
    def one_line(self) -> str:
        """Number of questions, and the share of right answers that are ranked first."""
        top = self.summary.top1
        of = f"{len(self.ranks):,} questions of {self.model}"
        return f"{of}: first {top.value:.3g} %, by chance {self.summary.chance_top1:.3g} %"

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row per question."""
        import pandas as pd

        return pd.DataFrame([dataclasses.asdict(one) for one in self.ranks])

    @functools.cached_property
    def about(self) -> dict[str, Any]:
        """Content of the second file: the model, the rule, and the averages beside chance."""
        return {
            "model": self.model,
            "trained_on": self.trained_on,
            "rule": self.rule,
            "seed": self.seed,
            "questions": len(self.ranks),
            "candidates": sorted({one.n_candidates for one in self.ranks}),
            **self.summary.to_dict(),
        }

    def save(self, path: str | Path) -> Path:
        """Write the ranks to NAME.jsonl, then NAME.json beside it; or a table."""
        path = Path(path)
        if path.suffix != ".jsonl":
            return super().save(path)
        write_records(path, (dataclasses.asdict(one) for one in self.ranks))
        write_report(path.with_suffix(".json"), self.about | {"sha256": sha256(path)})
        return path


def candidates(
    asked: Sequence[QuestionPrompt], facts: Sequence[Fact], *, n: int = N_CANDIDATES, seed: int = 0
) -> list[list[str]]:
    """Choose gold and up to n - 1 other facts' answers for each question, gold first.

    Drawn by seed and question id, whatever the order of the facts. All differ after
    normalisation, from each other and from every alias of the gold answer, so that no second one is
    right. Where there are fewer than n such answers, all of them are taken.

    Args:
        asked: Questions.
        facts: Facts whose reliability answers (first aliases) are drawn.
        n: Maximum number of candidates of a question.
        seed: Seed of the draws.
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
    model: QAModel, facts: Sequence[Fact], *, n: int = N_CANDIDATES, seed: int = 0
) -> list[Rank]:
    """Rank the gold answer of each fact's cloze question among other facts' answers.

    Args:
        model: Model that gives candidates their log-probabilities.
        facts: Facts with reliability questions; ranks are in their order.
        n: Maximum number of candidates of a question.
        seed: Seed of the draws of candidates.
    """
    asked = prompts(facts, "cloze_question")
    if not asked:
        raise UserError(
            "nothing to rank: no fact has a reliability question with a wh-word; choose other facts"
        )
    chosen = candidates(asked, facts, n=n, seed=seed)
    scores = model.log_probabilities([one.prompt for one in asked], chosen)
    rule = RULES.get(model.objective, "span")
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
    """Return the rank of the first score, 1 if it is the highest; a tie counts half a place."""
    if any(math.isnan(score) for score in scores):
        raise ValueError(f"a score is NaN: {list(scores)}")
    first, *others = scores
    higher = sum(score > first for score in others)
    return 1 + higher + sum(score == first for score in others) / 2


def summarize_ranks(ranks: Sequence[Rank], *, seed: int = 0) -> RankSummary:
    """Return averages over questions, with intervals over facts.

    Args:
        ranks: At least one.
        seed: Seed of the resamples.
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


def load_ranks(path: str | Path) -> list[Rank]:
    """Return the ranks of a file that `Ranks.save` wrote; refuse one that was changed."""
    path = Path(path)
    about: _RankFacts = read_signed(path.with_suffix(".json"), _RankFacts)
    return read_records(path, Rank, what="a rank of a question", sha256=about.sha256)
