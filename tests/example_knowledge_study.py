"""The folder of a knowledge study as it is after its runs: made up, texts written by hand.

Arms differ by known amounts: an arm is right about a question if a draw of the question's own is
below the arm's skill, so that better arms are right where worse ones are.
"""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tightframe.knowledge.ensembles import Answered, JoinedAnswers, save_ensemble
from tightframe.knowledge.facts import Output
from tightframe.knowledge.intervals import PERCENT, estimates
from tightframe.knowledge.scores import BOUNDS
from tightframe.knowledge.study import write_verdicts

IMAGE = "<img src=x onerror=window.hacked=1>"
SCRIPT = "</script><script>window.hacked=1</script>"
QUOTES = "the \"Fox\" & 'Hound' {{ 7 * 7 }} %{x}"
SKILLS = {
    "clm_ntp": 0.3,
    "clm_sp": 0.45,
    "bilm_sp": 0.7,
    "bilm_mlm": 0.1,
    "bilm_ed": 0.6,
    "clm_sp_reordered": 0.55,
}
EASE = {"cloze_question": 0.0, "cloze_seen": 0.35, "raw_question": -0.3, "left_context": 0.1}
FORMS = (*EASE, "rank20")
GOLD = ("Mabel Quay", "the Ottery Lamp", "1912", IMAGE, SCRIPT, QUOTES, "Lake Brindle", "a heron")
SCORES = ("match_paper", "f1_paper", "match_norm", "em_norm", "f1_max", "output_words")
POSITIONS = ("front", "front", "front", "back", "not in fact")
SETTINGS = """
exposures = 500
data = "facts.jsonl"

[rule]
first = "bilm_sp"
second = "clm_sp"
margin = 5.0
trained_at = 90.0

[[grid]]
arms = ["clm_sp", "bilm_sp"]
n_facts = [40, 120]
"""


def questions(
    counts: tuple[int, ...],
    *,
    types: tuple[str, ...] = ("reliability",),
    forms: tuple[str, ...] = FORMS,
) -> pd.DataFrame:
    """A row a run, form and question."""
    rows: list[dict[str, Any]] = []
    for arm, n_facts in itertools.product(SKILLS, counts):
        main = arm in ("clm_sp", "bilm_sp")
        if not main and n_facts > min(counts):
            continue
        for seed, form in itertools.product(range(3 if main else 1), forms):
            if form == "left_context" and arm != "clm_ntp":
                continue
            draws = np.random.default_rng([seed, n_facts]).random(n_facts)
            for i, kind in itertools.product(range(n_facts), types):
                skill = SKILLS[arm] + EASE.get(form, 0.25) - 0.1 * (n_facts > min(counts))
                right = bool(draws[i] < skill)
                gold = GOLD[i % len(GOLD)]
                text = gold if right else f"not {GOLD[(i + 3) % len(GOLD)]}"[: 30 + i]
                percent = 100.0 * right
                scores = dict.fromkeys(SCORES, percent) | {"output_words": len(text.split())}
                row = {
                    "arm": arm,
                    "n_facts": n_facts,
                    "exposures": 500,
                    "seed": seed,
                    "run": f"{arm}-n{n_facts}-s{seed}",
                    "form": form,
                    "rule": "",
                    "question_id": f"dyk-{i:012x}:{kind}",
                    "fact_id": f"dyk-{i:012x}",
                    "type": kind,
                    "position": POSITIONS[i % 5],
                    "text": text,
                    "gold": gold,
                    **scores,
                    "rank": np.nan,
                    "correct": np.nan,
                }
                if form == "rank20":
                    row |= dict.fromkeys(SCORES, np.nan) | {"text": ""}
                    row |= {"rank": 1.0 if right else 2.0 + i % 19, "correct": percent}
                rows.append(row)
    return pd.DataFrame(rows)


def scores(asked: pd.DataFrame) -> pd.DataFrame:
    """A row an arm, form, subset and score."""
    rows = []
    for (arm, n_facts, form), own in asked.groupby(["arm", "n_facts", "form"]):
        names = ["correct"] if form == "rank20" else list(SCORES)
        for subset in ("all", *dict.fromkeys(POSITIONS)):
            part = own if subset == "all" else own[own["position"] == subset]
            codes = pd.factorize(part["fact_id"], sort=True)[0]
            found = estimates(
                part[names].to_numpy(float), codes, [BOUNDS.get(name, PERCENT) for name in names]
            )
            for name, one in zip(names, found, strict=True):
                rows.append(
                    {
                        "arm": arm,
                        "n_facts": n_facts,
                        "exposures": 500,
                        "form": form,
                        "subset": subset,
                        "score": name,
                        "value": one.value,
                        "low": one.low,
                        "high": one.high,
                        "n": one.n,
                        "n_facts_scored": one.n_facts,
                        "seeds": part["seed"].nunique(),
                    }
                )
    return pd.DataFrame(rows)


def verdict(n_facts: int, d: float, low: float, high: float, said: str) -> dict[str, Any]:
    """What the rule says at a number of facts; `match_norm` says there is no telling."""
    return {
        "n_facts": n_facts,
        "exposures": 500,
        "first": "bilm_sp",
        "second": "clm_sp",
        "form": "cloze_question",
        "score": "match_paper",
        "d": d,
        "low": low,
        "high": high,
        "verdict": said,
        "note": f"by match_norm the verdict is another: inconclusive at {n_facts}",
        "under_trained": [],
        "trained": {"bilm_sp": 98.0, "clm_sp": 95.0},
        "n": n_facts,
        "seeds": 3,
        "beside": {
            "score": "match_norm",
            "d": d - 20,
            "low": low - 20,
            "high": high - 20,
            "verdict": f"inconclusive at {n_facts}",
        },
    }


def geometry(asked: pd.DataFrame) -> pd.DataFrame:
    """A row a run and fact: margins of recalled facts are larger by 2; some CDNV is infinite."""
    own = asked[(asked["form"] == "cloze_question") & asked["arm"].isin(["clm_sp", "bilm_sp"])]
    rng = np.random.default_rng(5)
    recalled = own["match_paper"].to_numpy() / 100
    cdnv = np.exp(rng.normal(size=len(own)) * 1.5 - recalled)
    cdnv[:3] = np.inf
    return own[["run", "arm", "n_facts", "exposures", "seed", "fact_id", "position"]].assign(
        recalled=recalled,
        log_probability=rng.normal(size=len(own)) + recalled - 3,
        margin=rng.normal(size=len(own)) + 2 * recalled,
        cdnv_mean=cdnv,
    )


def write_ensemble(folder: Path, asked: pd.DataFrame) -> None:
    """Two clusters and a fallback; of 40 questions 36 reach a cluster, 30 their own."""
    ids = asked[(asked["n_facts"] == 40) & (asked["seed"] == 0)]["question_id"].unique()
    answers = [
        Answered(
            Output(one, one.partition(":")[0], "reliability", "m", SCRIPT, 0.1, "end"), i % 2, 0.9
        )
        for i, one in enumerate(ids)
    ]
    sources = [
        ("cluster 0", f"runs/{IMAGE}", 20),
        ("cluster 1", "runs/b", 16),
        ("fallback", None, 4),
    ]
    report = {
        "score": 62.5,
        "oracle_score": 75.0,
        "n_scored": len(ids),
        "sources": [
            {"source": name, "model": model, "n": n, "share": n / 40, "score": 50.0 + n}
            for name, model, n in sources
        ],
        "routing": {
            "confusion": [[17, 3, 2], [3, 13, 2], [0, 0, 0]],
            "in_scope": {"n": 40, "routed": 0.9, "right": 0.75},
            "locality": {"n": 0, "accepted": float("nan")},
            "outside": {"n": 200, "accepted": 0.035},
        },
    }
    save_ensemble(folder, JoinedAnswers(answers, report))


def write_study(
    folder: Path,
    *,
    counts: tuple[int, ...] = (40, 120),
    types: tuple[str, ...] = ("reliability",),
    forms: tuple[str, ...] = FORMS,
    bare: bool = False,
) -> Path:
    """The whole folder; with `bare` only its settings and scores."""
    asked = questions(counts, types=types, forms=forms)
    results = folder / "results"
    results.mkdir(parents=True)
    (folder / "study.toml").write_text(SETTINGS)
    scores(asked).to_csv(results / "scores.csv", index=False)
    if bare:
        return folder
    asked.to_parquet(results / "questions.parquet", index=False)
    runs = asked.drop_duplicates("run")[["arm", "n_facts", "exposures", "seed", "run"]]
    stream = [f"{n}{seed}abc" for n, seed in zip(runs["n_facts"], runs["seed"], strict=True)]
    runs.assign(
        parameters=609_280,
        tokens=1_234_567,
        final_loss=0.0123,
        stream=stream,
        steps=2500,
        device="cpu",
        finished=True,
    ).to_csv(results / "runs.csv", index=False)
    timings = runs[["run"]].assign(seconds=61.5, cpu_seconds=60.2)
    timings.to_csv(results / "timings.csv", index=False)
    left_out = {"n_facts": counts[0], "form": "left_context", "asked": 31, "left_out": 9}
    pd.DataFrame([left_out | {"arm": "clm_ntp", "reasons": "answer comes first: 9"}]).to_csv(
        results / "asked.csv", index=False
    )
    lines = [
        {
            "n_facts": n,
            "exposures": 500,
            "form": "cloze_question",
            "subset": "all",
            "score": score,
            "first": "bilm_sp",
            "second": "clm_sp",
            "d": 25.0 - n / 100,
            "low": 12.5,
            "high": 37.5,
            "better": 20,
            "worse": 4,
            "p": 0.0015,
            "n": n,
        }
        for n, score in itertools.product(counts, ("match_paper", "match_norm", "f1_max"))
    ]
    pd.DataFrame(lines).to_csv(results / "differences.csv", index=False)
    verdicts = [
        verdict(n, 25.0 - 5 * i, 12.5 - 5 * i, 37.5 - 5 * i, f"reproduced at {n}")
        for i, n in enumerate(counts)
    ]
    write_verdicts(results, verdicts)
    geometry(asked).to_parquet(results / "geometry.parquet", index=False)
    pd.DataFrame(
        {"arm": ["bilm_sp", IMAGE], "geometry": "margin", "n": 40, "gain": [0.0312, np.nan]}
    ).to_csv(results / "geometry.csv", index=False)
    pd.DataFrame({"arm": ["clm_sp"], "quantity": "recalled", "change": [-12.5]}).to_csv(
        results / "locality.csv", index=False
    )
    if counts[0] == 40:
        write_ensemble(folder / "ensemble", asked)
    return folder
