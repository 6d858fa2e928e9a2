"""Two machines on one disk are two host names; a heartbeat of theirs is a fraction of a second."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tightframe import leases
from tightframe.errors import UserError
from tightframe.files import exclusive

HERE, THERE = "aaaaaaaa", "bbbbbbbb"
HEARTBEAT = 0.4
HOLDER = """
import sys, time
from pathlib import Path
from tightframe.files import exclusive
with exclusive(Path(sys.argv[1]), what="run", host=sys.argv[2], heartbeat=float(sys.argv[3])):
    print("held", flush=True)
    time.sleep(60)
"""


def _hold(folder, host):
    return exclusive(folder, what="run", host=host, heartbeat=HEARTBEAT)


@pytest.fixture
def elsewhere(tmp_path):
    """A process of the other machine that holds a folder."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path), THERE, str(HEARTBEAT)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def _files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_living_holder_of_another_machine_is_named_and_never_looks_dead(tmp_path, elsewhere):
    for _ in range(3):
        with (
            pytest.raises(UserError, match=rf"work on this run \(process {elsewhere.pid} on \S+\)"),
            _hold(tmp_path, HERE),
        ):
            pass
    assert _files(tmp_path) == [".lease-1"]


def test_clocks_that_differ_by_years_make_nobody_dead(tmp_path, elsewhere):
    # The last heartbeat bears a time of long ago, as from a machine whose clock is behind.
    os.utime(tmp_path / ".lease-1", (1e9, 1e9))
    with pytest.raises(UserError, match="another process is at work"), _hold(tmp_path, HERE):
        pass


def test_a_dead_holder_of_another_machine_is_replaced_within_two_heartbeats(tmp_path, elsewhere):
    elsewhere.kill()
    elsewhere.wait()
    start = time.monotonic()
    with _hold(tmp_path, HERE):
        seconds = time.monotonic() - start
        assert _files(tmp_path) == [".lease-2"]
    assert 2 * HEARTBEAT <= seconds < 2 * HEARTBEAT + 1


def test_a_dead_holder_of_this_machine_is_replaced_at_once(tmp_path, elsewhere):
    elsewhere.kill()
    elsewhere.wait()
    start = time.monotonic()
    with _hold(tmp_path, THERE):
        assert time.monotonic() - start < 2 * HEARTBEAT


def test_a_folder_that_was_let_go_is_free_for_every_machine(tmp_path):
    start = time.monotonic()
    for host in (HERE, THERE, HERE):
        assert leases.holder(tmp_path) is None or leases.holder(tmp_path).released
        with _hold(tmp_path, host):
            assert not leases.holder(tmp_path).released
    assert time.monotonic() - start < 2 * HEARTBEAT
    assert _files(tmp_path) == [".lease-3"]


def test_a_suspended_holder_that_was_replaced_writes_no_more(tmp_path):
    code = HOLDER.replace(
        "    time.sleep(60)\n",
        "    sys.stdin.readline()\n    lease.check()\n    print('written', flush=True)\n",
    )
    code = code.replace("heartbeat=float(sys.argv[3])):", "heartbeat=float(sys.argv[3])) as lease:")
    command = [sys.executable, "-c", code, str(tmp_path), THERE, str(HEARTBEAT)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, **pipes)
    assert process.stdout.readline() == "held\n"
    process.send_signal(signal.SIGSTOP)
    with _hold(tmp_path, HERE) as lease:
        process.send_signal(signal.SIGCONT)
        said, error = process.communicate("go on\n", timeout=30)
        assert said == ""
        assert f"process {os.getpid()} on " in error
        assert "has taken over this run" in error
        lease.check()
    assert leases.holder(tmp_path).released


def test_of_many_that_want_a_folder_at_once_exactly_one_gets_it(tmp_path):
    inside = []

    def hold(number):
        try:
            with _hold(tmp_path, HERE):
                inside.append(number)
                time.sleep(0.3)
                assert inside[-1] == number
        except UserError:
            return 0
        return 1

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(hold, range(16))) == 1


@pytest.mark.parametrize(
    "content", ["a b c d e", "aaaaaaaa x-1 0.4 node", "aaaaaaaa 1-1 soon node"]
)
def test_a_lease_that_is_none_is_named(tmp_path, content):
    (tmp_path / ".lease-3").write_text(content)
    with (
        pytest.raises(UserError, match=r"\.lease-3: is no lease; remove it"),
        _hold(tmp_path, HERE),
    ):
        pass


def test_a_lease_whose_maker_died_before_it_wrote_is_replaced(tmp_path):
    (tmp_path / ".lease-7").touch()
    with _hold(tmp_path, HERE):
        assert _files(tmp_path) == [".lease-8"]
