import shlex
import subprocess
import sys

import pytest

from tightframe import cli
from tightframe.errors import PartlyDoneError, UserError
from tightframe.files import exclusive
from tightframe.jobs import sweep
from tightframe.lm.runs import Run
from tiny_runs import PLAINLY


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "tokens"
    cli.main(f"corpus build stories --out {folder} --tokens 4000".split())
    return folder


def _file(folder, tokens, extra="", grid="width = [8, 12]\ndepth = [1]"):
    file = folder / "tiny.toml"
    file.write_text(
        f'out = "{folder}/sweeps"\nmeasures = ["nc1_cdnv", "nc4_rate"]\n{extra}\n'
        f'[base]\ntokens = "{tokens}"\nheads = 2\nbatch = 4\n[grid]\n{grid}\n'
    )
    return file


def test_a_plan_is_the_product_of_the_grid(tmp_path, tokens):
    runs = sweep.plan(_file(tmp_path, tokens, grid="width = [8, 12]\ndepth = [1, 2]"))
    assert [run.name for run in runs] == [
        "width8-depth1",
        "width8-depth2",
        "width12-depth1",
        "width12-depth2",
    ]
    assert {run.state for run in runs} == {"waiting"}
    assert all(run.plan.exists() for run in runs)


def test_several_grids_are_joined(tmp_path, tokens):
    file = tmp_path / "s.toml"
    file.write_text(
        f'out = "{tmp_path}"\n[base]\ntokens = "{tokens}"\n'
        "[[grid]]\nwidth = [8]\n[[grid]]\nwidth = [16]\ndepth = [1, 2]\n"
    )
    names = [run.name for run in sweep.plan(file)]
    assert names == ["width8", "width16-depth1", "width16-depth2"]


def test_two_runs_with_one_name_are_refused(tmp_path, tokens):
    with pytest.raises(UserError, match="two runs would both be called 'width8'"):
        sweep.plan(_file(tmp_path, tokens, grid="width = [8, 8]"))


def test_a_sweep_of_other_settings_is_refused(tmp_path, tokens):
    sweep.plan(_file(tmp_path, tokens))
    with pytest.raises(UserError, match=r"belongs to another version of tiny\.toml"):
        sweep.plan(_file(tmp_path, tokens, grid="width = [8]"))


def test_a_sweep_trains_measures_skips_what_is_done_and_ends_in_a_page(tmp_path, tokens, capsys):
    file = _file(tmp_path, tokens)
    said = []
    path = sweep.run(file, say=said.append)
    assert {run.state for run in sweep.plan(file)} == {"finished"}
    cli.main(["report", str(path)])
    assert (path / "report" / "index.html").stat().st_size > 10_000
    said.clear()
    assert sweep.run(file, say=said.append) == path
    assert said == ["2 of 2 runs are finished already"]
    # The rows hold what was asked for, of both runs.
    from tightframe.results import gather

    frame = gather(path.glob("runs/*/results/*.jsonl"))
    assert set(frame["run"]) == {"width8-depth1", "width12-depth1"}
    assert {"nc1_cdnv", "nc4_rate", "val_loss", "entropy_floor"} <= set(frame["metric"])
    values = frame.pivot(index="run", columns="metric", values="value")
    # The loop validates by another route than the measuring pass; both stand beside the floor.
    for run in sweep.plan(file):
        last = Run.open(run.run).log[-1]
        assert last["val_loss"] == pytest.approx(values.loc[run.name, "val_loss"], rel=1e-5)
        assert last["entropy_floor"] == values.loc[run.name, "entropy_floor"]
        assert last["realised_floor"] == values.loc[run.name, "realised_floor"]
    assert (values["val_loss"] > values["entropy_floor"]).all()


def test_a_run_that_was_measured_for_something_else_is_not_finished(tmp_path, tokens):
    file = _file(tmp_path, tokens, grid="width = [8]")
    (planned,) = sweep.plan(file)
    cli.main(["train", str(planned.plan)])
    cli.main(["measure", str(planned.run), *PLAINLY, "--measures", "nc2_etf_error"])
    assert sweep.plan(file)[0].state == "started"
    # In parts is enough, and of its own tokens and way of reading only.
    cli.main(
        ["measure", str(planned.run), *PLAINLY, "--measures", "nc1_cdnv", "--measures", "nc4_rate"]
    )
    assert sweep.plan(file)[0].state == "finished"


def test_rows_of_another_way_of_reading_finish_no_run(tmp_path, tokens):
    file = _file(tmp_path, tokens, grid="width = [8]")
    (planned,) = sweep.plan(file)
    cli.main(["train", str(planned.plan)])
    measures = ["--measures", "nc1_cdnv", "--measures", "nc4_rate"]
    cli.main(["measure", str(planned.run), *PLAINLY[:4], *measures, "--skip-positions", "2"])
    assert sweep.plan(file)[0].state == "started"


def _workers(folder, tokens, monkeypatch, *, cores, base="", grid="width = [8, 12, 16, 20]"):
    """How many runs of a planned sweep would go at a time on a machine of so many cores."""
    monkeypatch.setattr(sweep, "cores", lambda: cores)
    file = _file(folder, tokens, grid=grid)
    file.write_text(file.read_text().replace("[grid]", f"{base}\n[grid]"))
    return sweep._workers(sweep.plan(file))


@pytest.mark.parametrize(
    ("cores", "base", "workers"),
    [
        (2, "", 2),  # four runs of one thread each on two cores
        (2, "threads = 2", 1),  # each takes the machine
        (8, "", 4),  # four runs share eight cores: two threads each
        (8, "threads = 3", 2),
        (2, "threads = 5", 1),
    ],
)
def test_as_many_runs_go_at_a_time_as_have_a_core_for_each_thread(
    tmp_path, tokens, monkeypatch, cores, base, workers
):
    assert _workers(tmp_path, tokens, monkeypatch, cores=cores, base=base) == workers


def test_the_run_with_the_most_threads_decides(tmp_path, tokens, monkeypatch):
    grid = "width = [8]\nthreads = [1, 2]"
    assert _workers(tmp_path, tokens, monkeypatch, cores=4, grid=grid) == 2


@pytest.mark.parametrize(("device", "workers"), [("auto", 1), ("cuda", 1), ("cpu", 4)])
def test_a_gpu_takes_one_run_at_a_time(tmp_path, tokens, monkeypatch, device, workers):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    base = f'device = "{device}"\nprecision = "fp32"'
    assert _workers(tmp_path, tokens, monkeypatch, cores=4, base=base) == workers


def test_a_sweep_without_workers_is_refused(tmp_path, tokens):
    with pytest.raises(UserError, match="workers is -1; expected 1 or more"):
        sweep.run(_file(tmp_path, tokens), workers=-1)


def test_the_number_of_workers_reaches_the_executor(tmp_path, tokens, monkeypatch):
    asked = []
    monkeypatch.setattr(
        sweep, "run_and_say", lambda jobs, *, workers, say: asked.append(workers) or []
    )
    file = _file(tmp_path, tokens)
    monkeypatch.setattr(sweep, "cores", lambda: 2)
    sweep.run(file)
    sweep.run(file, workers=7)
    assert asked == [2, 7]


def _with_job(monkeypatch, name, code):
    """Another command in place of the training of a run."""
    make = sweep.PlannedRun.job.fget

    def job(planned):
        job = make(planned)
        command = [sys.executable, "-c", code] if planned.name == name else job.command
        return type(job)(job.name, command, job.log)

    monkeypatch.setattr(sweep.PlannedRun, "job", property(job))


def test_a_failed_run_is_named_and_does_not_stop_the_others(tmp_path, tokens, monkeypatch):
    file = _file(tmp_path, tokens)
    _with_job(monkeypatch, "width8-depth1", "raise SystemExit('tightframe: it broke')")
    with pytest.raises(PartlyDoneError, match=r"1 of 2 runs are done, failed: width8.*it broke"):
        sweep.run(file)
    states = {run.name: run.state for run in sweep.plan(file)}
    assert states == {"width8-depth1": "waiting", "width12-depth1": "finished"}
    # A run that somebody else is at work on is left to them.
    with exclusive(tmp_path / "sweeps" / "tiny" / "runs" / "width8-depth1", what="run"):
        assert sweep.plan(file)[0].state == "running"
        assert sweep.missing(file) == []
        with pytest.raises(
            PartlyDoneError, match=r"1 of 2 runs are done, under way elsewhere: width8.*process \d+"
        ):
            sweep.run(file)
    assert [run.name for run in sweep.missing(file)] == ["width8-depth1"]


def test_missing_runs_are_commands_and_elements_of_an_array(tmp_path, tokens, capsys):
    file = _file(tmp_path, tokens)
    cli.main(["sweep", "commands", str(file)])
    lines = capsys.readouterr().out.splitlines()
    assert [shlex.split(line) for line in lines] == [run.job.command for run in sweep.plan(file)]
    subprocess.run(lines[0], shell=True, check=True)
    cli.main(["sweep", "submit", str(file), "--slurm", "--time 10", "--dry-run"])
    assert "1 runs in 1 elements" in capsys.readouterr().out
    script = (tmp_path / "sweeps" / "tiny" / "array.sbatch").read_text()
    assert lines[0] not in script
    assert lines[1] in script
    cli.main(["sweep", "status", str(file)])
    assert capsys.readouterr().out == "finished  width8-depth1\nwaiting   width12-depth1\n"


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("[grid]\nwidth = []", "setting 'width' has no values"),
        ("[grid]\nwidth = [8]\nseed = []", "setting 'seed' has no values"),
        ("[[grid]]\nwidth = [8]\n[[grid]]\nseed = []", "setting 'seed' has no values"),
        ("grid = []", "grid is an empty list"),
        ("[grid]\nwidth = [true]", "'width'"),
        ("[relate]\ncontrls = []", "unknown setting 'contrls'; did you mean 'controls'?"),
    ],
)
def test_a_grid_without_values_or_an_unknown_rule_is_refused(tmp_path, grid, message):
    file = tmp_path / "tiny.toml"
    file.write_text(f"out = '{tmp_path}'\n{grid}\n" + "[base]\ntokens = 'tokens'\n")
    with pytest.raises(UserError, match=message):
        sweep.plan(file)
    assert list(tmp_path.iterdir()) == [file]
