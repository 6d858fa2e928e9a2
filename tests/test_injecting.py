"""The commands that inject facts and ask for them: what they make, and what they refuse."""

import json
import re
import shutil

import pytest

from example_facts import example_facts, write_facts
from tightframe import cli

TINY = (
    "--device cpu --set threads=1 --set width=16 --set heads=2 --set vocab_size=300 "
    "--set positions=80 --set batch=4"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Facts, and a run on them: what every case starts from a copy of."""
    folder = tmp_path_factory.mktemp("made")
    write_facts(folder / "facts.jsonl", example_facts())
    write_facts(folder / "other.jsonl", example_facts(4))
    (folder / "broken.jsonl").write_text('{"fact": 3}\n')
    (folder / "empty.jsonl").write_text("")
    inject = f"knowledge inject {folder}/facts.jsonl --out {folder}/run --arm bilm_sp --exposures 2"
    cli.main(f"{inject} {TINY}".split())
    return folder


def _inject(options, data="facts.jsonl", out="new"):
    return f"knowledge inject {{0}}/{data} --out {{0}}/{out} --exposures 2 {TINY} {options}"


CASES = {
    "no such file": (_inject("--arm clm_sp", data="none.jsonl"), r"none.jsonl"),
    "wrong schema": (_inject("--arm clm_sp", data="broken.jsonl"), r"broken.jsonl"),
    "no facts": (_inject("--arm clm_sp", data="empty.jsonl"), r"empty.jsonl"),
    "neither arm nor model": (_inject(""), r"neither arm nor model is given"),
    "unknown arm": (_inject("--arm bilm"), r"no arm is called 'bilm'"),
    "unknown preset": (_inject("--arm clm_sp --preset paper"), r"unknown preset 'paper'"),
    "no exposures": (_inject("--arm clm_sp --set exposures=0"), r"'exposures' is 0"),
    "no span": (_inject("--arm clm_sp --set max_span=0"), r"'max_span' is 0"),
    "misspelt setting": (_inject("--arm clm_sp --set maxspan=3"), r"did you mean 'max_span'"),
    "more facts than there are": (_inject("--arm clm_sp --n-facts 99"), r"6 facts .* expected 99"),
    "questions that are not there": (
        _inject("--arm clm_sp --objective qa"),
        r"no fact has question-answer pairs",
    ),
    "vocabulary too small": (_inject("--arm clm_sp --set vocab_size=9"), r"vocabulary of 9 is too"),
    "width and heads": (_inject("--arm clm_sp --set width=9"), r"width 9 .* 2 heads"),
    "lesson too long": (_inject("--arm clm_sp --set positions=9"), r"fact dyk-\w+: an example of"),
    "no such model": (_inject("--model {0}/none"), r"none"),
    "folder of other things": (_inject("--arm clm_sp", out="."), r"holds other files, but no run"),
    "run of other settings": (_inject("--arm clm_sp", out="run"), r"belongs to a run with arm"),
    "run of other facts": (
        _inject("--arm bilm_sp", data="other.jsonl", out="run"),
        r"was trained on data \w+, but .*other.jsonl holds \w+",
    ),
    "no such run": (
        "knowledge answer {0}/none --data {0}/facts.jsonl --out {0}/a.jsonl",
        r"none",
    ),
    "nowhere to write": ("knowledge answer {0}/none --data {0}/facts.jsonl", r"say --out FILE"),
    "left context of a masked model": (
        "knowledge answer {0}/run --data {0}/facts.jsonl --form left_context",
        r"fills masks and continues no sentences",
    ),
    "ranking one candidate": (
        "knowledge rank {0}/run --data {0}/facts.jsonl --candidates 1",
        r"--candidates: is 1, expected at least 2",
    ),
}


@pytest.mark.parametrize(("command", "message"), CASES.values(), ids=CASES)
def test_a_mistake_gives_one_line_and_changes_nothing(made, tmp_path, capsys, command, message):
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    before = _content(folder)
    with pytest.raises(SystemExit) as stopped:
        cli.main(command.format(folder).split())
    said = capsys.readouterr().err.strip()
    assert stopped.value.code == 2, said
    *notes, error = said.splitlines()
    assert not any(line.startswith("tightframe: ") for line in notes), said
    assert re.match(f"tightframe: .*{message}", error), said
    assert _content(folder) == before


def _content(folder):
    """Every file but the lock that keeps two trainings from one folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".lease-")
    }


def test_a_finished_run_is_left_alone_and_says_what_it_is(made, capsys):
    inject = f"knowledge inject {made}/facts.jsonl --out {made}/run --arm bilm_sp --exposures 2"
    cli.main(f"{inject} {TINY} --json".split())
    captured = capsys.readouterr()
    assert "is finished already" in captured.err
    found = json.loads(captured.out)
    assert (found["n_facts"], found["lessons"], found["steps"]) == (6, 12, 3)


def test_a_run_is_asked_and_ranked(made, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(made / "run", run)
    cli.main(f"knowledge answer {run} --data {made}/facts.jsonl --form cloze_seen".split())
    cli.main(f"knowledge rank {run} --data {made}/facts.jsonl --candidates 4".split())
    capsys.readouterr()
    # Four of the six facts hold their answer; each has one reliability question.
    assert len((run / "answers" / "cloze_seen.jsonl").read_text().splitlines()) == 4
    assert len((run / "ranks.jsonl").read_text().splitlines()) == 6
