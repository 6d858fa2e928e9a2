import sys

from tightframe.jobs.executors import Job, run_local


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
