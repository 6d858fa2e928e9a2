"""Questions about facts: written by rules or by a model, all of them checked."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Sequence

from tightframe.knowledge import rules
from tightframe.knowledge.kinds import Check, failures, is_warning
from tightframe.knowledge.records import TYPES, Fact, Question, Type
from tightframe.knowledge.rules import Known


@dataclasses.dataclass(frozen=True)
class Dropped:
    """A question that failed a check, and was left out."""

    fact_id: str
    question: Question
    reason: Check


@dataclasses.dataclass(frozen=True)
class Asked:
    """Facts with their questions, and what was dropped."""

    facts: tuple[Fact, ...]
    dropped: tuple[Dropped, ...]


def ask(
    facts: Sequence[Fact],
    *,
    types: Collection[Type] = TYPES,
    known: Sequence[Known] = (),
    seed: int = 0,
    strict: bool = False,
) -> Asked:
    """Write questions about facts by rules; see `rules` for what each type asks.

    Questions that a fact has are kept, if they pass the checks; types that it has are not asked
    again. Portability and the true-or-false pair depend on which other facts there are, all else
    on its own fact only, and nothing but the warnings of duplicates on their order.

    Args:
        facts: What is asked for.
        types: What to write.
        known: Older knowledge for locality questions; there are none without it.
        seed: What replaces the target in a counterfactual depends on it.
        strict: Answers that do not occur in the hook are errors, not warnings.
    """
    about, labels = rules.by_title(facts), rules.by_kind(facts)
    writers: dict[Type, Callable[[Fact], Question | None]] = {
        "reliability": rules.reliability,
        "generality": rules.generality,
        "paraphrase": rules.paraphrase,
        "portability": lambda fact: rules.portability(fact, about),
        "locality": lambda fact: rules.locality(fact, known),
    }

    def written(fact: Fact) -> list[Question]:
        found: list[Question] = []
        for type_, write in writers.items():
            question = write(fact) if type_ in types else None
            found += [question] if question else []
        pair = rules.pair(fact, labels, seed) if {"factual", "counterfactual"} & {*types} else None
        return found + [question for question in pair or () if question.type in types]

    return checked(facts, [written(fact) for fact in facts], strict=strict)


def checked(
    facts: Sequence[Fact], new: Iterable[Sequence[Question]], *, strict: bool = False
) -> Asked:
    """Add new questions to facts, in the order of `TYPES`, and drop those that fail a check.

    Args:
        facts: With the questions that they have already; these are checked as well.
        new: New questions, fact by fact; those of a type that the fact has are ignored.
        strict: Answers that do not occur in the hook are errors, not warnings.
    """
    done: list[Fact] = []
    dropped: list[Dropped] = []
    seen: set[tuple[Type, str]] = set()
    for fact, additions in zip(facts, new, strict=True):
        has = {question.type for question in fact.questions}
        questions = [*fact.questions, *(one for one in additions if one.type not in has)]
        questions.sort(key=lambda question: TYPES.index(question.type))
        main = rules.reliability(fact)
        reliability = next(
            (question.prompt for question in questions if question.type == "reliability"),
            main.prompt if main else None,
        )
        kept = []
        for question in questions:
            failed = failures(question, fact, reliability=reliability)
            key = (question.type, question.prompt)
            if key in seen:
                failed.append("duplicate")
            reason = next((name for name in failed if not is_warning(name, strict=strict)), None)
            if reason:
                dropped.append(Dropped(fact.id, question, reason))
                continue
            seen.add(key)
            warnings = dict.fromkeys([*question.checks, *failed])
            kept.append(dataclasses.replace(question, checks=tuple(warnings)))
        done.append(dataclasses.replace(fact, questions=tuple(kept)))
    return Asked(tuple(done), tuple(dropped))
