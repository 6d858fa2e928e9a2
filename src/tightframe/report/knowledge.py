"""What the page of a knowledge study shows: scores, types, answers, ensembles, geometry.

Percents are taken from the study's tables as they are. Two things are computed here, with the
intervals of `knowledge.paired` (over facts, all seeds of a fact together): scores by type,
and how many facts are recalled among those of like geometry.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from tightframe.knowledge.intervals import FEWEST, LEVEL, MARGIN, PERCENT, Power, estimates, power
from tightframe.knowledge.scores import BOUNDS, WORDS
from tightframe.knowledge.study import REORDERED
from tightframe.report.knowledge_folder import Ensemble, Study

ARMS = {  # in the order shown, with what they are
    "clm_ntp": "causal, every next token",
    "clm_sp": "causal, masked spans",
    "bilm_sp": "reads the fact in both directions (prefix), masked spans",
    "bilm_mlm": "encoder only, masked spans in one pass",
    "bilm_ed": "encoder-decoder, masked spans",
}
FORMS = {
    "cloze_question": "The question with its wh-phrase masked: the main measure.",
    "cloze_seen": "The injected sentence with its answer masked, as in training: tests "
    "memorisation. Below 90 % an arm is under-trained.",
    "rank20": "Whether the answer ranks first among itself and answers to 19 other facts; chance "
    "is 5 %. Span arms and next-token arms are ranked by different scores: do not compare them.",
    "raw_question": "The question with a mask after it.",
    "left_context": "The sentence continued from the words before the answer. Facts that begin "
    "with their answer are left out.",
    "left_context_reordered": "The reordered sentence, which ends with the answer, continued from "
    "the words before the answer.",
}
SCORES = {
    "match_paper": "an answer is a substring of the output, letter by letter (as published)",
    "match_norm": "the words of an answer occur in the output, ignoring case and punctuation",
    "em_norm": "the output is an answer, ignoring case and punctuation",
    "f1_max": "F1 of the words shared with the nearest answer",
    "f1_paper": "F1 of the words shared with the first answer (as published)",
    "correct": "the answer ranks first",
    WORDS: "number of words of the output: a longer output contains an answer more often",
}
POSITIONS = ("all", "front", "back", "not in fact")
FEATURES = {  # of the geometry of a fact, in words for an axis
    "log_probability": "log-probability of the answer after the question, nats",
    "log_probability_seen": "log-probability of the answer as trained, nats",
    "logit_margin": "logit of the answer minus the largest other, nats",
    "variance": "variance within the fact over that between facts",
    "cdnv_mean": "CDNV with another fact, mean over the others",
    "cdnv_nearest": "CDNV with the fact whose mean is nearest",
    "cosine_nearest": "largest cosine of its centred mean with another",
    "cosine_classifier": "cosine of its centred mean with its token's",
    "rank": "rank of its mean by distance to its question, 1 is nearest",
    "rank_cosine": "rank of its mean by centred cosine",
    "margin": "how much nearer its mean is than the nearest other",
    "answer_start": "words before the answer, share of the fact",
    "answer_words": "words of the answer",
}
MAIN_FORM, MAIN_SCORE = "cloze_question", "match_paper"
MOST_LINES = 3_000  # questions and forms in the table of answers
LONGEST = 160  # letters of an answer that are shown
MOST_BINS, FEWEST_IN_BIN = 8, FEWEST  # facts of like geometry
MOST_STATISTICS = 200
_OF_RECALL = {
    "run",
    "arm",
    "n_facts",
    "exposures",
    "seed",
    "fact_id",
    "recalled",
    "n_variants",
    "longer",
    "seen",
    "verbatim",
}


class Card(NamedTuple):
    """A verdict as it is drawn: by the score of the rule, then by the score beside it."""

    verdict: dict[str, Any]
    level: float = LEVEL
    margin: float = MARGIN

    def power(self, one: Mapping[str, Any]) -> Power:
        """Return what a comparison with the interval of a score could have found."""
        n_facts = self.verdict.get("n", self.verdict["n_facts"])
        return power(one["low"], one["high"], n_facts, level=self.level, margin=self.margin)

    @property
    def scores(self) -> tuple[dict[str, Any], ...]:
        """Verdicts by each score."""
        beside = self.verdict["beside"]
        return (self.verdict,) if beside is None else (self.verdict, beside)

    @property
    def reach(self) -> float:
        """End of the axis of the differences, in points: the next ten."""
        ends: list[float] = [abs(one[name]) for one in self.scores for name in ("d", "low", "high")]
        furthest = max([10.0, *(end for end in ends if math.isfinite(end))])
        return 10.0 * math.ceil(furthest / 10)


def arms_of(study: Study) -> list[str]:
    """Return the arms of a study in the order shown: the known ones, then others by name."""
    names: set[str] = set(study.scores["arm"])
    for table in (study.runs, study.recall, study.questions):
        names |= set(table["arm"]) if "arm" in table else set()
    known = [arm for base in ARMS for arm in (base, base + REORDERED)]
    return ordered(sorted(names), known)


def look_of(arm: str, arms: Sequence[str]) -> tuple[int, bool]:
    """Return the number of an arm's colour and mark, and whether it is drawn open and dashed.

    Known arms have the same colour on every page; one that learned reordered facts has that of the
    arm that did not.
    """
    base = arm.removesuffix(REORDERED)
    bases = dict.fromkeys(one.removesuffix(REORDERED) for one in arms)
    known = [*ARMS, *(one for one in bases if one not in ARMS)]
    return known.index(base), arm != base


def busiest(rows: pd.DataFrame) -> int:
    """Return the number of facts that most arms were given, the largest of these."""
    arms = rows.groupby("n_facts")["arm"].nunique()
    return int(arms[arms == arms.max()].index.max())


def words_of(arm: str) -> str:
    """Return what an arm is; "" if that is not known."""
    words = ARMS.get(arm.removesuffix(REORDERED), "")
    return f"{words}, facts reordered" if words and arm.endswith(REORDERED) else words


def ordered(found: Sequence[str], order: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Return each name once: known names in their order, others after them by name."""
    there = set(found)
    return [*(name for name in order if name in there), *sorted(there - set(order))]


def streams(study: Study) -> list[tuple[str, str, int, int]]:
    """Count the pairs of runs that saw the same examples in one order, for arms under a verdict.

    Returns:
        Both arms, pairs with equal streams, all pairs (of one number of facts, exposures, seed).
    """
    if "stream" not in study.runs:
        return []
    key = ["n_facts", "exposures", "seed"]
    found = []
    for first, second in dict.fromkeys((one["first"], one["second"]) for one in study.verdicts):
        ours, theirs = (study.runs[study.runs["arm"] == arm] for arm in (first, second))
        pairs = ours.merge(theirs, on=key, suffixes=("_first", "_second"))
        equal = (pairs["stream_first"] == pairs["stream_second"]).sum()
        found.append((str(first), str(second), int(equal), len(pairs)))
    return found


def by_type(questions: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of each type of question, one line per arm, facts, form, type and score.

    Empty if the questions are of one type: it is what scores.csv says.
    """
    if questions.empty or questions["type"].nunique() < 2:
        return pd.DataFrame()
    scores = [score for score in SCORES if score in questions]
    codes = pd.factorize(questions["fact_id"], sort=True)[0]
    lines = []
    groups = questions.groupby(["arm", "n_facts", "exposures", "form", "type"], sort=True)
    for key, rows in groups.indices.items():
        assert isinstance(key, tuple)
        values = questions.iloc[rows][scores].to_numpy(dtype=np.float64)
        known = np.flatnonzero(~np.isnan(values).all(axis=0))
        kept = ~np.isnan(values[:, known]).any(axis=1)
        bounds = [BOUNDS.get(scores[column], PERCENT) for column in known]
        means = estimates(values[kept][:, known], codes[rows][kept], bounds)
        for column, found in zip(known, means, strict=True):
            lines.append((*key, scores[column], found.value, found.low, found.high, found.n))
    names = ["arm", "n_facts", "exposures", "form", "type", "score", "value", "low", "high", "n"]
    return pd.DataFrame(lines, columns=names)


def features_of(recall: pd.DataFrame) -> list[str]:
    """Return the columns that say something of a fact's geometry."""
    return [
        str(name)
        for name in recall.columns
        if name not in _OF_RECALL
        and pd.api.types.is_numeric_dtype(recall[name])
        and recall[name].nunique() > 1
    ]


def recall_by_feature(recall: pd.DataFrame) -> pd.DataFrame:
    """Return the percentage of facts recalled among equally many with like values of a feature.

    Returns:
        One line per arm, number of facts, feature and bin: `median` of the feature there, `value`
        with `low` and `high`, `n` facts and runs.
    """
    lines = []
    for (arm, n_facts), own in recall.groupby(["arm", "n_facts"], sort=True) if len(recall) else ():
        for feature in features_of(recall):
            known = own[np.isfinite(own[feature].astype(float))]
            most = known["fact_id"].nunique() // FEWEST_IN_BIN
            if most < 2:
                continue
            bins = pd.qcut(known[feature], min(most, MOST_BINS), labels=False, duplicates="drop")
            for _, part in known.groupby(bins, sort=True):
                codes = pd.factorize(part["fact_id"], sort=True)[0]
                percent = 100 * part[["recalled"]].to_numpy(dtype=np.float64)
                (found,) = estimates(percent, codes, [PERCENT])
                median = float(part[feature].median())
                lines.append((arm, n_facts, feature, median, *found[:4]))
    names = ["arm", "n_facts", "feature", "median", "value", "low", "high", "n"]
    return pd.DataFrame(lines, columns=names)


def answers(study: Study, arms: Sequence[str]) -> dict[str, Any]:
    """Return one line per question and form: what each arm answered first, and how often rightly.

    Right is by the score of the decision rule, or by rank; of several seeds, how many were right.

    Returns:
        lines: `[n_facts, exposures, form, question, fact, type, position, gold, prompt, said]`,
            where `said` has `[text, right, seeds]` or null for each arm.
        n, shown: How many lines there are, and how many are in `lines`.
    """
    table = study.questions
    if table.empty:
        return {"lines": [], "n": 0, "shown": 0}
    table = table.sort_values("seed", kind="stable")
    key = ["n_facts", "exposures", "form", "question_id"]
    said: dict[tuple[Any, ...], dict[str, list[Any]]] = {}
    about: dict[tuple[Any, ...], list[str]] = {}
    ranks = table["rank"] if "rank" in table else pd.Series(math.nan, index=table.index)
    first = 100.0 * (ranks == 1)
    right = table[MAIN_SCORE].where(table[MAIN_SCORE].notna(), first)
    prompts = table["prompt"].fillna("").astype(str) if "prompt" in table else [""] * len(table)
    columns = ["fact_id", "type", "position", "gold"]
    for where, arm, text, rank, percent, prompt, *facts in zip(
        table[key].itertuples(index=False, name=None),
        table["arm"],
        table["text"],
        ranks,
        right,
        prompts,
        *(table[column] for column in columns),
        strict=True,
    ):
        about.setdefault(where, [*facts, prompt])
        own = said.setdefault(where, {}).setdefault(arm, [_said(text, rank), 0, 0])
        own[1] += int(percent > 50)
        own[2] += 1
    chosen = _evenly(list(about))
    lines = [
        [*where, *map(_short, about[where]), [said[where].get(arm) for arm in arms]]
        for where in chosen
    ]
    return {"lines": lines, "n": len(about), "shown": len(lines)}


def _evenly(keys: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return the first questions of every form and number of facts, as many of each as fit."""
    groups: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for key in keys:
        groups.setdefault(key[:3], []).append(key)
    each = max(1, MOST_LINES // len(groups))
    return [key for group in sorted(groups) for key in groups[group][:each]]


def _said(text: str, rank: float) -> str:
    return f"rank {rank:g}" if not text and rank == rank else _short(text)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"


class Judged(NamedTuple):
    """An ensemble, and the single models that answered the same questions."""

    ensemble: Ensemble
    singles: tuple[tuple[str, float, int], ...]  # which, its score on `MAIN_FORM`, questions


def judged(study: Study) -> list[Judged]:
    """Return the ensembles, each beside the single models that were asked all that it scored."""
    found = []
    for one in study.ensembles:
        rows = study.questions
        if len(rows):
            rows = rows[rows["question_id"].isin(one.asked) & (rows["form"] == MAIN_FORM)]
        singles = []
        if len(rows):
            for (arm, n_facts), own in rows.groupby(["arm", "n_facts"], sort=True):
                asked = own["question_id"].nunique()
                if asked == one.report["n_scored"]:
                    words = f"{arm}, one model of {n_facts:,} facts"
                    singles.append((words, float(own["match_norm"].mean()), asked))
        found.append(Judged(one, tuple(singles)))
    return found


def as_it_is(table: pd.DataFrame) -> tuple[list[str], list[list[Any]]]:
    """Return names of columns, then lines, at most `MOST_STATISTICS`; unknown values are None."""
    lines = table.head(MOST_STATISTICS).astype(object).where(table.notna(), None)
    return [str(name).replace("_", " ") for name in table.columns], lines.to_numpy().tolist()
