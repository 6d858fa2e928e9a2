"""Run commands as local processes, a few at a time; one that fails doesn't stop the others."""

import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType


@dataclasses.dataclass(frozen=True)
class Job:
    """A command and the file that takes what it prints."""

    name: str
    command: Sequence[str]
    log: Path


def run_local(
    jobs: Sequence[Job],
    *,
    workers: int,
    started: Callable[[Job], None],
    ended: Callable[[Job, int, float], None],
) -> None:
    """Run `jobs` in order, `workers` at a time.

    `ended` gets a job's exit status (negative: the signal that ended it) and seconds. When this
    process is interrupted or terminated, the running jobs are terminated too.
    """
    environment = os.environ | {
        # Huge pages for large tensors: up to seven times the bandwidth into fresh memory.
        "THP_MEM_ALLOC_ENABLE": os.environ.get("THP_MEM_ALLOC_ENABLE", "1"),
    }
    waiting, running = list(jobs), dict[subprocess.Popen[bytes], tuple[Job, float]]()
    previous = signal.signal(signal.SIGTERM, _exit)
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                running[_start(job, environment)] = (job, time.monotonic())
                started(job)
            for process in [p for p in running if p.poll() is not None]:
                job, since = running.pop(process)
                ended(job, process.returncode, time.monotonic() - since)
            time.sleep(0.05)
    finally:
        signal.signal(signal.SIGTERM, previous)
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def _start(job: Job, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        return subprocess.Popen(
            job.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        )


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
