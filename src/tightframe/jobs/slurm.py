"""Run commands as elements of a Slurm array: one script for `sbatch`, and nothing to keep running.

Slurm warns an element two minutes before its time is over (SIGUSR1). The script passes the warning
on, the command saves what it has and exits with 3, and the element is queued again. What was killed
without a warning resumes from its last saved state. Which runs are done is read from their files.
"""

import dataclasses
import math
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tightframe.errors import UserError
from tightframe.files import write_text
from tightframe.geometry.options import check_numbers
from tightframe.jobs.executors import ENVIRONMENT, Job

SCRIPT = "array.sbatch"  # in the folder of a sweep or study


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """Options of a Slurm array whose elements make the runs that are missing.

    Args:
        slurm: Options of sbatch for every element, e.g. "--partition gpu --gres gpu:1 --time
            4:00:00".
        max_parallel: Maximum number of elements at a time; by default Slurm decides.
        per_task: Runs of one element, one after the other.
        dry_run: Write array.sbatch, but do not submit it.
    """

    slurm: str | None = None
    max_parallel: int | None = None
    per_task: int = 1
    dry_run: bool = False

    def __post_init__(self) -> None:
        check_numbers(max_parallel=self.max_parallel, per_task=self.per_task)
        if self.slurm and (not self.slurm.lstrip().startswith("-") or "\n" in self.slurm):
            raise UserError(
                f"slurm is {self.slurm!r}; expected options of sbatch, e.g. '--partition gpu'"
            )


@dataclasses.dataclass(frozen=True)
class Array:
    """A script for sbatch that was written, and perhaps submitted."""

    script: Path
    n_runs: int
    n_elements: int
    job: str = ""  # number of the job; "" where it was not submitted

    def __str__(self) -> str:
        outcome = f"job {self.job}" if self.job else f"submit it with `sbatch {self.script}`"
        return f"{self.script}: {self.n_runs} runs in {self.n_elements} elements, {outcome}"


def submit(
    jobs: Sequence[Job],
    folder: Path,
    options: SlurmOptions,
    *,
    threads: int,
    environment: Mapping[str, str] | None = None,
) -> Array:
    """Write the script that runs `jobs`, and submit it unless it is a dry run.

    Args:
        jobs: Commands that can be given again: done already, they end at once.
        folder: Folder that takes array.sbatch, and logs/NAME-JOB_ELEMENT.txt.
        options: Options of the array.
        threads: Cores of an element; 0 leaves them to Slurm.
        environment: Variables of the jobs.
    """
    if not jobs:
        raise UserError(f"{folder}: no run is missing; nothing to submit")
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    script = folder / SCRIPT
    write_text(
        script, _script(jobs, folder, options, threads, ENVIRONMENT | dict(environment or {}))
    )
    array = Array(script, len(jobs), math.ceil(len(jobs) / options.per_task))
    return array if options.dry_run else dataclasses.replace(array, job=_sbatch(script))


def _sbatch(script: Path) -> str:
    """Submit a script; return the number of the job."""
    command = ["sbatch", "--parsable", str(script)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError(
            f"{script}: written, but there is no `sbatch` here; submit it on a machine of the "
            "cluster, or leave it at --dry-run"
        ) from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise UserError(f"{script}: sbatch refuses it: {lines[-1]}")
    return done.stdout.strip().partition(";")[0]


def _script(
    jobs: Sequence[Job],
    folder: Path,
    options: SlurmOptions,
    threads: int,
    environment: Mapping[str, str],
) -> str:
    elements = math.ceil(len(jobs) / options.per_task)
    limit = f"%{options.max_parallel}" if options.max_parallel else ""
    name = folder.resolve().name
    given = [
        f"--job-name={shlex.quote(name)}",
        f"--array=0-{elements - 1}{limit}",
        "--requeue",
        "--open-mode=append",
        "--signal=B:USR1@120",
        f"--chdir={shlex.quote(str(Path.cwd()))}",
        f"--output={shlex.quote(str(folder / 'logs'))}/%x-%A_%a.txt",
        *([f"--cpus-per-task={threads}"] if threads else []),
        *([options.slurm.strip()] if options.slurm else []),
    ]
    variables = [f"export {key}={shlex.quote(value)}" for key, value in environment.items()]
    commands = [f"  {shlex.quote(shlex.join(job.command))}" for job in jobs]
    return _SCRIPT.format(
        options="\n".join(f"#SBATCH {one}" for one in given),
        environment="\n".join(variables),
        commands="\n".join(commands),
        per_task=options.per_task,
    )


_SCRIPT = """\
#!/bin/bash
{options}

{environment}
commands=(
{commands}
)

again() {{  # queue this element once more; Slurm ends it
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
  exit 0
}}

# Slurm warns this script alone, which passes the warning on.
warned= child=
trap 'warned+=1; [ -z "$child" ] || kill -USR1 "$child" 2>/dev/null' USR1

status=0
for command in "${{commands[@]:SLURM_ARRAY_TASK_ID * {per_task}:{per_task}}}"; do
  [ -z "$warned" ] || again
  bash -c "exec $command" &
  child=$!
  while true; do
    before=$warned
    wait "$child"
    code=$?
    [ "$warned" != "$before" ] || break  # otherwise the warning has interrupted `wait`
  done
  child=
  case $code in
    0) ;;
    3 | 138) again ;;  # saved, with more to do; or warned before it had begun
    *) status=1 ;;
  esac
done
exit $status
"""
