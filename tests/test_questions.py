"""What the rules ask of facts written by hand."""

import collections
import dataclasses
import json
import os
import random
from pathlib import Path

import pytest

from tightframe import cli
from tightframe.errors import UserError
from tightframe.knowledge import questions
from tightframe.knowledge.benchmark import load_benchmark, read_facts
from tightframe.knowledge.facts import Fact, Link, Target, fact_id
from tightframe.knowledge.generate import read_known, write_questions
from tightframe.knowledge.questions import KnownFact, make_questions
from tightframe.knowledge.words import failures, kind


def _fact(text, label, title=None, links=(), raw=""):
    start = text.index(label)
    return Fact(
        fact_id("2024-01-02", text),
        *("2024-01-02", None, 2024, 1, text, f"that {text}?", raw or f"* ... that {text}?"),
        targets=(Target(title or label, label, start, start + len(label)),),
        links=tuple(Link(*link) for link in links),
    )


@pytest.mark.parametrize(
    ("text", "label", "raw", "expected"),
    [
        ("Red Hill was sung twice", "Red Hill", "* ... that '''''[[Red Hill]]''''' was", "work"),
        ("Red Hill was sung twice", "Red Hill", "* ... that '''[[Red Hill]]''' was", "place"),
        ("Vasa was sunk", "Vasa", "* ... that '''[[Vasa|''Vasa'']]''' was sunk", "work"),
        ("HMS Vasa sank", "HMS Vasa", "that '''[[HMS Vasa|HMS ''Vasa'']]'''", "thing"),
        ("all of ''X'' and Vasa sank", "Vasa", "all of ''X'' and '''[[Vasa]]''' sank", "thing"),
        ('he sang "Low Tide" badly', "Low Tide", "", "work"),
        ('he sang " Low Tide " badly', "Low Tide", "", "work"),
        ("the short novel Low Tide sold", "Low Tide", "", "work"),
        ("the novel of a man in Low Tide sold", "Low Tide", "", "place"),
        ("Mary Ann Poe lost her hat", "Mary Ann Poe", "", "person"),
        ("the actor John Poe fell", "John Poe", "", "person"),
        ("John Poe fell", "John Poe", "", "thing"),
        ("John Street fell on his hat", "John Street", "", "place"),
        ("John Company lost its way as he slept", "John Company", "", "thing"),
        ("an owl nested near Graz", "Graz", "", "place"),
        ("owls sleep", "owls", "", "thing"),
        ("it was opened in 1987", "1987", "", "thing"),
    ],
)
def test_the_kind_of_a_target(text, label, raw, expected):
    fact = _fact(text, label, raw=raw)
    assert kind(fact, fact.targets[0]) == expected


@pytest.mark.parametrize(
    ("text", "label", "prompt"),
    [
        ("Mary Poe lost her hat", "Mary Poe", "Who lost her hat?"),
        ("Mary Poe, a nurse, lost her hat", "Mary Poe", "Who, a nurse, lost her hat?"),
        ("the Red Castle burned", "Red Castle", "Which place burned?"),
        ('"Low Tide" was sung', "Low Tide", "Which work was sung?"),
        ("owls sleep", "owls", "What sleep?"),
        ("Mary Poe's hat was hers", "Mary Poe", "Whose hat was hers?"),
        ("Red Castle's gate fell", "Red Castle", "Which place's gate fell?"),
        ("the song Low Tide's end", "Low Tide", "the song which work's end?"),
        ("owls' nests are old", "owls", "What's nests are old?"),
        ("in 1911 the nurse Mary Poe wed", "Mary Poe", "in 1911 the nurse who wed?"),
        ("a man bought the Red Castle", "Red Castle", "a man bought which place?"),
        ("in a year an owl slept", "owl", "in a year what slept?"),
        ("The tale was told by Mary Poe.", "Mary Poe", "The tale was told by what?"),
        ("Mary Poe lost her hat. ", "Mary Poe", "Who lost her hat?"),
        ("the owl slept in Graz, D.C.", "owl", "What slept in Graz, D.C.?"),
        ("the owl ate Rat & Co.", "owl", "What ate Rat & Co.?"),
        ("the owl slept...", "owl", "What slept...?"),
        ("the owl woke at 5 a.m.", "owl", "What woke at 5 a.m.?"),
        ("The owl says no.", "owl", "What says no?"),
        ("The owl needs vitamin C.", "owl", "What needs vitamin C?"),
    ],
)
def test_reliability_restates_the_fact(text, label, prompt):
    question = questions.reliability_question(_fact(text, label))
    assert question.prompt == prompt
    assert question.cloze == text.replace(label, "[MASK]")
    assert question.format == "question"


def test_answers_are_the_label_the_title_and_the_title_alone():
    asked = questions.reliability_question(_fact("Low was sung", "Low", "Low (Anna Poe song)"))
    assert asked.answers == ("Low", "Low (Anna Poe song)")
    asked = questions.reliability_question(_fact("the tide ebbs", "tide", "Tides (sea)"))
    assert asked.answers == ("tide", "Tides (sea)", "Tides")
    assert asked.id.endswith(":reliability")
    assert asked.generator == "rules"


@pytest.mark.parametrize(
    ("text", "label", "answer"),
    [
        ("Mary Poe met Bishop Blue of the Isles in Rome", "Mary Poe", "Bishop Blue of the Isles"),
        ("The Times praised Mary Poe", "Mary Poe", "Times"),
        ("Mary Poe met Anna and Otto and slept", "Mary Poe", "Anna and Otto"),
        ("Mary Poe sold 1,200 hats to Bob", "Mary Poe", "1,200"),
        ("Mary Poe met Bob, Joe", "Mary Poe", "Bob"),
        ("Mary Poe ate Bobby's pie in 1911", "Mary Poe", "Bobby"),
        ("Mary Poe slept", "Mary Poe", None),
    ],
)
def test_generality_asks_for_the_longest_other_name_or_number(text, label, answer):
    question = questions.generality_question(_fact(text, label))
    assert (question and question.answers) == (answer and (answer,))
    if question:
        assert question.prompt == question.cloze == text.replace(answer, "[MASK]", 1)
        assert question.format == "cloze"


@pytest.mark.parametrize(
    ("text", "label", "prompt"),
    [
        ("Mary Poe bought a hat in Rome", "Mary Poe", "In Rome, what purchased a hat?"),
        ("owls sleep, because they hunt", "owls", "Because they hunt, what sleep?"),
        ("owls sleep while mice eat at noon", "owls", "While mice eat at noon, what sleep?"),
        ("owls in barns", "owls", "What in barns?"),
        ("a mayor sold Low Park in 1911", "Low Park", "In 1911, a mayor vended which place?"),
        ("owls lived on a tree, in which", "owls", "What resided on a tree, in which?"),
        ('owls "built large" nests', "owls", 'What "built large" nests?'),
        ("owls are a huge riddle", "owls", "What are an enormous riddle?"),
        ("during May owls sleep", "owls", "during May what sleep?"),
    ],
)
def test_paraphrase_moves_the_last_clause_and_changes_words(text, label, prompt):
    fact = _fact(text, label)
    question = questions.paraphrase_question(fact)
    assert question.prompt == prompt
    assert question.answers == questions.reliability_question(fact).answers


def test_portability_joins_two_facts():
    tower = _fact("Blue Tower leans over Low Park", "Blue Tower", links=[("low Park", "Low Park")])
    park = _fact("Low Park was sold in 1911", "Low Park")
    asked = {f.targets[0].label: f.questions for f in make_questions([tower, park]).facts}
    hop = [question for question in asked["Blue Tower"] if question.type == "portability"]
    assert [question.prompt for question in hop] == [
        "Which place leans over the one that was sold in 1911?"
    ]
    assert hop[0].cloze == "[MASK] leans over the one that was sold in 1911"
    assert hop[0].answers == ("Blue Tower",)
    assert hop[0].checks == ("two_injected",)
    assert not [question for question in asked["Low Park"] if question.type == "portability"]
    links = [("low Park", "Low Park")]
    over = _fact("Blue Tower leans over the Low Park", "Blue Tower", links=links)
    again = questions.portability_question(over, questions.by_title([park]))
    assert again.prompt == hop[0].prompt  # "the one that" has an article of its own
    assert again.cloze == hop[0].cloze
    gate = _fact("Low Park's gate was sold", "Low Park")
    assert (
        "the one whose gate was sold?"
        in questions.portability_question(tower, questions.by_title([gate])).prompt
    )


def test_the_pair_is_the_fact_and_another_of_its_kind_in_its_place():
    people = [_fact(f"{name} lost her hat", name) for name in ("Mary Poe", "Ann Low", "Eve Sand")]
    park = _fact("Low Park was sold", "Low Park")
    done = make_questions([*people, park]).facts
    for fact in done[:3]:
        pair = {q.type: q for q in fact.questions if q.format == "boolean"}
        assert pair["factual"].prompt == f"{fact.fact}. True or false?"
        assert pair["factual"].answers == ("True",)
        assert pair["counterfactual"].answers == ("False",)
        others = {f"{one.targets[0].label} lost her hat. True or false?" for one in people}
        assert pair["counterfactual"].prompt in others - {pair["factual"].prompt}
    assert not [q for q in done[3].questions if q.format == "boolean"]  # the only place
    drawn = {make_questions(people, seed=seed).facts[0].questions[-1].prompt for seed in range(20)}
    assert len(drawn) == 2  # the seed decides which of the two others


@pytest.mark.parametrize(
    ("ending", "judged"),
    [
        ("a hat", "a hat. True or false?"),
        ("a hat.", "a hat. True or false?"),
        ("a hat. ", "a hat. True or false?"),
        ("a hat in Graz, D.C.", "a hat in Graz, D.C. True or false?"),
        ("a hat!", "a hat! True or false?"),
        ('"a hat."', '"a hat." True or false?'),
    ],
)
def test_a_statement_to_judge_ends_in_one_stop(ending, judged):
    facts = [_fact(f"{name} lost {ending}", name) for name in ("Mary Poe", "Ann Low")]
    first, second = questions.true_false_pair(facts[0], questions.by_kind(facts), 0)
    assert (first.prompt, second.prompt) == (f"Mary Poe lost {judged}", f"Ann Low lost {judged}")


def test_what_replaces_a_target_has_its_form():
    # All five are things; no verb stands for a noun, no noun without its article for one with it.
    facts = [
        _fact("the clock stops on Sundays", "stops"),
        _fact("the firm moved", "firm"),
        _fact("the mayor was a tailor", "a tailor"),
        _fact("her dog is Biscuit", "Biscuit"),
        _fact("it was opened in 1987", "1987"),
    ]
    labels = questions.by_kind(facts)
    assert [questions.true_false_pair(fact, labels, 0) for fact in facts] == [None] * 5
    more = [*facts, _fact("the clock runs on Sundays", "runs"), _fact("a shop moved", "shop")]
    pairs = [questions.true_false_pair(fact, questions.by_kind(more), 0) for fact in facts]
    assert [pair and pair[1].prompt for pair in pairs] == [
        "the clock runs on Sundays. True or false?",
        "the shop moved. True or false?",
        *(None, None, None),
    ]


def test_the_clause_of_a_sentence_moves_with_the_capital_and_the_stop():
    fact = _fact("The Low clock was wound by Mary Poe on Sundays.", "Mary Poe")
    assert (
        questions.paraphrase_question(fact).prompt == "On Sundays, the Low clock was wound by what?"
    )
    title = _fact("The Hague was left by Mary Poe on Sundays", "Mary Poe")
    assert questions.paraphrase_question(title).prompt.startswith("On Sundays, The Hague was")


def test_locality_skips_what_the_fact_answers():
    known = [
        KnownFact("Which month has 28 days?", ("February",)),
        KnownFact("[MASK] is red", ("Mars",)),
    ]
    months = [_fact(f"owl {i} sleeps in February", f"owl {i}") for i in range(20)]
    owls = [_fact(f"owl {i} sleeps", f"owl {i}") for i in range(20)]
    asked = [fact.questions[-1] for fact in make_questions(months, known=known).facts]
    assert {question.prompt for question in asked} == {"[MASK] is red"}
    assert {question.format for question in asked} == {"cloze"}
    prompts = {fact.questions[-1].prompt for fact in make_questions(owls, known=known).facts}
    assert prompts == {one.prompt for one in known}


def _many():
    for i in range(40):
        yield _fact(
            f"Mary Poe{i} built {i} bridges in Rome in 19{i:02} for her aunt", f"Mary Poe{i}"
        )
        yield _fact(f"the song Low{i} began in Rome", f"Low{i}", links=[("Rome", "Rome")])


def test_the_order_of_facts_changes_nothing():
    facts = list(_many())
    shuffled = random.Random(0).sample(facts, len(facts))
    by_id = {fact.id: fact for fact in make_questions(shuffled, seed=3).facts}
    for fact in make_questions(facts, seed=3).facts:
        other = by_id[fact.id]
        assert [dataclasses.replace(q, checks=()) for q in fact.questions] == [
            dataclasses.replace(q, checks=()) for q in other.questions
        ]


def test_what_fails_is_dropped_with_its_reason_or_kept_with_a_warning():
    fact = _fact("Mary Poe met Mary Poe", "Mary Poe")
    asked = make_questions([fact], types=["reliability"])
    assert [(one.reason, one.question.type) for one in asked.dropped] == [
        ("answer_in_prompt", "reliability")
    ]
    assert asked.facts[0].questions == ()
    twins = [_fact(f"{name} lost her hat", name) for name in ("Mary Poe", "Ann Low")]
    first, second = make_questions(twins, types=["reliability"]).facts
    assert first.questions[0].checks == ()
    assert second.questions[0].checks == ("duplicate",)
    assert first.questions[0].prompt == second.questions[0].prompt


def test_questions_of_a_file_are_kept_and_checked():
    fact = _fact("Mary Poe lost her hat", "Mary Poe")
    own = dataclasses.replace(
        questions.reliability_question(fact), prompt="Who?", answers=("Polly",), generator="file"
    )
    fact = dataclasses.replace(fact, questions=(own,))
    kept = make_questions([fact], types=["reliability", "generality"]).facts[0].questions
    assert kept == (dataclasses.replace(own, checks=("answer_in_hook",)),)
    asked = make_questions([fact], types=["reliability"], strict=True)
    assert asked.facts[0].questions == ()
    assert asked.dropped[0].reason == "answer_in_hook"


def _write(path, facts):
    path.write_text("".join(json.dumps(fact.to_dict()) + "\n" for fact in facts))
    return path


def test_the_command_writes_the_same_bytes_each_time(tmp_path, capsys):
    twice = _fact("Mary Poe met Mary Poe", "Mary Poe")  # its answer stands in its question
    facts = _write(tmp_path / "facts.jsonl", [twice, *_many()])
    known = tmp_path / "known.jsonl"
    known.write_text('{"prompt": "Which planet is red?", "answers": ["Mars"]}\n')
    command = f"knowledge questions {facts} --known {known} --json --seed 1 --out"
    cli.main([*command.split(), f"{tmp_path}/a.jsonl"])
    said = json.loads(capsys.readouterr().out)
    assert said["facts"] == 81
    assert said["questions"]["reliability"] == 80
    assert said["questions"]["locality"] == 81
    cli.main([*command.split(), f"{tmp_path}/b.jsonl"])
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    dropped = (tmp_path / "a.dropped.jsonl").read_text().splitlines()
    assert sum(said["dropped"].values()) == len(dropped) > 0
    first = json.loads(dropped[0])
    assert (first["reason"], first["fact_id"]) == ("answer_in_prompt", twice.id)
    written = read_facts(tmp_path / "a.jsonl")
    assert {q.type for fact in written for q in fact.questions} == set(said["questions"])


def test_only_the_types_asked_for_are_written(tmp_path, capsys):
    facts = _write(tmp_path / "facts.jsonl", _many())
    out = tmp_path / "q.jsonl"
    cli.main(f"knowledge questions {facts} --types generality,factual --out {out}".split())
    types = {q.type for fact in read_facts(out) for q in fact.questions}
    assert types == {"generality", "factual"}
    assert "locality" not in capsys.readouterr().err


def test_no_locality_without_known_is_said_once(tmp_path, capsys):
    facts = _write(tmp_path / "facts.jsonl", _many())
    cli.main(f"knowledge questions {facts} --out {tmp_path}/q.jsonl".split())
    assert capsys.readouterr().err.count("locality") == 1


def test_a_fact_without_a_target_in_it_is_asked_for_older_knowledge_only():
    fact = _fact("Mary Poe met Bob", "Mary Poe")
    other = _fact("Ann Low met Mary Poe", "Ann Low", links=[("Mary Poe", "Mary Poe")])
    known = [KnownFact("Which planet is red?", ("Mars",))]
    for targets in ((), (Target("Mary Poe", "Mary Poe", 1, 9),), (Target("Mary Poe", "", 0, 0),)):
        asked, others = make_questions(
            [dataclasses.replace(fact, targets=targets), other], known=known
        ).facts
        assert {question.type for question in asked.questions} == {"locality"}
        assert "portability" not in {question.type for question in others.questions}
    assert "portability" in {q.type for q in make_questions([fact, other]).facts[1].questions}


def test_facts_of_another_format_keep_their_questions(tmp_path):
    path = tmp_path / "clean.jsonl"
    record = {"id": 1, "year": 2022, "fact": "Mary Poe met Bob", "question": "Who met Bob?"}
    path.write_text(json.dumps(record | {"answer": "Mary Poe"}) + "\n")
    write_questions(path, tmp_path / "q.jsonl")
    (fact,) = read_facts(tmp_path / "q.jsonl")
    assert {q.type: q.generator for q in fact.questions} == {
        "reliability": "file",
        "generality": "rules",
        "paraphrase": "rules",
    }
    # What the file's question asks for is the target.
    assert [q.answers for q in fact.questions] == [("Mary Poe",), ("Bob",), ("Mary Poe",)]


def test_an_interrupted_run_s_file_is_written_again_a_finished_one_is_not(tmp_path):
    facts = _write(tmp_path / "facts.jsonl", _many())
    out = tmp_path / "q.jsonl"
    write_questions(facts, out)
    with pytest.raises(UserError, match=r"q\.jsonl: already exists"):
        write_questions(facts, out)
    (tmp_path / "q.left.jsonl").write_text("{}\n")
    write_questions(facts, out)
    assert not (tmp_path / "q.left.jsonl").exists()


@pytest.mark.parametrize(
    "line",
    ["{}", '{"prompt": "x?", "answers": []}', '{"prompt": "x?", "answers": [" "]}', "7", "{"],
)
def test_broken_older_knowledge_is_named_by_its_line(tmp_path, line):
    path = tmp_path / "known.jsonl"
    path.write_text('{"prompt": "Which planet is red?", "answers": ["Mars"]}\n\n' + line)
    with pytest.raises(UserError, match=r"known.jsonl: line 3: .*expected"):
        read_known(path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--types relability", "did you mean 'reliability'?"),
        ("--types ,", "--types: names nothing; expected words, set apart by commas or spaces"),
        ("--out {facts}", "already exists"),
        ("--backend llm --known {facts}", "--known is for --backend rules"),
        ("--known {facts}.none", "no such file"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, options, said):
    facts = _write(tmp_path / "facts.jsonl", _many())
    before = facts.read_bytes()
    options = options.format(facts=facts)
    out = "" if "--out" in options else f"--out {tmp_path}/q.jsonl"
    with pytest.raises(SystemExit) as stop:
        cli.main(f"knowledge questions {facts} {out} {options}".split())
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
    assert facts.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["facts.jsonl"]


def test_a_link_to_nothing_is_not_replaced_by_a_file(tmp_path, capsys):
    facts = _write(tmp_path / "facts.jsonl", _many())
    (tmp_path / "q.jsonl").symlink_to(tmp_path / "elsewhere.jsonl")
    with pytest.raises(SystemExit):
        cli.main(["knowledge", "questions", str(facts), "--out", str(tmp_path / "q.jsonl")])
    assert "q.jsonl: already exists" in capsys.readouterr().err
    assert (tmp_path / "q.jsonl").is_symlink()
    assert len(list(tmp_path.iterdir())) == 2


DEVELOPMENT = Path(os.environ.get("TIGHTFRAME_DATA", "data")) / "wikidyk" / "dev.jsonl"


@pytest.mark.skipif(not DEVELOPMENT.exists(), reason="TIGHTFRAME_DATA has no wikidyk/dev.jsonl")
def test_the_checks_find_the_known_blemishes_of_real_questions():
    facts = load_benchmark(DEVELOPMENT)
    found = collections.Counter(
        name
        for fact in facts
        for question in fact.questions
        for name in failures(question, fact, reliability=None)
    )
    # Its README: 81 answers over 8 words and 3 questions without "?"; of 28 answers contained in
    # their question, 5 end or begin inside a word of it.
    assert (found["answer_length"], found["answer_in_prompt"], found["form"]) == (81, 23, 3)
    inside = [
        question
        for fact in facts
        for question in fact.questions
        if question.answers[0].casefold() in question.prompt.casefold()
    ]
    assert len(inside) == 28
    asked = make_questions(facts)
    assert len(asked.facts) == 6847
    types = collections.Counter(q.type for fact in asked.facts for q in fact.questions)
    assert types["reliability"] == 6847 - sum(
        one.question.type == "reliability" for one in asked.dropped
    )
    assert types["factual"] == types["counterfactual"] > 5900
    assert types["paraphrase"] > 4000
