"""Progress is a bar on a terminal and a line a minute in a log."""

import re
import sys

import numpy as np
import pytest

from example_facts import example_facts
from spelling_networks import network
from tightframe import progress
from tightframe.jobs.executors import Job, run_and_say
from tightframe.knowledge import layouts
from tightframe.knowledge.answers import answer_questions
from tightframe.knowledge.asking import prompts
from tightframe.knowledge.ranking import rank_questions
from tightframe.ntp.contexts import count
from tightframe.ntp.ridge import ridge_path
from tightframe.ntp.soft_labels import SoftLabels
from tightframe.ntp.svm import solve_svm


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds, which the test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_a_minute(clock, capsys):
    with progress.bar() as show:
        for second in range(241):
            clock[0] = float(second)
            show("training split", second / 300, 50 * second)
    # 50 tokens a second; of 300 seconds 240, 180, 120 and 60 are left.
    assert capsys.readouterr().err.splitlines() == [
        "training split: 20%, 3,000 tokens, 50 a second, 4 min left",
        "training split: 40%, 6,000 tokens, 50 a second, 3 min left",
        "training split: 60%, 9,000 tokens, 50 a second, 2 min left",
        "training split: 80%, 12,000 tokens, 50 a second, 1 min left",
    ]


def test_each_stage_has_a_speed_of_its_own_from_where_it_began(clock, capsys):
    with progress.bar("requests") as show:
        show("one", 0.0, 0)
        clock[0] = 50.0
        show("two", 0.5, 100)  # resumed: half of it was done before
        clock[0] = 90.0
        show("two", 0.6, 180, "loss 1.234")
    # In 40 s a tenth is done, so that 160 s are left.
    line = "two: 60%, 180 requests, 2 a second, loss 1.234, 3 min left\n"
    assert capsys.readouterr().err == line


def test_unknown_shares_have_no_time_left(clock, capsys):
    with progress.bar() as show:
        show("tokens", None, 0)
        clock[0] = 100.0
        show("tokens", None, 700)
    assert capsys.readouterr().err == "tokens: 700 tokens, 7 a second\n"


def test_what_takes_less_than_a_minute_says_nothing_in_a_log(clock, capsys):
    with progress.bar() as show:
        clock[0] = 59.0
        show("training split", 0.5, 10)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "said"), [(12.4, "12 s left"), (61.0, "1 min left"), (7_400.0, "2 h 3 min left")]
)
def test_time_left_is_told_roughly(seconds, said):
    assert progress._left(seconds) == said


@pytest.fixture
def told():
    """What is told while the bar is this list: stage, share, units done, detail."""
    shown = []
    before = progress._SHOWN.set(lambda *parts: shown.append(parts))
    yield shown
    progress._SHOWN.reset(before)


def test_what_is_told_reaches_the_innermost_open_bar_or_nothing(clock, capsys):
    progress.tell("answers", 0.5, 1)
    with progress.bar("answers"):
        with progress.bar("runs"):
            progress.tell("inner", 0.0, 0)
            clock[0] = 60.0
            progress.tell("inner", 0.5, 3)
        progress.tell("outer", 0.0, 0)
        clock[0] = 120.0
        progress.tell("outer", 0.5, 3)
    clock[0] = 300.0
    progress.tell("answers", 1.0, 6)
    assert capsys.readouterr().err.splitlines() == [
        "inner: 50%, 3 runs, 0.05 a second, 1 min left",
        "outer: 0%",
        "outer: 50%, 3 answers, 0.05 a second, 1 min left",
    ]


def test_answers_and_candidates_of_a_network_are_told(told, monkeypatch):
    monkeypatch.setattr(layouts, "TOKENS", 100)
    facts = example_facts(kinds=("reliability",))
    net = network("prefix")
    n = len(answer_questions(net, prompts(facts, "cloze_question")))
    assert [parts[0] for parts in told] == ["answers"] * len(told)
    assert [parts[2] for parts in told] == sorted({parts[2] for parts in told})
    assert [parts[1] for parts in told] == [parts[2] / n for parts in told]
    assert len(told) > 1
    told.clear()
    n = sum(one.n_candidates for one in rank_questions(net, facts, n=3))
    assert {parts[0] for parts in told} == {"candidates"}
    assert [parts[1] for parts in told] == [parts[2] / n for parts in told]


def test_solving_tells_how_far_the_gap_has_fallen(told):
    support = np.random.default_rng(0).random((40, 90)) < 0.15
    support[0] |= ~support.any(axis=0)
    solution = solve_svm(support, 1e-8)
    shares = [parts[1] for parts in told]
    assert len(told) > 2
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert told[-1][:1] == ("solving",)
    assert told[-1][2] <= solution.iterations
    assert all(parts[3].startswith("gap ") for parts in told)


def test_a_ridge_path_tells_its_points_and_the_steps_at_each(told):
    random = np.random.default_rng(0)
    labels = SoftLabels.from_counts(random.integers(0, 9, size=(12, 20)))
    ridge_path(labels, [1e-2, 1e-4], dim=12)
    points = [parts for parts in told if parts[0] == "ridge path"]
    assert [parts[1] for parts in points] == [0, 0.5]
    assert [parts[3] for parts in points] == ["lambda 0.01", "lambda 0.0001"]
    within = [parts for parts in told if parts[0].startswith("ridge path at lambda")]
    assert within
    assert all(parts[2] % 100 == 0 for parts in within)


def test_runs_of_a_study_or_sweep_are_told_with_what_is_under_way(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    code = [sys.executable, "-S", "-c", "import time; time.sleep(0.2)"]
    jobs = [Job(name, code, tmp_path / name) for name in ("one", "two")]
    run_and_say(jobs, workers=1, say=lambda line: None)
    lines = capsys.readouterr().err.splitlines()
    assert "runs: 0%, one under way" in lines
    assert any(re.match(r"runs: 50%, 1 runs, .* two under way", line) for line in lines)


def test_counting_contexts_tells_how_many_pairs_are_counted(told):
    tokens = np.random.default_rng(0).integers(0, 50, size=3_000)
    count(tokens, 3, vocab_size=50, memory=40_000)
    assert len(told) > 1
    assert {parts[0] for parts in told} == {"contexts"}
    assert told[-1][1:3] == (1.0, 2_997)
