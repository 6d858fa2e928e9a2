"""Scores of the size of the published benchmark: seconds from files of outputs to their tables.

12,290 invented facts with 77,180 questions of seven types; two runs, one against the other, with
intervals for all questions and each type.

    python benchmarks/knowledge_score.py
"""

import argparse
import dataclasses
import json
import random
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tightframe.knowledge.facts import TYPES, Fact, Output, Question, fact_id
from tightframe.knowledge.options import ScoreOptions
from tightframe.knowledge.score_tables import score as score_arm

FACTS, QUESTIONS = 12_290, 77_180
TARGET = "30 s"


def score(n_facts: int = FACTS, n_questions: int = QUESTIONS) -> dict[str, Any]:
    """The row `score`: seconds of one arm alone, and of two arms with their difference."""
    facts = make_facts(n_facts, n_questions)
    about = {"row": "score", "work": f"{n_questions:,} outputs on {n_facts:,} facts"}
    with tempfile.TemporaryDirectory() as folder:
        files = [write_outputs(Path(folder) / f"{seed}.jsonl", facts, seed) for seed in range(2)]
        alone = timed(facts, files[:1])
        paired = timed(facts, files[:1], against=files[1:])
        by_day = timed(facts, files[:1], options=ScoreOptions(by=("day", "position")))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # KiB on Linux
    seconds = {"seconds": alone, "against_seconds": paired, "by_day_seconds": by_day}
    return about | {"target": TARGET} | seconds | {"peak_bytes": peak}


def timed(
    facts: list[Fact],
    outputs: list[Path],
    against: Sequence[Path] = (),
    options: ScoreOptions | None = None,
) -> float:
    started = time.perf_counter()
    report = score_arm(outputs, facts, options or ScoreOptions(), against=against)
    seconds = time.perf_counter() - started
    assert all(row.low <= row.value <= row.high for row in report.rows if row.low == row.low)
    return seconds


def make_facts(n_facts: int, n_questions: int) -> list[Fact]:
    """Facts of 1,200 days, the first ones with one question more than the last."""
    generator = random.Random(0)
    words = [f"word{i}" for i in range(5000)]
    facts = []
    for i in range(n_facts):
        date = f"{2022 + i * 3 // n_facts}-{i % 12 + 1:02}-{i % 28 + 1:02}"
        text = " ".join(generator.choices(words, k=19))
        made = fact_id(date, f"{text} {i}")
        n = n_questions // n_facts + (i < n_questions % n_facts)
        starts = [generator.randrange(16) for _ in range(n)]
        questions = tuple(
            Question(
                *(f"{made}:{TYPES[k]}", TYPES[k], "question", "Which words?", None),
                (" ".join(text.split()[start : start + 3]), "another name"),
                "file",
            )
            for k, start in enumerate(starts)
        )
        year, month, _ = map(int, date.split("-"))
        facts.append(Fact(made, date, None, year, month, text, text, text, questions=questions))
    return facts


def write_outputs(path: Path, facts: list[Fact], seed: int) -> Path:
    """Answers of 20 words, three of ten of which hold the gold."""
    generator = random.Random(seed)
    with path.open("w") as file:
        for fact in facts:
            for question in fact.questions:
                said = ["so"] * 17 + [question.answers[0] if generator.random() < 0.3 else "what"]
                output = Output(
                    *(question.id, fact.id, question.type, f"m{seed}", " ".join(said), 0.1, "end")
                )
                file.write(json.dumps(dataclasses.asdict(output)) + "\n")
    return path


def main() -> None:
    """Score once and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--facts", type=int, default=FACTS)
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    options = parser.parse_args()
    print(json.dumps(score(options.facts, options.questions), indent=2))


if __name__ == "__main__":
    main()
