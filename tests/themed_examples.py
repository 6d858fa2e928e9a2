"""Facts about three kinds of things, written for the tests, with questions and dates."""

import dataclasses

from tightframe.knowledge import Fact, Question, fact_id

_THEMES = (
    (
        "the river {} floods the stone bridge and the old mill every spring",
        "Which river floods the stone bridge and the old mill every spring near {}?",
        "alder birch cedar damson elder furze gorse hazel ivy juniper kelp larch",
    ),
    (
        "the painter {} sold a watercolour of her studio to a museum in the capital",
        "Which painter sold a watercolour of her studio to a museum in the capital, {}?",
        "mabel nora olive petra quinta rosa selma thea ursula vera wilma xenia",
    ),
    (
        "the locomotive {} pulled express trains on the mountain railway until its boiler burst",
        "Which locomotive pulled express trains on the mountain railway with boiler {}?",
        "ajax borea castor draco electra fulgor gemini hydra icarus jupiter kronos lyra",
    ),
)
_OUTSIDE = (
    "a choir of {} singers rehearsed an anthem in the cathedral before winter",
    "Who led the choir of {} singers in the cathedral anthem?",
)


def themed_facts(n: int = 12) -> tuple[list[Fact], list[int]]:
    """3 n facts, themes taking turns, and the theme of each; two facts a day."""
    facts, themes = [], []
    for row in range(3 * n):
        theme = row % 3
        statement, question, names = _THEMES[theme]
        name = names.split()[row // 3]
        date = f"2023-02-{1 + row // 2:02}"
        facts.append(_fact(statement.format(name), question.format(name), name, date))
        themes.append(theme)
    return facts, themes


def outside_facts(n: int, first: int = 0) -> list[Fact]:
    """Facts about something else."""
    statement, question = _OUTSIDE
    numbers = [f"no{number:03}" for number in range(first, first + n)]
    return [_fact(statement.format(one), question.format(one), one, None) for one in numbers]


def with_locality(fact: Fact) -> Fact:
    """With a question about something older."""
    local = Question(
        f"{fact.id}:locality", "locality", "question", "What is water made of?", None,
        ("hydrogen",), "file",
    )  # fmt: skip
    return dataclasses.replace(fact, questions=(*fact.questions, local))


def _fact(text: str, prompt: str, answer: str, date: str | None) -> Fact:
    id = fact_id(date, text)
    asked = Question(
        f"{id}:reliability", "reliability", "question", prompt, None, (answer,), "file"
    )
    return Fact(
        id, date, None, int(date[:4]) if date else None, None, text,
        f"that {text}?", f"... that {text}?", questions=(asked,),
    )  # fmt: skip
