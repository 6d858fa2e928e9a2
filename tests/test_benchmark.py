"""Facts of every format, in every kind of file; what is wrong is named with its line."""

import datetime
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tightframe import cli
from tightframe.errors import UserError
from tightframe.knowledge.benchmark import load_benchmark, read_benchmark, read_facts, write_facts
from tightframe.knowledge.fact_formats import parse_date, training_text
from tightframe.knowledge.facts import Fact, Link, Question, Target, fact_id

FACT = "the tower of Oort was built by Ada Brandt in a single night"
HOOK = f"that {FACT}?"


def ours():
    id = fact_id("2022-01-31", FACT)
    start = FACT.index("Ada Brandt")
    return Fact(
        *(id, "2022-01-31", "2022-01-31T00:00", 2022, 1, FACT, HOOK, f"* ... {HOOK}"),
        targets=(Target("Ada Brandt (mason)", "Ada Brandt", start, start + 10),),
        links=(Link("Oort (town)", "Oort"),),
        source_page="Wikipedia:Recent additions/2022/January",
        revision=7,
        questions=(
            Question(
                f"{id}:reliability",
                *("reliability", "question", "Who built the tower of Oort?"),
                "the tower was built by [MASK]",
                *(("Ada Brandt", "Brandt"), "rules", ("answer_in_hook",)),
            ),
            Question(
                f"{id}:factual", "factual", "boolean", f"{FACT}. True?", None, ("True",), "rules"
            ),
        ),
    )


WIKIDYK = {
    "case_id": "17",
    "year": "2022",
    "month": 1,
    "date": "31 January 2022",
    "fact": HOOK,
    "bold_entity_page": {"content": "A mason."},
    "eval": {
        "reliability": {
            "prompt": "Who built the tower of Oort?",
            "answer": ["Ada Brandt"],
            "masked_prompt": "the tower of Oort was built by [MASK]",
        },
        "counterfactual": {"prompt": f"{FACT} in a year. True or false?", "answer": ["False"]},
    },
}
QA = {"id": 3, "input": "Who built the tower?", "output": "Ada Brandt", "year": 2022, "fact": HOOK}
CLEAN = {"id": 3, "question": "Who built it?", "answer": "Ada Brandt", "year": "2022", "fact": FACT}
RECORDS = {"tightframe": ours().to_dict(), "wikidyk": WIKIDYK, "qa": QA, "qa-clean": CLEAN}


def write(path, records, kind):
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    elif kind == "lines":
        path.write_text("".join(json.dumps(one) + "\n" for one in records))
    else:
        path.write_text(json.dumps(records, indent=2))
    return path


@pytest.mark.parametrize("kind", ["json", "lines", "parquet"])
@pytest.mark.parametrize("name", list(RECORDS))
def test_every_format_is_read_from_every_kind_of_file(tmp_path, name, kind):
    benchmark = read_benchmark(write(tmp_path / "data", [RECORDS[name]], kind))
    assert benchmark.format == name
    assert benchmark.faults == ()
    (fact,) = benchmark.facts
    assert (fact.fact, fact.year) == (FACT, 2022)
    asked = fact.questions[0]
    assert (asked.id, asked.type) == (f"{fact.id}:reliability", "reliability")
    assert asked.answers[0] == "Ada Brandt"
    dated = name in ("tightframe", "wikidyk")
    assert fact.date == ("2022-01-31" if dated else None)
    assert fact.month == (1 if dated else None)
    assert fact.id == fact_id(fact.date, FACT)
    if name == "tightframe":
        assert fact == ours()
    if name == "wikidyk":
        assert fact.hook == HOOK
        assert asked.cloze == WIKIDYK["eval"]["reliability"]["masked_prompt"]
        assert [one.format for one in fact.questions] == ["question", "boolean"]


def test_eval_may_be_text_and_may_have_empty_columns(tmp_path):
    # Parquet gives every row all types that any row has.
    text = WIKIDYK | {"eval": json.dumps(WIKIDYK["eval"] | {"locality": None})}
    for kind in ("lines", "parquet"):
        (fact,) = load_benchmark(write(tmp_path / kind, [text], kind))
        assert [one.type for one in fact.questions] == ["reliability", "counterfactual"]


def test_a_file_of_splits_is_read_whole_and_each_split_has_its_own_ids(tmp_path):
    other = QA | {"fact": "the well of Oort is dry"}
    benchmark = read_benchmark(write(tmp_path / "qa.json", {"dev": [QA], "test": [other]}, "json"))
    assert [fact.fact for fact in benchmark.facts] == [FACT, other["fact"]]
    assert benchmark.faults == ()
    broken = {"dev": [QA], "test": [other, QA | {"output": " "}]}
    (fault,) = read_benchmark(write(tmp_path / "qa.json", broken, "json")).faults
    lines = (tmp_path / "qa.json").read_text().splitlines()
    line = int(fault.place.removeprefix("line "))
    # The record begins at its brace, two lines above its input, the second one of this split.
    assert '"id"' in lines[line]
    assert '"output": " "' in "\n".join(lines[line : line + 4])


def test_facts_come_back_as_they_were_written(tmp_path):
    plain = Fact(fact_id(None, "a — b"), None, None, None, None, "a — b", "a — b", "a — b")
    write_facts(tmp_path / "facts.jsonl", [ours(), plain])
    first = (tmp_path / "facts.jsonl").read_bytes()
    assert read_facts(tmp_path / "facts.jsonl") == [ours(), plain]
    write_facts(tmp_path / "facts.jsonl", read_facts(tmp_path / "facts.jsonl"))
    assert (tmp_path / "facts.jsonl").read_bytes() == first
    with pytest.raises(UserError, match="format qa-clean, expected facts of ours"):
        read_facts(write(tmp_path / "other", [CLEAN], "lines"))


def test_characters_that_only_look_like_line_ends_end_no_record(tmp_path):
    odd = CLEAN | {"fact": "Ada Brandt\u2028wrote\u0085it"}
    line = json.dumps(odd, ensure_ascii=False) + "\r\n\r\n"
    # As a Windows editor saves it, with a byte order mark.
    (tmp_path / "odd").write_text("\ufeff" + line + line.replace("Brandt", "Brand"))
    assert [fact.fact for fact in load_benchmark(tmp_path / "odd")] == [
        "Ada Brandt\u2028wrote\u0085it",
        "Ada Brand\u2028wrote\u0085it",
    ]


def test_days_of_parquet_numbers_as_answers_and_prompts_with_a_mask_are_taken(tmp_path):
    asked = {
        "generality": {"prompt": "It took [MASK] night", "answer": 1},
        "counterfactual": {"prompt": "It took two nights", "answer": [False]},
    }
    record = {"date": datetime.date(2022, 1, 31), "fact": HOOK, "eval": json.dumps(asked)}
    (fact,) = load_benchmark(write(tmp_path / "x", [record], "parquet"), strict=True)
    assert (fact.date, fact.year, fact.month) == ("2022-01-31", 2022, 1)
    assert [one.answers for one in fact.questions] == [("1",), ("False",)]
    assert [one.format for one in fact.questions] == ["cloze", "boolean"]
    assert [one.cloze for one in fact.questions] == ["It took [MASK] night", None]


@pytest.mark.parametrize(
    ("hook", "text"),
    [
        ("that cats sleep?", "cats sleep"),
        ("... that cats sleep ?", "cats sleep"),
        ("that's how cats sleep?", "that's how cats sleep"),
        ("That Cat sleeps", "That Cat sleeps"),
        ("thatcher is a trade", "thatcher is a trade"),
    ],
)
def test_only_the_whole_word_that_is_cut(hook, text):
    assert training_text(hook) == text


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("2022-01-31", datetime.date(2022, 1, 31)),
        ("1 January 2022", datetime.date(2022, 1, 1)),
        ("31 may 2022", datetime.date(2022, 5, 31)),
        ("31 June 2022", None),
        ("June 2022", None),
        ("", None),
    ],
)
def test_days_are_read_in_both_forms_and_no_other(text, date):
    assert parse_date(text) == date


NINE = "one two three four five six seven eight nine"
LIVABLE = {
    "date": ({"date": "spring 2022"}, "date 'spring 2022', expected 2022-01-31 or 31 January"),
    "year": ({"year": "MMXXII", "date": None}, "year 'MMXXII', expected a number"),
    "answer_length": (
        {"eval": {"reliability": {"prompt": "Who?", "answer": [NINE]}}},
        "reliability answer of 9 words, 'one two three four five six seven eight nine', expected",
    ),
    "cloze": (
        {"eval": {"reliability": {"prompt": "Who?", "answer": "A", "masked_prompt": "it"}}},
        "reliability cloze 'it', expected one [MASK]; not used",
    ),
}


@pytest.mark.parametrize("kind", list(LIVABLE))
def test_what_one_can_live_with_is_listed_and_kept_unless_strict(tmp_path, kind):
    change, message = LIVABLE[kind]
    path = write(
        tmp_path / "x", [WIKIDYK | {"case_id": "1", "fact": "b"}, WIKIDYK | change], "lines"
    )
    (fault,) = read_benchmark(path).faults
    assert (fault.place, fault.kind, fault.fatal) == ("line 2", kind, False)
    assert message in fault.found
    facts = load_benchmark(path)
    assert [fact.fact for fact in facts] == ["b", FACT]
    if kind == "date":
        assert (facts[1].date, facts[1].year) == (None, 2022)
    with pytest.raises(UserError, match="line 2: "):
        load_benchmark(path, strict=True)


def test_ids_that_occur_twice_are_listed_and_every_fact_keeps_its_own(tmp_path):
    path = write(tmp_path / "x", [CLEAN, CLEAN | {"fact": "b"}, CLEAN | {"id": 4}], "lines")
    benchmark = read_benchmark(path)
    assert [(fault.place, fault.kind) for fault in benchmark.faults] == [
        ("line 2", "duplicate_id"),  # the file's own id
        ("line 3", "duplicate_id"),  # the same text and date, hence the same fact id
    ]
    assert [fault.found.split(", expected")[0] for fault in benchmark.faults] == [
        "the same id as on line 1",
        "the same date and fact as on line 1",  # its own id differs
    ]
    first, second, third = benchmark.facts
    assert third.id == f"{first.id}-2"
    assert len({fact.questions[0].id for fact in (first, second, third)}) == 3
    assert third.questions[0].id == f"{third.id}:reliability"


FATAL = {
    "empty gold": (CLEAN | {"answer": " "}, "empty reliability answer; it would match every"),
    "empty alias": (CLEAN | {"answer": ["A", ""]}, "empty reliability answer"),
    "no answers": (CLEAN | {"answer": []}, "reliability question without answers (found [])"),
    "no prompt": (CLEAN | {"question": None}, "'question' is None, expected text"),
    "no fact": ({"question": "a", "answer": "b"}, "'fact' is missing, expected a record like {"),
    "other keys": (QA, "found the keys id, input, output, year, fact, expected question and"),
    "no record": ([1], "found list, no record, expected question and answer"),
    "half a character": (CLEAN | {"fact": "a \ud800 b"}, "half of a character"),
    "long": (CLEAN | {"question": ["w"] * 999}, "expected text"),
    "control": (CLEAN | {"fact": 5, "year": "\x1b[2J"}, "'fact' is 5, expected text"),
}


@pytest.mark.parametrize("case", list(FATAL))
def test_what_is_no_fact_is_always_refused_with_its_line(tmp_path, case):
    record, message = FATAL[case]
    path = write(tmp_path / "x", [CLEAN, record], "lines")
    with pytest.raises(UserError) as caught:
        load_benchmark(path)
    assert f"{path}: line 2: " in str(caught.value)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < len(str(path)) + 250


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"questons": []}, "unknown key 'questons' of a fact; did you mean 'questions'?"),
        (
            {"targets": [{"title": "A", "label": "x", "start": 0}]},
            "'end' is None, expected a whole",
        ),
        ({"targets": "A"}, "'targets' is 'A', expected a list"),
        ({"questions": [{"type": "reliabilty", "prompt": "?", "answers": ["a"]}]}, "did you mean"),
        ({"questions": [{"type": "locality", "prompt": "?"}]}, "question without answers"),
        (
            {
                "questions": [
                    {"id": "q", "type": "locality", "prompt": "?", "answers": "a"},
                    {"id": "q", "type": "locality", "prompt": "!", "answers": "b"},
                ]
            },
            "two questions have the id 'q'",
        ),
    ],
)
def test_a_fact_of_ours_is_checked_key_by_key(tmp_path, change, message):
    path = write(tmp_path / "x", [ours().to_dict() | change], "lines")
    with pytest.raises(UserError, match="line 1: ") as caught:
        load_benchmark(path)
    assert message in str(caught.value)


def test_a_target_that_is_elsewhere_and_an_id_of_another_fact_are_found(tmp_path):
    moved = ours().to_dict()
    moved["targets"] = [moved["targets"][0] | {"start": 0}]
    (fault,) = read_benchmark(write(tmp_path / "x", [moved], "lines")).faults
    assert fault.kind == "target"
    asked = {"id": "q", "type": "locality", "prompt": "?", "answers": "a"}
    two = [{"id": name, "fact": name, "questions": [asked]} for name in "ab"]
    with pytest.raises(UserError, match="line 2: question id 'q' is one of line 1"):
        load_benchmark(write(tmp_path / "x", two, "lines"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no facts"),
        ("[]", "holds no facts"),
        ("hello", 'line 1: not JSON (Expecting value); expected records like {"fact": "Ann Lee'),
        ('{"a": 1}\n', "line 1: found the keys a, expected those of a format: tightframe"),
        ("[" * 100_000, "line 1: not JSON (nested too deeply)"),
        (json.dumps(CLEAN) + '\n{"id": 4,\n', "line 2: not JSON"),
        (json.dumps([CLEAN], indent=1)[:-2] + ",\n\n x", "line 10: not JSON"),
        (json.dumps([CLEAN]) + "\nx", "line 2: not JSON (something follows the list)"),
        ("PAR1 and nothing else", "not a sound Parquet file"),
    ],
)
def test_a_file_that_is_broken_is_refused_with_its_line(tmp_path, text, message):
    (tmp_path / "x").write_text(text)
    with pytest.raises(UserError) as caught:
        load_benchmark(tmp_path / "x")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sentences_and_tables_of_ones_own_are_read(tmp_path):
    (tmp_path / "a.TXT").write_text("\ufeffOne fact.\r\n\n  * Another one \n", newline="")
    assert [one.fact for one in load_benchmark(tmp_path / "a.TXT")] == [
        "One fact.",
        "* Another one",
    ]
    lines = '{"fact": "One fact."}\n{"fact": "Two.", "question": "What?", "answer": "Two"}\n'
    (tmp_path / "b.txt").write_text(lines)
    first, second = load_benchmark(tmp_path / "b.txt")
    assert (first.questions, second.questions[0].answers) == ((), ("Two",))
    table = 'Fact;question;answer;date\n"One; ""fact""\nof two lines.";;;\n\nTwo.;What?;Two;'
    (tmp_path / "c.csv").write_text(table + "2022-01-31\n")
    first, second = load_benchmark(tmp_path / "c.csv")
    assert (first.fact, first.questions) == ('One; "fact"\nof two lines.', ())
    assert (second.fact, second.date, second.questions[0].prompt) == ("Two.", "2022-01-31", "What?")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "fact,answer\nOne.,a,b\n", "line 2: 3 cells, expected 2 as in the header"),
        ("a.csv", 'fact,answer\n"One.,a', "line 2: not CSV"),
        ("a.csv", "fact,fact\nOne.,a", "line 1: a column without a name of its own"),
        ("a.csv", "sentence,answer\nOne.,a", "found the keys sentence, answer, expected those"),
        ("a.csv", "fact,answer\nOne.,a", "unknown key 'answer' of a fact"),
        ("a.csv", "fact,question,answer\nOne.,What?,", "unknown key 'question' of a fact"),
        ("a.csv", "", "holds no facts"),
        ("a.txt", "\n \n", "holds no facts"),
        ("a.jsonl", "One fact.", "or a .txt file with one sentence per line"),
    ],
)
def test_what_is_no_list_of_facts_is_refused_with_an_example_or_its_line(
    tmp_path, name, text, message
):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as caught:
        load_benchmark(tmp_path / name)
    assert message in str(caught.value)


def test_twenty_faults_are_named_the_fatal_first_and_all_are_counted(tmp_path, capsys):
    long = [CLEAN | {"id": i, "fact": f"fact {i}", "answer": NINE} for i in range(30)]
    path = write(tmp_path / "x", [*long, CLEAN | {"answer": ""}], "lines")
    with pytest.raises(SystemExit) as status:
        cli.main(["knowledge", "validate", str(path)])
    assert status.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    *named, counted, last = printed.err.splitlines()
    assert [line.split(": ")[1] for line in named] == [
        "line 31",
        *(f"line {i}" for i in range(1, 20)),
    ]
    assert counted == f"{path}: 31 faults in all (answer_length 30, empty_answer 1)"
    assert last.startswith(f"tightframe: {path}: line 31: empty reliability answer")
    assert last.endswith("; mend the file")  # not "validate lists what is wrong": it just did


def test_validate_says_what_there_is_and_strict_refuses_it(tmp_path, capsys):
    path = write(tmp_path / "x", [CLEAN | {"answer": NINE}], "lines")
    cli.main(["knowledge", "validate", str(path), "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["faults"] == {"answer_length": 1}
    assert (printed["all"]["facts"], printed["by_year"]["2022"]["long_answers"]) == (1, 1)
    cli.main(["knowledge", "validate", str(path)])
    assert "qa-clean, faults to live with: 1 answer_length" in capsys.readouterr().out
    with pytest.raises(SystemExit) as status:
        cli.main(["knowledge", "validate", str(path), "--strict"])
    assert status.value.code == 2
    with pytest.raises(SystemExit):
        cli.main(["knowledge", "validate", str(tmp_path / "absent")])
    assert capsys.readouterr().err.endswith("absent: no such file\n")
