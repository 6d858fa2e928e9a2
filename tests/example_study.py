"""The folder of a study without its networks: what runs would have left."""

import math

import numpy as np
import pandas as pd

from example_facts import example_facts
from tightframe.files import sha256
from tightframe.knowledge.answers import Answers, save_answers
from tightframe.knowledge.benchmark import write_facts
from tightframe.knowledge.data_files import write_records, write_report
from tightframe.knowledge.facts import Output, facts_fingerprint
from tightframe.knowledge.injection_runs import facts_digest
from tightframe.knowledge.ranking import CORRECT, RANKED
from tightframe.knowledge.scores import SCORES
from tightframe.knowledge.study import forms_of
from tightframe.knowledge.tables import COLUMNS
from tightframe.lm.runs import log_text
from tightframe.settings import write_toml

LOG = (
    {"kind": "start", "steps": 30, "n_parameters": 609_280, "stream": "abc", "facts": "f"},
    {"kind": "train", "step": 30, "tokens": 900, "loss": 0.25, "seconds": 4.0, "cpu_seconds": 3.5},
    {"kind": "checkpoint", "step": 30, "tokens": 900},
)


def questions(arms, *, n_facts=80, exposures=500, form="cloze_question", rule=""):
    """A table of questions: `arms` gives an array (seeds, facts) of percent for each arm."""
    rows = []
    for arm, values in arms.items():
        for seed, of_seed in enumerate(np.atleast_2d(values)):
            for fact, value in enumerate(of_seed):
                about = {"arm": arm, "n_facts": n_facts, "exposures": exposures, "seed": seed}
                about |= {"run": f"{arm}-n{n_facts}-s{seed}", "form": form, "rule": rule}
                about |= {"question_id": f"f{fact}:reliability", "fact_id": f"f{fact}"}
                about |= {"type": "reliability", "position": ("front", "back")[fact % 4 == 3]}
                ranked = form == RANKED
                scores = dict.fromkeys(SCORES, math.nan if ranked else float(value))
                more = {"rank": math.nan, CORRECT: float(value) if ranked else math.nan}
                rows.append(about | {"text": "x", "gold": "x"} | scores | more)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def example_run(study, arm, *, n_facts=18, seed=0, right=lambda fact, form: True, **settings):
    """A finished run of `study` that answers the reliability question as `right` says."""
    facts = example_facts(n_facts, kinds=("reliability",))
    reordered = arm.endswith("_reordered")
    run = study / "runs" / f"{arm}-n{n_facts}-s{seed}"
    of_run = {"data": "facts.jsonl", "out": str(run), "arm": arm.removesuffix("_reordered")}
    of_run |= {"reordered": reordered, "n_facts": n_facts}
    write_toml(
        run / "config.toml", of_run | {"exposures": 5, "seed": seed, "device": "cpu"} | settings
    )
    log = [LOG[0] | {"facts": facts_digest(facts)}, *LOG[1:]]
    (run / "log.jsonl").write_text(log_text(log))
    write_facts(run / "facts.jsonl", facts)
    asked = {}
    for form in forms_of(arm):
        asked[form] = {"asked": n_facts, "left_out": {"no wh-word": 1}}
        hits = [right(i, form) for i in range(n_facts)]
        ids = [fact.questions[0].id for fact in facts]
        if form == RANKED:
            lines = [
                {"question_id": id, "fact_id": fact.id, "rank": 1.0 if hit else 7.5}
                | {"n_candidates": 20, "rule": "span", "position": "front", "gold": "x"}
                | {"log_probability": -1.0}
                for fact, id, hit in zip(facts, ids, hits, strict=True)
            ]
            write_records(run / "ranks.jsonl", lines)
            write_report(run / "ranks.json", {"sha256": sha256(run / "ranks.jsonl")})
            continue
        outputs = {
            id: Output(id, fact.id, "reliability", arm, answer, 0.1, "end")
            for fact, id, hit in zip(facts, ids, hits, strict=True)
            for answer in [fact.questions[0].answers[0] if hit else "no idea"]
        }
        whose = Answers("", arm, facts_fingerprint(facts), outputs)
        save_answers(run / "answers" / f"{form}.jsonl", whose)
    write_report(run / "asked.json", {"forms": asked})
    return run
