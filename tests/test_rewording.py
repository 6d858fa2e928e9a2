"""Facts with other wordings: reordered by rule, paraphrases and pairs from an endpoint."""

import json

import pytest

from example_facts import example_facts, write_facts
from fake_endpoint import Endpoint as Fake
from fake_endpoint import completion
from tightframe import cli
from tightframe.errors import PartlyDoneError, UserError
from tightframe.knowledge.benchmark import read_facts
from tightframe.knowledge.clozes import with_reordered
from tightframe.knowledge.facts import QuestionAnswer
from tightframe.knowledge.generate import write_wordings
from tightframe.knowledge.options import WordingOptions

FACTS = example_facts(6)  # two with the answer in front, two at the end, two without it


@pytest.fixture
def file(tmp_path):
    return write_facts(tmp_path / "facts.jsonl", FACTS)


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_command_reorders_offline_and_writes_the_same_bytes_each_time(file, tmp_path, capsys):
    for name in ("a", "b"):
        cli.main(f"knowledge reword {file} --reordered --out {tmp_path}/{name}.jsonl".split())
    assert capsys.readouterr().out.splitlines()[:2] == [
        f"{tmp_path}/a.jsonl: 6 facts; wordings: reordered 4",
        "2 facts do not hold their answer: not reordered",
    ]
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert read_facts(tmp_path / "a.jsonl") == with_reordered(FACTS)


def _reply(number, body):
    """Wordings which tell of which fact they are, one of each kind that is no good."""
    system, user = (message["content"] for message in body["messages"])
    fact = json.loads(user)["fact"]
    if "paraphrases" in system:
        reply = {"paraphrases": [f"as is known,  {fact}", fact.upper(), "somebody painted", fact]}
    else:
        pairs = [
            (f"What of {fact}?", "a village"),
            (f"what of {fact}", "the village"),
            ("Who was it?", "Nobody"),
            ("Is Paris large?", "Paris"),
            ("Why?", "one two three four five six seven eight nine"),
        ]
        reply = {"pairs": [dict(zip(("question", "answer"), pair, strict=True)) for pair in pairs]}
    return 200, completion(json.dumps(reply)), {}


def test_an_endpoint_s_wordings_are_checked_and_joined_to_their_facts(file, tmp_path, monkeypatch):
    fake = Fake(_reply, delay=lambda number: 0.02 if number % 3 == 0 else 0.0)
    with fake.running(monkeypatch):
        done = write_wordings(
            file,
            tmp_path / "w.jsonl",
            WordingOptions(reordered=True, paraphrases=3, generated_qas=True),
            wait=0.0,
        )
        assert len(fake.bodies) == done.requests == 12
        write_wordings(
            file, tmp_path / "again.jsonl", WordingOptions(paraphrases=3, generated_qas=True)
        )
        assert len(fake.bodies) == 12  # kept replies
        # Those that a fact has are not asked for again, nor added to.
        write_wordings(
            tmp_path / "w.jsonl",
            tmp_path / "more.jsonl",
            WordingOptions(paraphrases=3, generated_qas=True),
        )
        assert len(fake.bodies) == 12
    assert (tmp_path / "more.jsonl").read_bytes() == (tmp_path / "w.jsonl").read_bytes()
    facts = read_facts(tmp_path / "w.jsonl")
    for fact, before, forms in zip(facts, FACTS, with_reordered(FACTS), strict=True):
        text = before.fact
        lost = () if before.questions[0].answers[0] in text else ("somebody painted",)
        assert fact.paraphrases == (f"as is known, {text}", *lost)
        assert fact.generated_qas == (QuestionAnswer(f"What of {text}?", "a village"),)
        assert fact.reordered == forms.reordered
        assert fact.questions == before.questions
    reasons = [one["reason"] for one in _lines(tmp_path / "w.dropped.jsonl")]
    assert (
        {reason: reasons.count(reason) for reason in reasons}
        == done.dropped
        == {
            "answer_in_prompt": 6,  # "Is Paris large?"
            "answer_length": 6,
            "answer_lost": 4,  # of the facts that hold it
            "asked": 6,  # a pair that the fact is asked
            "duplicate": 12,  # the fact in capitals, the same question twice
        }
    )
    assert done.wordings == {"paraphrases": 8, "reordered": 4, "generated_qas": 6}


@pytest.mark.parametrize(
    "content",
    ["3", "{}", '{"paraphrases": []}', '{"paraphrases": [""]}', '{"pairs": [{"question": "a"}]}'],
)
@pytest.mark.parametrize("kind", ["paraphrases", "generated_qas"])
def test_a_reply_of_another_form_leaves_the_fact_to_another_run(
    tmp_path, monkeypatch, content, kind
):
    path = write_facts(tmp_path / "facts.jsonl", FACTS[:1])
    fake = Fake(lambda number, body: (200, completion(content), {}))
    with fake.running(monkeypatch), pytest.raises(PartlyDoneError, match="their wordings in"):
        write_wordings(
            path,
            tmp_path / "w.jsonl",
            WordingOptions(**{kind: True if kind == "generated_qas" else 1}),
            wait=0.0,
        )
    assert len(fake.bodies) == 2  # the second says what is wrong
    assert [one["fact_id"] for one in _lines(tmp_path / "w.left.jsonl")] == [FACTS[0].id]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("", "expected --reordered, --paraphrases N or"),
        ("--paraphrases -1", "'-1' is no whole number"),
    ],
)
def test_a_command_that_asks_for_nothing_is_refused(file, tmp_path, capsys, options, said):
    with pytest.raises(SystemExit) as stop:
        cli.main(f"knowledge reword {file} {options} --out {tmp_path}/w.jsonl".split())
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "w.jsonl").exists()


def test_a_finished_file_is_not_written_again(file, tmp_path):
    write_wordings(file, tmp_path / "w.jsonl", WordingOptions(reordered=True))
    with pytest.raises(UserError, match="already exists"):
        write_wordings(file, tmp_path / "w.jsonl", WordingOptions(reordered=True))
