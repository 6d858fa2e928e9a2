"""Clozes for the questions of a file, by rules and from an endpoint."""

import dataclasses
import json

import pytest

from example_facts import NAMES, write_facts
from fake_endpoint import Endpoint as Fake
from fake_endpoint import completion, request
from tightframe import cli
from tightframe.errors import PartlyDoneError, UserError
from tightframe.knowledge import endpoint
from tightframe.knowledge.benchmark import read_facts
from tightframe.knowledge.facts import Fact, Question, fact_id
from tightframe.knowledge.generate import write_clozes
from tightframe.knowledge.options import QuestionOptions

KEY = "sk-test-0123456789"


def _fact(i):
    name = f"{NAMES[i % len(NAMES)]} {i}"
    text = f"{name} painted bridge {i} in Oort"
    id = fact_id("2022-01-31", text)

    def asked(type, prompt, answer, cloze=None, format="question"):
        return Question(f"{id}:{type}", type, format, prompt, cloze, (answer,), "file")

    return Fact(
        *(id, "2022-01-31", None, 2022, 1, text, f"that {text}?", f"* ... that {text}?"),
        questions=(
            asked("reliability", f"Who painted bridge {i} in Oort?", name),
            asked("generality", f"{name} painted bridge {i} in [MASK]", "Oort", None, "cloze"),
            asked("portability", f"How many times was bridge {i} painted?", "once"),
            asked("factual", f"{text}. True or false?", "True", None, "boolean"),
            asked("locality", "Who is red?", "Mars", "the red one is [MASK]"),
        ),
    )


@pytest.fixture
def file(tmp_path):
    return write_facts(tmp_path / "facts.jsonl", [_fact(i) for i in range(10)])


def _without_clozes(fact):
    questions = tuple(dataclasses.replace(one, cloze=None) for one in fact.questions)
    return dataclasses.replace(fact, questions=questions)


def _clozes(fact):
    return {question.type: question.cloze for question in fact.questions}


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rules_mask_the_wh_phrase_and_change_nothing_else(file, tmp_path, capsys):
    out = tmp_path / "c.jsonl"
    cli.main(f"knowledge questions {file} --cloze-only --out {out}".split())
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        f"{out}: 10 facts; 40 of 50 questions have clozes, 20 new",
        "no cloze: no_wh_word 10",
    ]
    assert said.err == ""  # nothing about locality questions, which nobody wants written
    facts = read_facts(out)
    assert _clozes(facts[3]) == {
        "reliability": "[MASK] painted bridge 3 in Oort",
        "generality": "Dario Fenn 3 painted bridge 3 in [MASK]",
        "portability": None,
        "factual": "Dario Fenn 3 painted bridge 3 in Oort. True or false? [MASK]",
        "locality": "the red one is [MASK]",  # its own is kept
    }
    assert [_without_clozes(one) for one in facts] == [_without_clozes(_fact(i)) for i in range(10)]
    dropped = _lines(tmp_path / "c.dropped.jsonl")
    assert {(one["type"], one["reason"]) for one in dropped} == {("portability", "no_wh_word")}
    cli.main(f"knowledge questions {out} --cloze-only --out {tmp_path}/again.jsonl".split())
    assert (tmp_path / "again.jsonl").read_bytes() == out.read_bytes()


def test_a_cloze_that_gives_its_answer_away_is_dropped_and_its_question_stays(tmp_path):
    given = dataclasses.replace(_fact(0).questions[0], prompt="Who is Ada Quill 0's aunt?")
    fact = dataclasses.replace(_fact(0), questions=(given,))
    done = write_clozes(write_facts(tmp_path / "f.jsonl", [fact]), tmp_path / "c.jsonl")
    assert (done.clozes, done.dropped) == (0, {"answer_in_prompt": 1})
    assert read_facts(tmp_path / "c.jsonl") == [fact]


def test_only_the_types_asked_for_get_clozes(file, tmp_path):
    done = write_clozes(file, tmp_path / "c.jsonl", QuestionOptions(types=("factual",)))
    assert (done.questions, done.clozes, done.new, done.dropped) == (50, 30, 10, {})


def _asked(body):
    return json.loads(request(body))


def _good(number, body):
    """A cloze that tells from which question it was made."""
    question = _asked(body)["question"]
    return 200, completion(json.dumps({"cloze": f"it is [MASK]: {question}"})), {}


def test_an_endpoint_is_shown_six_examples_and_no_cloze_goes_to_another_question(
    file, tmp_path, monkeypatch
):
    def say(number, body):
        if number % 5 == 0:
            return 429, "slow down", {"Retry-After": "0"}
        return (200, completion("{broken"), {}) if number == 1 else _good(number, body)

    fake = Fake(say, delay=lambda number: 0.02 if number % 3 == 0 else 0.0)
    with fake.running(monkeypatch, KEY):
        done = write_clozes(file, tmp_path / "c.jsonl", QuestionOptions(backend="llm"), wait=0.01)
        sent = len(fake.bodies)
        again = write_clozes(
            file, tmp_path / "again.jsonl", QuestionOptions(backend="llm"), wait=0.01
        )
    assert fake.answered != sorted(fake.answered)
    assert (again.requests, len(fake.bodies)) == (0, sent)  # all is kept
    assert (tmp_path / "c.jsonl").read_bytes() == (tmp_path / "again.jsonl").read_bytes()
    # 30 questions, one broken reply, a fifth refused: n - floor(n / 5) = 31.
    assert sent == done.requests == 38
    assert (done.clozes, done.new) == (40 + 10, 30)
    for i, fact in enumerate(read_facts(tmp_path / "c.jsonl")):
        for question in fact.questions:
            if question.type in ("reliability", "portability", "factual"):
                # True or not, it says "True": only such questions may hold their answer.
                assert question.cloze == f"it is [MASK]: {question.prompt}"
        assert _without_clozes(fact) == _without_clozes(_fact(i))
    roles = [message["role"] for message in fake.bodies[0]["messages"]]
    assert roles == ["system", *["user", "assistant"] * 6, "user"]
    shown = [json.loads(one["content"]) for one in fake.bodies[0]["messages"][1:-1]]
    for asked, reply in zip(shown[::2], shown[1::2], strict=True):
        assert reply["cloze"].count("[MASK]") == 1
        assert not any(answer in reply["cloze"] for answer in asked["answers"])
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and KEY in p.read_text()]


@pytest.mark.parametrize(
    ("cloze", "reason"),
    [
        ("nobody painted it", "form"),
        ("[MASK] and [MASK] painted it", "form"),
        ("it was ada quill 0, says [MASK]", "answer_in_prompt"),
    ],
)
def test_a_cloze_of_an_endpoint_passes_the_checks_or_is_dropped(
    tmp_path, monkeypatch, cloze, reason
):
    path = write_facts(tmp_path / "facts.jsonl", [_fact(0)])
    fake = Fake(lambda number, body: (200, completion(json.dumps({"cloze": cloze})), {}))
    with fake.running(monkeypatch):
        done = write_clozes(
            path, tmp_path / "c.jsonl", QuestionOptions(backend="llm", types=("reliability",))
        )
    assert (len(fake.bodies), done.new, done.dropped) == (1, 0, {reason: 1})
    (line,) = _lines(tmp_path / "c.dropped.jsonl")
    assert (line["cloze"], line["reason"]) == (cloze, reason)
    assert _clozes(read_facts(tmp_path / "c.jsonl")[0])["reliability"] is None


@pytest.mark.parametrize("content", ["[]", "{}", '{"cloze": 3}', '{"cloze": " "}', '"\\ud800"'])
def test_nonsense_is_asked_again_and_never_kept(tmp_path, monkeypatch, content):
    path = write_facts(tmp_path / "facts.jsonl", [_fact(0)])
    fake = Fake(lambda number, body: (200, completion(content), {}))
    with fake.running(monkeypatch), pytest.raises(PartlyDoneError, match="0 of 1 facts"):
        write_clozes(
            path,
            tmp_path / "c.jsonl",
            QuestionOptions(backend="llm", types=("reliability",)),
            wait=0.0,
        )
    assert len(fake.bodies) == 2  # the second says what is wrong
    assert not (tmp_path / "replies").exists()


def test_a_server_that_goes_down_is_exit_3_and_another_run_goes_on(
    file, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(endpoint, "ATTEMPTS", 1)
    out = tmp_path / "c.jsonl"
    command = f"knowledge questions {file} --cloze-only --backend llm --out {out}".split()
    down = Fake(lambda number, body: _good(number, body) if number <= 12 else (503, "down", {}))
    with down.running(monkeypatch), pytest.raises(SystemExit) as stop:
        cli.main(command)
    assert stop.value.code == 3
    assert "facts have their clozes in" in capsys.readouterr().err
    left = [line["fact_id"] for line in _lines(tmp_path / "c.left.jsonl")]
    done = [line["id"] for line in _lines(out)]
    assert set(left) | set(done) == {_fact(i).id for i in range(10)}
    assert len(left) == len(set(left)) == 10 - len(done) > 0
    kept = len(list((tmp_path / "replies").iterdir()))
    with Fake(_good).running(monkeypatch) as up:
        cli.main(command)
    assert (kept, len(up.bodies)) == (12, 18)
    assert [one.id for one in read_facts(out)] == [_fact(i).id for i in range(10)]
    assert not (tmp_path / "c.left.jsonl").exists()


def test_what_is_for_new_questions_is_refused(file, tmp_path, capsys):
    command = f"knowledge questions {file} --cloze-only --known {file} --out {tmp_path}/c.jsonl"
    with pytest.raises(SystemExit) as stop:
        cli.main(command.split())
    assert stop.value.code == 2
    assert "--known is for new questions" in capsys.readouterr().err
    write_clozes(file, tmp_path / "c.jsonl")
    with pytest.raises(UserError, match="already exists"):
        write_clozes(file, tmp_path / "c.jsonl")
