"""Progress is a bar on a terminal and a line a minute in a log."""

import pytest

from tightframe import progress


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
