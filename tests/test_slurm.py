"""Arrays for Slurm, with a Slurm of two small programs; `test_slurm_node` has a real one."""

import os
import shlex
import signal
import subprocess
import sys

import pytest

from tightframe.errors import UserError
from tightframe.jobs import slurm
from tightframe.jobs.executors import Job
from tightframe.jobs.slurm import SlurmOptions


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """`sbatch` and `scontrol` that write down what they were called with."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, said in (("sbatch", "7;cluster"), ("scontrol", "")):
        program = folder / name
        called = shlex.quote(str(tmp_path / name))
        program.write_text(f'#!/bin/sh\necho "$@" >> {called}\necho "{said}"\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return tmp_path


def _jobs(folder, codes):
    log = folder / "log"
    return [
        Job(name, [sys.executable, "-S", "-c", code], log / f"{name}.txt")
        for name, code in codes.items()
    ]


def _submit(folder, codes, **options):
    return slurm.submit(
        _jobs(folder, codes), folder / "my sweep", SlurmOptions(**options), threads=2
    )


def _element(folder, number):
    """Start an element of the array as Slurm does."""
    script = folder / "my sweep" / "array.sbatch"
    names = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(number)}
    return subprocess.Popen(
        ["bash", str(script)], env=os.environ | names, stdout=subprocess.PIPE, text=True
    )


def _ended(process):
    said, _ = process.communicate(timeout=60)
    return said, process.returncode


def test_the_script_holds_what_slurm_needs(programs, monkeypatch):
    monkeypatch.chdir(programs)
    codes = dict.fromkeys("abcde", "pass")
    options = {"slurm": "--partition gpu --time 4:00:00", "max_parallel": 20, "per_task": 2}
    array = _submit(programs, codes, **options)
    assert (array.n_runs, array.n_elements, array.job) == (5, 3, "7")
    lines = array.script.read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    assert [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")] == [
        "--job-name='my sweep'",
        "--array=0-2%20",
        "--requeue",
        "--open-mode=append",
        "--signal=B:USR1@120",
        f"--chdir={programs}",
        f"--output='{programs}/my sweep/logs'/%x-%A_%a.txt",
        "--cpus-per-task=2",
        "--partition gpu --time 4:00:00",
    ]
    assert (programs / "sbatch").read_text() == f"--parsable {array.script}\n"
    assert (programs / "my sweep" / "logs").is_dir()


def test_a_dry_run_submits_nothing(programs):
    array = _submit(programs, {"a": "pass"}, dry_run=True)
    assert array.job == ""
    assert not (programs / "sbatch").exists()
    assert "#SBATCH --array=0-0\n" in array.script.read_text()


def test_an_element_runs_its_own_share_and_one_that_fails_does_not_stop_the_next(programs):
    codes = {name: f"print('{name} it''s')" for name in "abcde"}
    _submit(programs, codes | {"c": "print('c'); raise SystemExit(2)"}, per_task=2)
    outcomes = [_ended(_element(programs, number)) for number in range(3)]
    assert outcomes == [("a its\nb its\n", 0), ("c\nd its\n", 1), ("e its\n", 0)]
    assert not (programs / "scontrol").exists()


def test_a_command_that_has_more_to_do_is_queued_again(programs):
    _submit(programs, {"a": "raise SystemExit(3)", "b": "print('b')"}, per_task=2)
    assert _ended(_element(programs, 0)) == ("\n", 0)
    assert (programs / "scontrol").read_text() == "requeue 7_0\n"


WARNED = """
import signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: sys.exit({code}))
print("begun", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(("code", "left"), [(3, False), (0, True)])
def test_a_warning_reaches_the_command_and_what_is_left_is_queued_again(programs, code, left):
    codes = {"a": WARNED.format(code=code)} | ({"b": "print('b')"} if left else {})
    _submit(programs, codes, per_task=2)
    process = _element(programs, 0)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGUSR1)
    said, status = _ended(process)
    assert (said.strip(), status) == ("", 0)
    assert (programs / "scontrol").read_text() == "requeue 7_0\n"


def test_a_warning_to_the_last_command_that_ends_well_queues_nothing(programs):
    _submit(programs, {"a": WARNED.format(code=0)})
    process = _element(programs, 0)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGUSR1)
    assert _ended(process) == ("", 0)
    assert not (programs / "scontrol").exists()


def test_a_warning_before_python_has_begun_is_no_failure(programs):
    _submit(programs, {"a": "import os; os.kill(os.getpid(), 10)"})
    assert _ended(_element(programs, 0))[1] == 0
    assert (programs / "scontrol").read_text() == "requeue 7_0\n"


def test_a_slurm_that_refuses_or_is_not_there_is_one_line(programs, monkeypatch):
    (programs / "bin" / "sbatch").write_text("#!/bin/sh\necho 'no such partition' >&2\nexit 1\n")
    with pytest.raises(UserError, match=r"array\.sbatch: sbatch refuses it: no such partition"):
        _submit(programs, {"a": "pass"})
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(UserError, match="no `sbatch` here; submit it on a machine of the cluster"):
        _submit(programs, {"a": "pass"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_task": 0}, "per_task is 0; expected at least 1"),
        ({"max_parallel": 0}, "max_parallel is 0; expected at least 1"),
        ({"slurm": "gpu"}, "slurm is 'gpu'; expected options of sbatch"),
        ({"slurm": "--time 1\nrm x"}, "expected options of sbatch"),
    ],
)
def test_impossible_options_are_refused(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        _submit(tmp_path, {"a": "pass"}, **options)
    assert list(tmp_path.iterdir()) == []


def test_nothing_missing_is_nothing_to_submit(tmp_path):
    with pytest.raises(UserError, match="no run is missing"):
        _submit(tmp_path, {})
