import json

import pytest

from example_facts import example_facts, write_facts
from tightframe import cli, progress
from tightframe.knowledge import facts_fingerprint
from tightframe.knowledge.answers import load_answers
from tightframe.knowledge.injection import inject
from tightframe.knowledge.injection_runs import InjectOptions
from tightframe.knowledge.ranking import load_ranks

N = 6


@pytest.fixture(scope="module")
def injected(tmp_path_factory):
    """Facts, and runs that were trained on them for a moment, by arm."""
    folder = tmp_path_factory.mktemp("injected")
    data = write_facts(folder / "facts.jsonl", example_facts(N))
    sizes = {"width": 16, "depth": 1, "heads": 2, "vocab_size": 300, "positions": 128}
    for arm in ("bilm_sp", "clm_ntp"):
        inject(InjectOptions(data=data, out=folder / arm, arm=arm, exposures=2, **sizes))
    return folder


def _run(capsys, *arguments):
    cli.main(["knowledge", *map(str, arguments)])
    return capsys.readouterr()


def _fails(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(["knowledge", *map(str, arguments)])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_a_run_answers_a_benchmark_which_is_then_scored(capsys, injected, monkeypatch):
    data = injected / "facts.jsonl"
    monkeypatch.setattr(progress, "EVERY", 0.0)
    printed = _run(
        capsys, "answer", injected / "bilm_sp", "--data", data, "--form", "cloze_seen", "--json"
    )
    made = json.loads(printed.out)
    assert "answers: 100%, 4 answers" in printed.err
    assert (made["form"], made["questions"]) == ("cloze_seen", 4)
    assert made["left_out"] == {"answer not in the fact": 2}
    assert "2 questions not asked: answer not in the fact" in printed.err
    path = injected / "bilm_sp" / "answers" / "cloze_seen.jsonl"
    assert made["answers"] == str(path)
    answers = load_answers(path)
    assert answers.trained_on == facts_fingerprint(example_facts(N))
    assert answers.model == "bilm_sp"
    _run(capsys, "answer", injected / "bilm_sp", "--data", data)
    again = injected / "bilm_sp" / "answers" / "question.jsonl"
    assert "reliability" in _run(capsys, "score", again, "--data", data).out
    # Scoring is told as it works: what was not asked in this form has no output.
    assert (
        "--allow-missing"
        not in _run(
            capsys,
            "answer",
            injected / "bilm_sp",
            "--data",
            data,
            *("--form", "question", "--out", injected / "all.jsonl"),
        ).out
    )
    some = _run(
        capsys,
        "answer",
        injected / "bilm_sp",
        "--data",
        data,
        *("--form", "cloze_seen", "--out", injected / "some.jsonl"),
    ).out
    assert some.endswith(f"some.jsonl --data {data} --allow-missing`\n")
    assert (
        "reliability"
        in _run(capsys, "score", injected / "some.jsonl", "--data", data, "--allow-missing").out
    )
    assert "already exists" in _fails(capsys, "answer", injected / "bilm_sp", "--data", data)


def test_types_and_clozes_are_chosen(capsys, injected, tmp_path):
    shared = (injected / "bilm_sp", "--data", injected / "facts.jsonl", "--types", "locality")
    out = tmp_path / "some.jsonl"
    printed = _run(
        capsys,
        "answer",
        *shared,
        "--form",
        "cloze",
        "--out",
        out,
        "--max-new-tokens",
        3,
        "--device",
        "cpu",
    )
    assert f"{out}: 6 answers of bilm_sp (cloze, greedy)" in printed.out
    assert {one.type for one in load_answers(out).outputs.values()} == {"locality"}


def test_answers_as_published_have_a_file_of_their_own_and_say_so(capsys, injected):
    shared = (injected / "clm_ntp", "--data", injected / "facts.jsonl", "--form", "left_context")
    printed = _run(capsys, "answer", *shared, "--paper-decoding", "--seed", 5, "--json")
    made = json.loads(printed.out)
    path = injected / "clm_ntp" / "answers" / "left_context_paper.jsonl"
    assert (made["answers"], made["decoding"]) == (str(path), "paper")
    assert {one.decoding for one in load_answers(path).outputs.values()} == {"paper"}
    error = _fails(capsys, "answer", *shared, "--paper-decoding", "--seed", -1)
    assert "Invalid value for --seed: '-1' is no whole number from 0 on" in error


def test_ranks_stand_beside_chance(capsys, injected):
    data = injected / "facts.jsonl"
    for arm, rule in (("bilm_sp", "span"), ("clm_ntp", "filled")):
        printed = _run(capsys, "rank", injected / arm, "--data", data)
        assert f"6 questions of {arm}, rule {rule}, 6 candidates" in printed.out
        assert "by chance 16.7" in printed.out
        ranks = load_ranks(injected / arm / "ranks.jsonl")
        assert {one.n_candidates for one in ranks} == {6}
    found = json.loads(
        _run(
            capsys,
            *("rank", injected / "bilm_sp", "--data", data, "--candidates", 3, "--json"),
            *("--out", injected / "three.jsonl"),
        ).out
    )
    assert (found["candidates"], found["chance_rank"], found["questions"]) == ([3], 2.0, 6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--reordered",), "--reordered: needs --form cloze_seen or left_context, not question"),
        (("--max-new-tokens", "0"), "--max-new-tokens: is 0, expected at least 1"),
        (("--form", "left_context"), "fills masks and continues no sentences"),
        (("--types", "portability"), "nothing to ask: no question has this form and these types"),
        (("--out", "answers"), "answers: expected a name that ends with .jsonl"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(capsys, injected, tmp_path, arguments, message):
    arguments = ["--out", str(tmp_path / "a.jsonl"), *arguments]
    if arguments.count("--out") == 2:
        arguments = arguments[2:]
    shared = ("answer", injected / "bilm_sp", "--data", injected / "facts.jsonl")
    error = _fails(capsys, *shared, *arguments)
    assert message in error
    assert not list(tmp_path.iterdir())


def test_what_can_be_no_name_on_the_hub_is_one_line(capsys, injected, tmp_path):
    data, out = injected / "facts.jsonl", tmp_path / "a.jsonl"
    error = _fails(capsys, "answer", "a\nb", "--data", data, "--out", out)
    assert r"a\nb: no such folder, and no name on the hub" in error
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_missing_or_unfinished_is_refused(capsys, injected, tmp_path):
    data = injected / "facts.jsonl"
    error = _fails(capsys, "answer", tmp_path / "x", "--data", data)
    assert "x: is no run directory to write into; say --out FILE" in error
    assert "expected at least 2" in _fails(
        capsys, "rank", injected / "bilm_sp", "--data", data, "--candidates", 1
    )
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text((injected / "bilm_sp" / "config.toml").read_text())
    log = (injected / "bilm_sp" / "log.jsonl").read_text().splitlines()
    (run / "log.jsonl").write_text("\n".join(log[:-1]) + "\n")
    error = _fails(capsys, "rank", run, "--data", data)
    assert "has not come to its end; go on with it by `tightframe knowledge inject`" in error
