"""One run of a study: a model that facts were injected into, and what it answered.

config.toml, log.jsonl, facts.jsonl, checkpoints/   the injection
answers/<form>.jsonl, .json                         what it said, a file a form
ranks.jsonl, .json                                  where the right answers stand
asked.json                                          how much was asked; the run is finished
"""

import dataclasses
import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from tightframe.errors import UserError
from tightframe.formats import Count, Record, read_signed
from tightframe.knowledge.arm_tables import CORRECT, RANKED
from tightframe.knowledge.clusters import facts_fingerprint
from tightframe.knowledge.exchanges import find_arm
from tightframe.knowledge.facts import Fact, Question
from tightframe.knowledge.injection_runs import InjectionRun
from tightframe.knowledge.outputs import load_answers
from tightframe.knowledge.ranking import load_ranks
from tightframe.knowledge.scores import SCALE, SCORES, position, score_answer

ANSWERS = "answers"
RANKS = "ranks.jsonl"
ASKED = "asked.json"
REORDERED = "_reordered"  # ends the name of an arm that is trained on reordered facts
BACKWARDS = "left_context_reordered"  # clue first, answer last, however the fact has it

# What an arm is asked; one that has learned whole sentences only can't fill a mask.
OF_SPANS = ("cloze_seen", "cloze_question", "raw_question", RANKED)
OF_SENTENCES = ("left_context", BACKWARDS, RANKED)


class _Asked(Record):
    """How much was asked in a form."""

    asked: Count
    left_out: dict[str, Count]


class _AskedForms(Record):
    """What asked.json holds."""

    forms: dict[str, _Asked]
    fingerprint: str


def forms_of(arm: str) -> tuple[str, ...]:
    """The forms that an arm is asked in; what learned whole sentences can't fill a mask."""
    name = arm.removesuffix(REORDERED)
    return OF_SENTENCES if find_arm(name).objective == "ntp" else OF_SPANS


@dataclasses.dataclass(frozen=True)
class StudyRun:
    """A run directory, read; it may be unfinished, but must have been started."""

    path: Path

    @cached_property
    def injection(self) -> InjectionRun:
        """The training of its model."""
        return InjectionRun.open(self.path)

    @cached_property
    def facts(self) -> tuple[Fact, ...]:
        """What was injected, with its questions."""
        return self.injection.injected

    @property
    def about(self) -> dict[str, Any]:
        """What tells it from the other runs of a study."""
        settings = self.injection.settings
        return {
            "arm": settings.arm + (REORDERED if settings.reordered else ""),
            "n_facts": settings.n_facts,
            "exposures": settings.exposures,
            "seed": settings.seed,
            "run": self.path.name,
        }

    @property
    def finished(self) -> bool:
        """Whether it has been asked in every form of its arm."""
        return set(self.asked) >= set(forms_of(self.about["arm"]))

    @property
    def asked(self) -> dict[str, dict[str, Any]]:
        """By form: `asked`, the number of questions, and `left_out`, how many of them by reason.

        Empty while the run is unfinished.
        """
        path = self.path / ASKED
        if not path.is_file():
            return {}
        about: _AskedForms = read_signed(path, _AskedForms)
        return {form: one.model_dump() for form, one in about.forms.items()}

    def file(self, form: str) -> Path:
        """Of what the model answered in a form; beside it NAME.json, written after it."""
        return self.path / RANKS if form == RANKED else self.path / ANSWERS / f"{form}.jsonl"

    def answered(self, form: str) -> bool:
        """Whether the model has been asked in this form: both files are there."""
        return self.file(form).is_file() and self.file(form).with_suffix(".json").is_file()

    def numbers(self) -> dict[str, Any]:
        """The run as a row: what always stands beside its scores. NaN before its first record."""
        start, last = self.injection.facts, self._last
        return self.about | {
            "parameters": start["n_parameters"],
            "tokens": last.get("tokens", 0),
            "final_loss": last.get("loss", math.nan),
            "stream": start["stream"],
            "steps": start["steps"],
            "device": self.injection.settings.device,
            "finished": self.finished,
        }

    def timings(self) -> dict[str, float]:
        """Seconds of the training, by the clock and of the processor."""
        return {name: self._last.get(name, math.nan) for name in ("seconds", "cpu_seconds")}

    @property
    def _last(self) -> dict[str, Any]:
        """The last value of everything that the log has recorded."""
        return {name: value for record in self.injection.log for name, value in record.items()}

    def questions(self) -> Iterator[dict[str, Any]]:
        """A row a form and question, scored, with the columns of `arm_tables.COLUMNS`."""
        asked = {
            question.id: (fact, question) for fact in self.facts for question in fact.questions
        }
        trained_on = facts_fingerprint(self.facts)
        for form in (form for form, told in self.asked.items() if told["asked"]):
            about = self.about | {"form": form}
            rows = self._ranked(asked) if form == RANKED else self._scored(form, asked, trained_on)
            for row in rows:
                yield about | row

    def _scored(
        self, form: str, asked: dict[str, tuple[Fact, Question]], trained_on: str
    ) -> Iterator[dict[str, Any]]:
        file = self.file(form)
        answers = load_answers(file)
        if answers.trained_on != trained_on:
            raise UserError(
                f"{file}: answers of a model that was trained on other facts than this run's; "
                f"remove {self.path}, and run the study again"
            )
        for output in answers.outputs.values():
            fact, question = self._known(file, output.question_id, asked)
            scores = (*score_answer(question.answers, output.text), len(output.text.split()))
            yield {
                **{"rule": "", **_named(fact, question), "text": output.text},
                **dict(zip(SCORES, (SCALE * scores).tolist(), strict=True)),
                **{"rank": math.nan, CORRECT: math.nan},
            }

    def _ranked(self, asked: dict[str, tuple[Fact, Question]]) -> Iterator[dict[str, Any]]:
        file = self.file(RANKED)
        for one in load_ranks(file):
            fact, question = self._known(file, one.question_id, asked)
            yield {
                **{"rule": one.rule, **_named(fact, question), "text": ""},
                **dict.fromkeys(SCORES, math.nan),
                **{"rank": float(one.rank), CORRECT: 100.0 * (one.rank == 1)},
            }

    def _known(
        self, file: Path, question_id: str, asked: dict[str, tuple[Fact, Question]]
    ) -> tuple[Fact, Question]:
        if question_id not in asked:
            raise UserError(
                f"{file}: {question_id} is no question on a fact of this run; remove {self.path}, "
                "and run the study again"
            )
        return asked[question_id]


def _named(fact: Fact, question: Question) -> dict[str, Any]:
    return {
        "question_id": question.id,
        "fact_id": fact.id,
        "type": question.type,
        "position": position(question.answers, fact.fact),
        "gold": question.answers[0],
    }
