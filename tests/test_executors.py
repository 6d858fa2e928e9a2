import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from example_facts import example_facts
from tightframe.jobs.executors import Job, run_local
from tightframe.knowledge.benchmark import write_facts


def _run(tmp_path, scripts, workers):
    ended = {}
    jobs = [
        Job(name, [sys.executable, "-S", "-c", code], tmp_path / f"{name}.txt")
        for name, code in scripts.items()
    ]
    order = []
    run_local(
        jobs,
        workers=workers,
        started=lambda job: order.append(job.name),
        ended=lambda job, status, seconds: ended.update({job.name: status}),
    )
    return order, ended


def test_a_job_that_fails_or_is_killed_does_not_stop_the_others(tmp_path):
    scripts = {
        "good": "print('hello')",
        "bad": "raise SystemExit(2)",
        "killed": "import os; os.kill(os.getpid(), 9)",
        "last": "pass",
    }
    order, ended = _run(tmp_path, scripts, workers=2)
    assert order == list(scripts)
    assert ended == {"good": 0, "bad": 2, "killed": -9, "last": 0}
    assert (tmp_path / "good.txt").read_text() == "hello\n"


def test_no_more_than_the_given_number_run_at_once(tmp_path):
    # Each job counts the files of those that run beside it; with one worker there is only its own.
    code = (
        "import pathlib, time, os; f = pathlib.Path(r'{}') / str(os.getpid()); f.touch();"
        "time.sleep(0.1); n = len(list(f.parent.iterdir())); f.unlink(); raise SystemExit(n)"
    ).format(tmp_path / "alive")
    (tmp_path / "alive").mkdir()
    _, ended = _run(tmp_path, dict.fromkeys("abc", code), workers=1)
    assert ended == {"a": 1, "b": 1, "c": 1}


def _gone(number):
    """Whether a process has ended, within some seconds."""
    for _ in range(200):
        if not Path(f"/proc/{number}").exists():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_jobs_end_with_the_process_that_runs_them(tmp_path, number):
    # The job says its number when it runs; it lets its files go when it is told to end.
    job = (
        "import os, time\n"
        "try:\n    print(os.getpid(), flush=True)\n    time.sleep(60)\n"
        "finally:\n    print('cleared', flush=True)\n"
    )
    job = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: exit(3))\n" + job
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from tightframe.jobs.executors import Job, run_local\n"
        f"jobs = [Job('a', [sys.executable, '-c', {job!r}], Path({str(tmp_path / 'a.txt')!r}))]\n"
        "run_local(jobs, workers=1, started=print, ended=print)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    log = tmp_path / "a.txt"
    while not log.exists() or "\n" not in log.read_text():
        assert parent.poll() is None
        time.sleep(0.02)
    parent.send_signal(number)
    parent.wait()
    assert _gone(int(log.read_text().split()[0]))
    assert log.read_text().split()[1:] == ["cleared"]


def test_a_job_whose_parent_has_ended_already_does_not_begin():
    command = [sys.executable, "-m", "tightframe.jobs.executors", "1", "echo", "begun"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (143, "")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["sweep", "study"])
def test_trainings_end_with_the_command_that_is_killed(tmp_path, command):
    (tmp_path / "text.txt").write_text("\n\n".join(f"The cat {i} saw it ." for i in range(500)))
    typed = [sys.executable, "-m", "tightframe"]
    build = "corpus build text.txt --out tokens --vocab-size 280 --block 16"
    subprocess.run([*typed, *build.split()], cwd=tmp_path, check=True)
    (tmp_path / "s.toml").write_text(
        "[base]\ntokens = 'tokens'\nepochs = 100000\n[grid]\nwidth = [8, 16]\n"
    )
    write_facts(tmp_path / "facts.jsonl", example_facts())
    study = "knowledge study --data facts.jsonl --out study --n-facts 2 --exposures 1000000"
    work = {"sweep": "sweep run s.toml --workers 2", "study": f"{study} --workers 2"}[command]
    parent = subprocess.Popen([*typed, *work.split()], cwd=tmp_path)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    while len(list(tmp_path.rglob("log.jsonl"))) < 2:  # both train
        assert parent.poll() is None
        time.sleep(0.05)
    workers = children.read_text().split()
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    assert all(_gone(int(number)) for number in workers)
