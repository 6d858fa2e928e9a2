import dataclasses
import json

import numpy as np
import pytest
import scipy.sparse as sp

from tightframe import cli
from tightframe.errors import UserError
from tightframe.ntp import ContextTable, ridge_path, solve_svm
from tightframe.ntp.asymptotics import (
    FORMAT,
    METRICS,
    asymptotics,
    load_path,
    path_of_table,
    path_table,
    save_path,
)
from tightframe.ntp.options import RidgePathOptions
from tightframe.ntp.table import save_table
from tightframe.results import read_rows


@pytest.fixture
def table():
    """Six contexts over five tokens, each followed by the next two; a path of milliseconds."""
    counts = np.zeros((5, 5), dtype=np.int64)
    for context in range(5):
        counts[context, [context, (context + 1) % 5]] = 1, 1 + context % 3
    contexts = np.arange(5, dtype=np.int32)[:, None]
    return ContextTable(contexts, sp.csr_array(counts), np.arange(5))


@pytest.fixture
def folder(tmp_path, table):
    path = tmp_path / "ntp" / "ring"
    save_table(path, table)
    return path


def test_points_come_back_from_disk(tmp_path, table):
    points = ridge_path(table.soft_labels, [1e-2, 1e-3], dim=5)
    save_path(tmp_path / "p.safetensors", points, {"table": "x"})
    for back, point in zip(load_path(tmp_path / "p.safetensors"), points, strict=True):
        np.testing.assert_array_equal(back.logits, point.logits)
        assert back.to_dict() == point.to_dict()


def test_a_table_has_its_path_as_rows(folder, table):
    said = []
    path = path_of_table(folder, RidgePathOptions(down_to=1e-4), say=said.append)
    header, rows = read_rows(path)
    assert header.measurement["solution"] == ""
    assert any("no solution, so no laws; run `tightframe ntp solve" in line for line in said)
    points = ridge_path(table.soft_labels, [1e-1, 1e-2, 1e-3, 1e-4], dim=5)
    assert {row.subset for row in rows} == {f"lambda={p.lam:g}" for p in points}
    assert {row.labels for row in rows} == {"support"}
    lines = path_table(path)
    assert lines[-1]["excess"] == pytest.approx(points[-1].excess, rel=1e-12)
    assert "growth" not in lines[-1]


def test_with_a_solution_the_laws_are_among_the_rows(folder, table):
    without = path_of_table(folder, RidgePathOptions(down_to=1e-4))
    solution = solve_svm(table.support, gap=1e-8)
    solution.save(folder / "solutions" / "svm-x.safetensors")
    said = []
    path = path_of_table(folder, RidgePathOptions(down_to=1e-4), say=said.append)
    assert path != without
    assert not any("paths" in line for line in said)  # the points were not computed again
    points = ridge_path(table.soft_labels, [1e-1, 1e-2, 1e-3, 1e-4], dim=5)
    law = asymptotics(points, solution.logits, table.soft_labels)[-1]
    assert {row.metric for row in read_rows(path)[1]} == set(METRICS.values())
    for field, value in law.to_dict().items():
        assert path_table(path)[-1][field] == pytest.approx(value, rel=1e-9)
    assert path_of_table(folder, RidgePathOptions(down_to=1e-4), say=said.append) == path
    assert said[-1].endswith("already there")


def test_a_point_without_certificate_is_said_and_written(folder):
    said = []
    path = path_of_table(folder, RidgePathOptions(dim=1, down_to=1e-2), say=said.append)
    assert any("uncertified, relative duality gap" in line for line in said)
    assert path_table(path)[-1]["reason"].startswith("uncertified: relative duality gap")


def test_what_a_kept_point_says_of_itself_is_computed_anew(folder):
    path = path_of_table(folder, RidgePathOptions(dim=1, down_to=1e-2))
    expected = path_table(path)
    assert expected[-1]["reason"].startswith("uncertified")
    path.unlink()
    (points,) = (folder / "paths").iterdir()
    tensors, facts = FORMAT.read(points)
    better = {"relgap": 0.0, "excess": 0.0, "status": "certified"}
    altered = [{**point.model_dump(), **better} for point in facts.points]
    FORMAT.write(points, tensors, {"source": facts.source, "points": altered})
    assert load_path(points)[-1].status == "certified"
    assert path_table(path_of_table(folder, RidgePathOptions(dim=1, down_to=1e-2))) == expected


def test_the_laws_are_those_of_the_solution_of_smallest_gap(folder, table):
    fine = solve_svm(table.support, gap=1e-8)
    coarse = dataclasses.replace(fine, lower=0.9 * fine.upper)
    fine.save(folder / "solutions" / "b.safetensors")
    coarse.save(folder / "solutions" / "a.safetensors")
    said = []
    path = path_of_table(folder, RidgePathOptions(down_to=1e-2), say=said.append)
    assert read_rows(path)[0].measurement["solution"] == "b.safetensors"
    assert any(line.endswith("b.safetensors: the laws are measured against it") for line in said)


def test_where_all_tokens_follow_a_context_there_is_a_path_and_no_law(tmp_path):
    # One context before all of three tokens: nothing is separated, L_mm is 0, and the optimum
    # goes to L_in alone.
    counts = sp.csr_array(np.array([[1, 2, 4]]))
    table = ContextTable(np.zeros((1, 1), dtype=np.int32), counts, np.arange(3))
    save_table(tmp_path / "full", table)
    with pytest.warns(UserWarning, match=r"all tokens follow|100% of it is set"):
        solution = solve_svm(table.support)
    solution.save(tmp_path / "full" / "solutions" / "svm-x.safetensors")
    said = []
    lines = path_table(
        path_of_table(tmp_path / "full", RidgePathOptions(down_to=1e-4), say=said.append)
    )
    assert any("svm-x.safetensors: solution_logits: all are 0" in line for line in said)
    assert lines[-1]["excess"] < 1e-5
    assert "norm_ratio" not in lines[-1]


def test_the_command_prints_a_line_a_point(folder, capsys):
    cli.main(["ntp", "ridge-path", str(folder), "--down-to", "1e-3"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["lambda", "gap"]
    assert [float(line.split()[0]) for line in lines[1:]] == [0.1, 0.01, 0.001]
    cli.main(["ntp", "ridge-path", str(folder), "--down-to", "1e-3", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert [point["lam"] for point in printed["points"]] == [0.1, 0.01, 0.001]
    assert printed["results"].endswith(".jsonl")


def test_mistakes_are_one_line(folder, tmp_path, capsys):
    for arguments, words in (
        (["--down-to", "0.5"], "down_to: 0.5 is not below lambda_max = "),
        (["--down-to", "0"], "down_to: 0.0, expected a ridge > 0"),
        (["--dim", "0"], "dim: 0, expected at least 1"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(["ntp", "ridge-path", str(folder), *arguments])
        assert stop.value.code == 2
        assert words in capsys.readouterr().err
    with pytest.raises(UserError, match="no such file; run `tightframe ntp ridge-path` again"):
        load_path(tmp_path / "none")
    (tmp_path / "bad").write_bytes(b"x")
    with pytest.raises(UserError, match="not a whole"):
        load_path(tmp_path / "bad")
    solve_svm(np.eye(3, dtype=bool)).save(tmp_path / "svm.safetensors")
    with pytest.raises(
        UserError, match="holds 'a solution of the nuclear-norm problem', expected points of a"
    ):
        load_path(tmp_path / "svm.safetensors")
    assert not list((folder).glob("paths/*"))
