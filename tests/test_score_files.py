import csv
import dataclasses
import json
import math

import pytest

from example_facts import example_facts, example_outputs, right, write_facts, write_outputs
from tightframe import cli
from tightframe.errors import UserError
from tightframe.knowledge.options import ScoreOptions
from tightframe.knowledge.score_tables import read_outputs, score
from tightframe.results import gather, read_rows

FACTS = example_facts(12)


def odd_right(i, question):
    return right(i, question) if i % 2 else "nobody knows"


@pytest.fixture
def made(tmp_path):
    """A benchmark, an arm that is always right, one that half is, and the base model."""
    write_facts(tmp_path / "facts.jsonl", FACTS)
    write_outputs(tmp_path / "best.jsonl", example_outputs(FACTS, right, "best"))
    write_outputs(tmp_path / "half.jsonl", example_outputs(FACTS, odd_right, "half"))
    known = [
        output for output in example_outputs(FACTS, right, "base") if output.type == "locality"
    ]
    write_outputs(tmp_path / "base.jsonl", known)
    return tmp_path


def run(folder, *options):
    arguments = ["knowledge", "score", *options, "--data", "facts.jsonl"]
    paths = ("jsonl", "new")
    cli.main([f"{folder}/{word}" if word.endswith(paths) else word for word in arguments])


def refused(folder, capsys, *options):
    with pytest.raises(SystemExit) as stop:
        run(folder, *options)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error.replace(f"{folder}/", "")


def test_the_command_writes_rows_and_tables_that_agree(made, capsys):
    run(made, "half.jsonl", "--by", "position", "year", "--against", "best.jsonl", "--out", "new")
    printed = capsys.readouterr().out
    new = made / "new"
    names = ["differences.csv", "results.jsonl", "scores.csv", "scores.json", "scores.md"]
    assert sorted(path.name for path in new.iterdir()) == names
    assert (new / "scores.md").read_text() == printed
    header, rows = read_rows(new / "results.jsonl")
    assert (header.run, header.tokens["name"], header.tokens["questions"]) == ("half", "facts", 24)
    assert header.measurement["outputs"] == ["half.jsonl"]
    found = {(row.run, row.subset, row.metric): row for row in rows}
    assert len(found) == len(rows)
    tables = json.loads((new / "scores.json").read_text())
    with (new / "scores.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["group"] for line in lines] == [record["group"] for record in tables["scores"]]
    for line, record in zip(lines, tables["scores"], strict=True):
        row = found["half", record["group"], "match_norm"]
        assert row.value == record["match_norm"]
        assert math.isnan(row.low)  # of twelve facts at most
        assert record["match_norm_low"] is None
        assert row.reason.startswith("no interval: ")
        assert float(line["match_norm"]) == row.value
        assert (row.n, row.labels, row.resampled) == (record["n"], "fact", "facts")
    assert found["half", "reliability", "match_norm"].value == 50
    less = found["half less best", "all", "match_norm_difference"]
    assert less.value == -50
    p = found["half less best", "all", "match_norm_difference_p"]
    assert (p.value, p.n, p.excluded) == (2 / 2**6, 6, 6)
    assert p.reason == "sign test over facts, 0 better, 6 worse"
    assert len(gather([new / "results.jsonl"])) == len(rows)


def test_the_length_of_outputs_stands_beside_the_published_match(made, capsys):
    facts = example_facts(28)
    write_facts(made / "facts.jsonl", facts)
    write_outputs(made / "half.jsonl", example_outputs(facts, odd_right, "half"))
    run(made, "half.jsonl")
    _, _, head, _, first, *_ = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in head.strip("|").split("|")]
    assert cells[cells.index("match_paper") - 1] == "output_words"
    words = sum(
        len(odd_right(i, one).split()) for i, fact in enumerate(facts) for one in fact.questions
    )
    assert f"{words / 56:.1f} [" in first


def test_json_is_one_object_and_the_same_numbers(made, capsys):
    run(made, "half.jsonl", "best.jsonl", "--json")
    printed = json.loads(capsys.readouterr().out)
    assert (printed["run"], printed["out"], printed["differences"]) == ("half + best", None, [])
    assert [record["group"] for record in printed["scores"]] == ["all", "reliability", "locality"]
    assert printed["scores"][0]["em_norm"] == 0
    assert printed["scores"][0]["match_norm"] == 75  # the mean over the two runs


def test_locality_is_the_change_against_the_base_model(made, capsys):
    run(made, "half.jsonl", "--base", "base.jsonl", "--json", "--out", "new")
    changes = json.loads(capsys.readouterr().out)["differences"]
    assert {(change["group"], change["against"]) for change in changes} == {
        ("locality", "base (base model)")
    }
    match = next(change for change in changes if change["score"] == "match_norm")
    assert (match["difference"], match["better"], match["worse"]) == (-50, 0, 6)
    rows = {row.metric: row for row in read_rows(made / "new" / "results.jsonl")[1]}
    assert (rows["match_norm_change"].run, rows["match_norm_change"].value) == ("half", -50)


def test_the_same_input_gives_the_same_bytes(made):
    for name in ("new", "again_new"):
        run(made, "half.jsonl", "--against", "best.jsonl", "--out", name)
    for name in ("differences.csv", "scores.csv", "scores.json", "scores.md"):
        assert (made / "new" / name).read_bytes() == (made / "again_new" / name).read_bytes()


def test_missing_outputs_are_counted_in_every_table(made, capsys):
    lines = (made / "half.jsonl").read_text().splitlines(keepends=True)
    (made / "part.jsonl").write_text("".join(lines[:-1]))
    error = refused(made, capsys, "part.jsonl", "--out", "new")
    assert "part.jsonl: 1 of the benchmark's 24 questions have no output" in error
    assert not (made / "new").exists()
    run(made, "part.jsonl", "--allow-missing", "--out", "new")
    assert "| questions | n | facts | missing |" in capsys.readouterr().out
    rows = read_rows(made / "new" / "results.jsonl")[1]
    everything = next(row for row in rows if row.subset == "all")
    assert (everything.n, everything.excluded, everything.reason) == (
        *(23, 1),
        "1 without output; no interval: 12 facts, fewer than 15",
    )


def test_names_of_models_are_only_text(tmp_path, made):
    outputs = example_outputs(FACTS, right, "evil`\n# title | x")
    write_outputs(made / "evil.jsonl", outputs)
    report = score([made / "evil.jsonl"], FACTS)
    assert report.markdown().splitlines()[0].startswith("Scores of `evil' # title | x` in percent")


def test_outputs_of_several_models_are_called_by_their_file(made):
    mixed = [
        dataclasses.replace(output, model=f"cluster {i % 3}")
        for i, output in enumerate(example_outputs(FACTS, right))
    ]
    path = write_outputs(made / "ensemble.jsonl", mixed)
    assert score([path], FACTS).header.run == "ensemble"


def test_a_run_directory_is_read_by_its_answers(made):
    (made / "run").mkdir()
    path = write_outputs(made / "run" / "answers.jsonl", example_outputs(FACTS, right))
    assert read_outputs(made / "run") == read_outputs(path) == example_outputs(FACTS, right)


def test_a_run_that_was_asked_in_forms_names_their_files(made, capsys):
    (made / "run").mkdir()
    error = refused(made, capsys, str(made / "run"))
    assert error == (
        "tightframe: run: holds no answers.jsonl; ask the model first, with `tightframe knowledge "
        "answer`\n"
    )
    (made / "run" / "answers").mkdir()
    for form in ("question", "cloze"):
        write_outputs(made / "run" / "answers" / f"{form}.jsonl", example_outputs(FACTS, right))
    error = refused(made, capsys, str(made / "run"))
    assert error.endswith(
        "name the file of one: run/answers/cloze.jsonl, run/answers/question.jsonl\n"
    )


def test_a_byte_order_mark_is_no_part_of_the_first_output(made):
    (made / "marked.jsonl").write_bytes(b"\xef\xbb\xbf" + (made / "half.jsonl").read_bytes())
    assert read_outputs(made / "marked.jsonl") == read_outputs(made / "half.jsonl")


def test_a_text_may_hold_what_ends_a_line_elsewhere(tmp_path):
    said = "one\u2028two\x85three\x0bfour"
    output = example_outputs(FACTS, lambda i, question: said)[0]
    line = json.dumps(dataclasses.asdict(output), ensure_ascii=False)
    (tmp_path / "o.jsonl").write_text(line, encoding="utf-8")
    assert read_outputs(tmp_path / "o.jsonl") == [output]


def _broken(**change):
    fields = dataclasses.asdict(example_outputs(FACTS, right)[0]) | change
    return json.dumps({key: value for key, value in fields.items() if value != "left out"})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question_id": "x', "not JSON (Unterminated string"),
        ("[1]", "the content is [1]: expected an object; expected an output"),
        (_broken(text="left out"), "text is missing; expected an output"),
        (_broken(text=None), "text is None: expected a valid string"),
        (_broken(type="trivia"), "type is 'trivia': expected 'reliability', 'generality'"),
        (_broken(finish=[]), "finish is []: expected 'end' or 'length'"),
        (_broken(seconds="1"), "seconds is '1': expected a valid number"),
        (_broken(mood="good"), "mood is unknown"),
        (_broken()[:-1] + ', "text": ""}', "not JSON (the field 'text' occurs twice)"),
        ("[" * 100_000, "not JSON (nested too deep)"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, message):
    (tmp_path / "o.jsonl").write_text(f"{_broken()}\n{line}\n{_broken()}\n")
    with pytest.raises(UserError) as error:
        read_outputs(tmp_path / "o.jsonl")
    assert str(error.value).startswith(f"{tmp_path}/o.jsonl, line 2: {message}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["none.jsonl"], "none.jsonl: no such file"),
        (["facts.jsonl"], "facts.jsonl, line 1: question_id is missing; expected an output"),
        (["half.jsonl", "half.jsonl"], "half.jsonl and others: a file stands twice"),
        ([], "no outputs to score; name at least one file"),
        (["half.jsonl", "--by", "colour"], 'Invalid value "colour" for --by'),
        (["base.jsonl"], "base.jsonl: 12 of the benchmark's 24 questions have no output"),
    ],
)
def test_mistakes_are_one_line(made, capsys, options, message):
    assert message in refused(made, capsys, *options)


def test_empty_answers_are_counted_and_said(made, capsys):
    path = made / "empty.jsonl"
    lines = [json.loads(line) for line in (made / "half.jsonl").read_text().splitlines()]
    for i, line in enumerate(lines):
        line["text"] = " " if i < 5 else line["text"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    cli.main(["knowledge", "score", str(path), "--data", str(made / "facts.jsonl")])
    said = f"5 of {len(lines)} answers are empty: the model ended at once"
    assert said in " ".join(capsys.readouterr().err.split())
    cli.main(["knowledge", "score", str(made / "half.jsonl"), "--data", str(made / "facts.jsonl")])
    assert "empty" not in capsys.readouterr().err


def test_a_loop_of_links_is_one_line(made, capsys):
    (made / "loop.jsonl").symlink_to("loop.jsonl")
    assert "loop.jsonl: a loop of symbolic links" in refused(
        made, capsys, "loop.jsonl", "half.jsonl"
    )


def test_a_folder_that_exists_is_refused_before_the_work(made, capsys):
    (made / "new").mkdir()
    error = refused(made, capsys, "half.jsonl", "--out", "new")
    assert error == "tightframe: new: already exists; remove it or choose another name\n"


def test_without_locality_questions_there_is_no_change(made):
    facts = example_facts(12, kinds=("reliability",))
    outputs = write_outputs(made / "r.jsonl", example_outputs(facts, right))
    with pytest.raises(UserError, match="has no locality questions to compare"):
        score(outputs, facts, base=made / "base.jsonl")


def test_one_type_needs_no_line_for_all(made):
    facts = example_facts(3, kinds=("reliability",))
    outputs = write_outputs(made / "r.jsonl", example_outputs(facts, right))
    report = score([outputs], facts, ScoreOptions(by=("position",)))
    groups = [record["group"] for record in report.scores]
    line = [line for line in report.markdown().splitlines() if line.startswith("|")][-1]
    assert line.startswith("| reliability/not in fact | 1 | 1 |")
    assert "[" not in line
    assert groups == [
        "reliability",
        *(f"reliability/{p}" for p in ("front", "back", "not in fact")),
    ]
    single = report.scores[1]
    assert math.isnan(single["match_norm_low"])
    row = next(row for row in report.rows if row.subset == "reliability/front")
    assert row.reason == "no interval: a single fact, fewer than 15"
