"""How much of its facts a training has memorized so far, and what that took of two budgets.

A budget is counted in facts shown and in target tokens: masks change how many tokens are learnt
from. A condition that stops when it has memorized its facts has spent less of both.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from tightframe.knowledge.asking import QuestionPrompt, prompts
from tightframe.knowledge.facts import Fact
from tightframe.knowledge.options import QuestionForm
from tightframe.knowledge.qa_models import Objective, QAModel, continues
from tightframe.knowledge.scores import score_answer

CHECKS = 10  # of a training, at equal distances
BUDGETS = {"shown": "facts shown", "tokens": "target tokens"}


def form_of(objective: Objective) -> QuestionForm:
    """Return the form in which a model is asked for what it has seen."""
    return "left_context" if continues(objective) else "cloze_seen"


def sampled(
    facts: Sequence[Fact], objective: Objective, *, n: int, seed: int
) -> list[QuestionPrompt]:
    """Draw the questions on facts as they were seen, at most `n`."""
    asked = prompts(facts, form_of(objective))
    drawn = np.random.default_rng([seed, 3]).permutation(len(asked))[:n]
    return [asked[i] for i in sorted(drawn.tolist())]


def memorized(model: QAModel, asked: Sequence[QuestionPrompt]) -> float:
    """Return the percentage of questions whose answer occurs in the output, letter by letter."""
    training = model.module.training
    model.module.eval()
    try:
        answers = model.answer([one.prompt for one in asked])
    finally:
        model.module.train(training)
    hits = [
        score_answer(one.answers, answer.text).match_paper
        for one, answer in zip(asked, answers, strict=True)
    ]
    return 100 * float(np.mean(hits))


def equal_budgets(checks: pd.DataFrame, pairs: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """Compare what pairs of arms have memorized at equal facts shown, and at equal target tokens.

    The budget is the largest that both arms have spent in all runs. A run counts by its last check
    within it; before the first one it has memorized nothing.

    Args:
        checks: One row per run and check: arm, n_facts, seed, shown (exposures), tokens, memorized.
        pairs: Arms to compare.
    """
    rows = []
    for first, second in pairs:
        both = checks[checks["arm"].isin([first, second])] if len(checks) else checks
        for n_facts in sorted(set(both["n_facts"])) if len(both) else ():
            cell = both[both["n_facts"] == n_facts]
            if cell["arm"].nunique() < 2:
                continue
            for column, name in BUDGETS.items():
                at = cell.groupby(["arm", "seed"])[column].max().min()
                within = cell[cell[column] <= at].groupby(["arm", "seed"])["memorized"].last()
                runs = cell.groupby(["arm", "seed"]).size().index
                means = within.reindex(runs, fill_value=0.0).groupby("arm").mean()
                about = {"n_facts": n_facts, "first": first, "second": second}
                found = {"first_memorized": means[first], "second_memorized": means[second]}
                rows.append(about | {"budget": name, "at": at} | found)
    return pd.DataFrame(rows)
