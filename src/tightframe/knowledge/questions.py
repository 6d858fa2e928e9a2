"""Questions about facts by rules, and the checks that every question must pass.

A rule returns a question or None; `words.failures` judges its quality. If a fact has several
targets, rules ask for the first.
"""

import dataclasses
import hashlib
import itertools
import random
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from tightframe.knowledge.directions import backward_question, forward_question
from tightframe.knowledge.facts import (
    EVERY_TYPE,
    MASK,
    TYPES,
    Fact,
    FactSet,
    Question,
    Target,
    Type,
    question_format,
)
from tightframe.knowledge.words import (
    WORD,
    Check,
    Gap,
    Kind,
    begins_a_sentence,
    contains,
    failures,
    found_targets,
    gap,
    is_warning,
    kind,
    names,
    numbers,
    reworded,
    same_title,
    without_stop,
    word_list,
)
from tightframe.results import ResultTable

if TYPE_CHECKING:
    import pandas as pd

GENERATOR = "rules"
TWO_INJECTED = "two_injected"  # a warning: both hops of the question are injected facts


@dataclasses.dataclass(frozen=True)
class KnownFact:
    """Older knowledge that a model may have, to ask for after injection."""

    prompt: str
    answers: tuple[str, ...]


def reliability_question(fact: Fact) -> Question | None:
    """Restate the fact, asking for its target."""
    targets = found_targets(fact)
    if not targets:
        return None
    target = targets[0]
    cut = gap(fact, target)
    if cut.opens:
        prompt = f"{cut.wh}{_spaced(cut.after)}"
    else:
        prompt = f"{cut.before}{cut.wh[0].lower()}{cut.wh[1:]}{cut.after}"
    bare = re.sub(r"\s*\([^()]*\)$", "", target.title)
    answers = tuple(dict.fromkeys(name for name in (target.label, target.title, bare) if name))
    cloze = fact.fact[: target.start] + MASK + fact.fact[target.end :]
    return _question(fact, "reliability", without_stop(prompt.rstrip(" ?")) + "?", answers, cloze)


def generality_question(fact: Fact) -> Question | None:
    """Ask by a cloze for the longest name or number of the fact that is no target."""
    targets = found_targets(fact)
    slots = [
        (start, end)
        for start, end in sorted(names(fact.fact) + numbers(fact.fact))
        if all(end <= target.start or target.end <= start for target in targets)
    ]
    if not slots or not targets:  # without a target, no slot is known to be another one
        return None
    start, end = max(slots, key=lambda slot: slot[1] - slot[0])  # the first of equals
    cloze = fact.fact[:start] + MASK + fact.fact[end:]
    return _question(fact, "generality", cloze, (fact.fact[start:end],), cloze)


def paraphrase_question(fact: Fact) -> Question | None:
    """Return the reliability question with its last clause first and other words."""
    asked = reliability_question(fact)
    if asked is None:
        return None
    target = found_targets(fact)[0]
    cut = gap(fact, target)
    prompt = asked.prompt
    clause = _last_clause(cut)
    if clause:
        start = prompt[:-1].rstrip().rindex(clause)
        rest = prompt[:start].rstrip(" ,")
        if cut.opens or begins_a_sentence(fact.fact):
            rest = rest[0].lower() + rest[1:]
        prompt = f"{clause[0].upper()}{clause[1:]}, {rest}?"
    prompt = reworded(prompt, set(WORD.findall(target.label)))
    return _question(fact, "paraphrase", prompt, asked.answers, asked.cloze)


def portability_question(
    fact: Fact, about: Mapping[str, Sequence[tuple[Fact, Target]]]
) -> Question | None:
    """Return the reliability question with an entity replaced by what another fact says of it.

    Args:
        fact: The fact to ask for.
        about: The other facts by the titles of their targets, see `by_title`.
    """
    asked = reliability_question(fact)
    if asked is None or asked.cloze is None:
        return None
    for link in fact.links:
        others = [one for one in about.get(same_title(link.title), ()) if one[0].id != fact.id]
        if not others or not link.label:
            continue
        cut = gap(*others[0])
        clause = f"the one {'whose' if cut.genitive else 'that'} {cut.rest}".rstrip(" ?")
        clause = without_stop(clause)
        prompt = _replaced(asked.prompt, link.label, clause)
        if prompt != asked.prompt:
            cloze = _replaced(asked.cloze, link.label, clause)
            warnings = (TWO_INJECTED,)
            return _question(fact, "portability", prompt, asked.answers, cloze, warnings=warnings)
    return None


def true_false_pair(
    fact: Fact, labels: Mapping[tuple[Kind, str], Sequence[str]], seed: int
) -> tuple[Question, Question] | None:
    """Return the fact to affirm, and to reject with another fact's target in it.

    Args:
        fact: The fact to ask for.
        labels: Names to choose from, sorted; see `by_kind`.
        seed: Seed of the choice, with the fact's id.
    """
    targets = found_targets(fact)
    if not targets:
        return None
    target = targets[0]
    pool = labels.get((kind(fact, target), _form(fact, target)), ())
    start = random.Random(f"{seed}|{fact.id}").randrange(len(pool)) if pool else 0
    for label in (*pool[start:], *pool[:start]):
        if not contains(fact.fact, label):
            altered = fact.fact[: target.start] + label + fact.fact[target.end :]
            return (
                _question(fact, "factual", _to_judge(fact.fact), ("True",), None),
                _question(fact, "counterfactual", _to_judge(altered), ("False",), None),
            )
    return None


def locality_question(fact: Fact, known: Sequence[KnownFact]) -> Question | None:
    """Ask for older knowledge, chosen by the fact's id, that the fact does not answer."""
    start = int(hashlib.sha256(fact.id.encode()).hexdigest(), 16) % len(known) if known else 0
    for one in (*known[start:], *known[:start]):
        if not any(contains(fact.fact, answer) for answer in one.answers):
            cloze = one.prompt if one.prompt.count(MASK) == 1 else None
            return _question(fact, "locality", one.prompt, one.answers, cloze)
    return None


def by_title(facts: Sequence[Fact]) -> dict[str, list[tuple[Fact, Target]]]:
    """Return facts by the titles of their targets, each title's in the order of their ids."""
    found: dict[str, list[tuple[Fact, Target]]] = {}
    for fact in sorted(facts, key=lambda fact: fact.id):
        for target in found_targets(fact):
            found.setdefault(same_title(target.title), []).append((fact, target))
    return found


def by_kind(facts: Sequence[Fact]) -> dict[tuple[Kind, str], list[str]]:
    """Return the labels of the facts' first targets by what they are and their form, sorted."""
    found: dict[tuple[Kind, str], set[str]] = {}
    for fact in facts:
        for target in found_targets(fact)[:1]:
            found.setdefault((kind(fact, target), _form(fact, target)), set()).add(target.label)
    return {name: sorted(labels) for name, labels in found.items()}


def _form(fact: Fact, target: Target) -> str:
    """Return what can stand in a target's place: a number, a name, a noun, or another word."""
    first = target.label.lstrip("\"'\u201c\u2018(")[:1]
    if first.isdigit():
        return "number"
    if first.isupper():
        return "name"
    if target.label.split(" ", 1)[0] in ("a", "an", "the"):
        return "noun with its article"
    before = WORD.findall(fact.fact[: target.start])[-1:]
    return "noun" if before and before[0].casefold() in ("a", "an", "the") else "word"


def _to_judge(statement: str) -> str:
    """Return a statement as a question; one that ends in a mark of its own keeps it."""
    ended = re.search(r"[.!?\u2026][\"'\u2019\u201d)\]]*\s*$", statement)
    return f"{statement.rstrip()}{'' if ended else '.'} True or false?"


def _question(
    fact: Fact,
    type_: Type,
    prompt: str,
    answers: tuple[str, ...],
    cloze: str | None,
    *,
    warnings: tuple[str, ...] = (),
) -> Question:
    return Question(
        id=f"{fact.id}:{type_}",
        type=type_,
        format=question_format(type_, prompt),
        prompt=prompt,
        cloze=cloze,
        answers=answers,
        generator=GENERATOR,
        checks=warnings,
    )


def _replaced(text: str, mention: str, clause: str) -> str:
    """Replace the first mention, and an article before it, by a clause with its own article."""
    pattern = rf"(?<!\w)(?:(?:[Tt]he|[Aa]n?) )?{re.escape(mention)}(?!\w)"
    return re.sub(pattern, lambda _: clause, text, count=1)


def _spaced(after: str) -> str:
    """Return the text after a name, with a blank in front unless it begins with punctuation."""
    after = after.lstrip()
    return after if not after or after[0] in ",;:.!?)" else f" {after}"


def _last_clause(cut: Gap) -> str | None:
    """Return the final clause or phrase after a name, None if nothing is left without it."""
    after = cut.after
    words = list(WORD.finditer(after, after.rfind(",") + 1))
    starts = [word.start() for word in words if word[0] in word_list("clauses")][:1] or [
        word.start()
        for word, following in itertools.pairwise(words)
        if word[0] in word_list("phrases") and following[0] not in word_list("wh")
    ][-1:]
    if not starts or starts[0] == words[-1].start():
        return None
    if cut.opens and not after[: starts[0]].strip(" ,"):
        return None
    return without_stop(after[starts[0] :].rstrip(" ?,"))


@dataclasses.dataclass(frozen=True)
class DroppedQuestion:
    """A question that failed a check, and was left out."""

    fact_id: str
    question: Question
    reason: Check


@dataclasses.dataclass(frozen=True, repr=False)
class CheckedQuestions(ResultTable):
    """Facts with their questions, and the questions that were dropped."""

    facts: FactSet
    dropped: tuple[DroppedQuestion, ...]

    @property
    def one_line(self) -> str:
        """Number of facts, of questions, and of dropped questions."""
        return f"{self.facts.one_line}, {len(self.dropped):,} dropped"

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row per question, kept or dropped, with the reason if it was dropped."""
        import pandas as pd

        kept = [(fact.id, one, "") for fact in self.facts for one in fact.questions]
        rows = [*kept, *((one.fact_id, one.question, one.reason) for one in self.dropped)]
        records = [
            {"fact_id": id, **dataclasses.asdict(question), "dropped": reason}
            for id, question, reason in rows
        ]
        return pd.DataFrame(records)


def make_questions(
    facts: Sequence[Fact],
    *,
    types: Collection[str] = TYPES,
    known: Sequence[KnownFact] = (),
    seed: int = 0,
    strict: bool = False,
) -> CheckedQuestions:
    """Write questions about facts by rules, and check them.

    Questions that a fact has are kept, if they pass the checks; types that it has are not asked
    again. Portability and the true-or-false pair depend on which other facts there are, all else
    on its own fact only, and nothing but the warnings of duplicates on their order.

    Args:
        facts: Facts, with their existing questions.
        types: Types to write.
        known: Older knowledge for locality questions; there are none without it.
        seed: Seed of the choice of what replaces the target in a counterfactual.
        strict: Answers that do not occur in the hook are errors, not warnings.
    """
    about, labels = by_title(facts), by_kind(facts)
    writers: dict[Type, Callable[[Fact], Question | None]] = {
        "reliability": reliability_question,
        "generality": generality_question,
        "paraphrase": paraphrase_question,
        "portability": lambda fact: portability_question(fact, about),
        "locality": lambda fact: locality_question(fact, known),
        "forward": forward_question,
        "backward": backward_question,
    }

    def written(fact: Fact) -> list[Question]:
        found: list[Question] = []
        for type_, write in writers.items():
            question = write(fact) if type_ in types else None
            found += [question] if question else []
        judged = {"factual", "counterfactual"} & {*types}
        pair = true_false_pair(fact, labels, seed) if judged else None
        return found + [question for question in pair or () if question.type in types]

    return checked(facts, [written(fact) for fact in facts], strict=strict)


def checked(
    facts: Sequence[Fact], new: Iterable[Sequence[Question]], *, strict: bool = False
) -> CheckedQuestions:
    """Add new questions to facts, in the order of `EVERY_TYPE`, and drop those that fail a check.

    Args:
        facts: Facts with their existing questions, which are checked as well.
        new: New questions, fact by fact; those of a type that the fact has are ignored.
        strict: Answers that do not occur in the hook are errors, not warnings.
    """
    done: list[Fact] = []
    dropped: list[DroppedQuestion] = []
    seen: set[tuple[Type, str]] = set()
    for fact, additions in zip(facts, new, strict=True):
        has = {question.type for question in fact.questions}
        questions = [*fact.questions, *(one for one in additions if one.type not in has)]
        questions.sort(key=lambda question: EVERY_TYPE.index(question.type))
        main = reliability_question(fact)
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
                dropped.append(DroppedQuestion(fact.id, question, reason))
                continue
            seen.add(key)
            warnings = dict.fromkeys([*question.checks, *failed])
            kept.append(dataclasses.replace(question, checks=tuple(warnings)))
        done.append(dataclasses.replace(fact, questions=tuple(kept)))
    return CheckedQuestions(FactSet(done), tuple(dropped))
