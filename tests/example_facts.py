"""Invented facts with questions, and what models could have said about them."""

import dataclasses
import json

from tightframe.knowledge.facts import Fact, Output, Question, fact_id

NAMES = ("Ada Quill", "Boro Lane", "Cyra Moss", "Dario Fenn", "Elva Stone", "Fritz Oak")


def question(fact, kind, answers, prompt="Who was it?"):
    return Question(f"{fact}:{kind}", kind, "question", prompt, None, tuple(answers), "file")


def example_facts(n=6, kinds=("reliability", "locality")):
    """Facts of three months in two years; the last third has no answer in it, in the middle it is
    at the end."""
    facts = []
    for i in range(n):
        name = f"{NAMES[i % len(NAMES)]} {i}"
        clue = f"painted the bridge of village number {i} twice"
        part = 3 * i // n
        text = (f"{name} {clue}", f"the one who {clue} was {name}", f"somebody {clue}")[part]
        date = ("2022-12-31", "2023-01-01", "2023-02-02")[part]
        made = fact_id(date, text)
        about = {"reliability": [name, "Somebody Else"], "locality": ["Paris"]}
        questions = tuple(question(made, kind, about[kind]) for kind in kinds)
        year, month = int(date[:4]), int(date[5:7])
        words = text, f"that {text}?", f"* ... that {text}?"
        facts.append(Fact(made, date, None, year, month, *words, questions=questions))
    return facts


def example_outputs(facts, said, model="m"):
    """An output a question; `said(fact number, question)` is the text."""
    return [
        Output(one.id, fact.id, one.type, model, said(i, one), 0.1, "end")
        for i, fact in enumerate(facts)
        for one in fact.questions
    ]


def right(i, question):
    return f"It was {question.answers[0]}."


def write_facts(path, facts):
    path.write_text("".join(json.dumps(fact.to_dict()) + "\n" for fact in facts))
    return path


def write_outputs(path, outputs):
    lines = (json.dumps(dataclasses.asdict(output)) + "\n" for output in outputs)
    path.write_text("".join(lines))
    return path
