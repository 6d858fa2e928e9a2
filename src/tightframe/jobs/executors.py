"""Run commands as local processes, a few at a time; one that fails doesn't stop the others.

They end with the process that runs them, however that ends: each is started by `python -m` of this
file, which asks the kernel for it and then becomes the command.
"""

import ctypes
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tightframe.errors import PartlyDoneError, UserError
from tightframe.progress import bar

# Huge pages for large tensors: up to seven times the bandwidth into fresh memory.
ENVIRONMENT = {"THP_MEM_ALLOC_ENABLE": os.environ.get("THP_MEM_ALLOC_ENABLE", "1")}


@dataclasses.dataclass(frozen=True)
class Job:
    """A command and the file that takes what it prints."""

    name: str
    command: Sequence[str]
    log: Path


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def check_workers(workers: int | None) -> None:
    """Refuse a number of jobs at a time below one; None leaves it to the program."""
    if workers is not None and workers < 1:
        raise UserError(f"workers is {workers}; expected 1 or more")


def check_done(failed: Sequence[Job], *, n_runs: int, held: Mapping[str, str]) -> None:
    """Raise an error if runs are left: how many are done, and why the others are not.

    Args:
        failed: Jobs that failed here.
        n_runs: All runs.
        held: Runs that another process has begun, perhaps on another machine, and who that is.
    """
    reasons = {job.name: last_line(job.log) for job in failed}
    failing = {name: reason for name, reason in reasons.items() if name not in held}
    if not failing and not held:
        return
    parts = [
        f"{kind}: " + "; ".join(f"{name} ({why})" for name, why in runs.items())
        for kind, runs in (("failed", failing), ("under way elsewhere", held))
        if runs
    ]
    raise PartlyDoneError(
        f"{n_runs - len(failing) - len(held)} of {n_runs} runs are done, {', '.join(parts)}; "
        "the same command tries them again"
    )


def run_and_say(
    jobs: Sequence[Job],
    *,
    workers: int,
    say: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
) -> list[Job]:
    """Run `jobs`, a line for each that starts, ends or fails; returns those that failed."""
    failed: list[Job] = []
    going: list[str] = []
    ended, since = 0, time.monotonic()

    def note(job: Job, status: int, seconds: float) -> None:
        nonlocal ended
        ended += 1
        going.remove(job.name)
        outcome = f"done in {seconds:.0f} s" if status == 0 else f"FAILED: {last_line(job.log)}"
        left = (time.monotonic() - since) / ended * (len(jobs) - ended)
        say(f"[{ended}/{len(jobs)}] {job.name}: {outcome}; about {left:.0f} s left")
        if status:
            failed.append(job)

    def begin(job: Job) -> None:
        going.append(job.name)
        say(f"{job.name}: started")

    with bar("runs") as show:
        run_local(
            jobs,
            workers=workers,
            started=begin,
            ended=note,
            meanwhile=lambda: show(
                "runs", ended / len(jobs), ended, f"{', '.join(going)} under way"
            ),
            environment=environment,
        )
    return failed


def last_line(log: Path) -> str:
    """Return the last line that a job printed."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"killed; see {log}"


def run_local(
    jobs: Sequence[Job],
    *,
    workers: int,
    started: Callable[[Job], None],
    ended: Callable[[Job, int, float], None],
    meanwhile: Callable[[], None] = lambda: None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run `jobs` in order, `workers` at a time.

    `ended` gets a job's exit status (negative: the signal that ended it) and seconds; `meanwhile`
    is called again and again. When this
    process ends, also by SIGKILL, the running jobs are terminated. `environment` is added to that
    of this process.
    """
    variables = os.environ | ENVIRONMENT | dict(environment or {})
    waiting, running = list(jobs), dict[subprocess.Popen[bytes], tuple[Job, float]]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                running[_start(job, variables)] = (job, time.monotonic())
                started(job)
            for process in [p for p in running if p.poll() is not None]:
                job, since = running.pop(process)
                ended(job, process.returncode, time.monotonic() - since)
            if running:
                meanwhile()
            time.sleep(0.05)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def _start(job: Job, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", __name__, str(os.getpid()), *job.command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
        )


def _become(command: Sequence[str], *, parent: int) -> None:
    """Become `command`, to which the kernel sends SIGTERM when the process `parent` ends."""
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>; stays through exec
    if ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGTERM):
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:  # it ended before the kernel was asked
        raise SystemExit(128 + signal.SIGTERM)
    os.execvp(command[0], list(command))


if __name__ == "__main__":
    _become(sys.argv[2:], parent=int(sys.argv[1]))
