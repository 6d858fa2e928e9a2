import json
import re

import numpy as np
import pytest
import scipy.sparse as sp

from reference.supports import random_support
from tightframe.cli import main
from tightframe.ntp.prediction import load_prediction, predict, proxy
from tightframe.ntp.solution import load_solution
from tightframe.ntp.table import ContextTable, save_table


def small_table(seed=0):
    """16 contexts of one token each, supports of three out of 12 tokens."""
    counts = sp.csr_array(random_support(12, 16, (3, 3), seed).T.astype(np.int64))
    return ContextTable(np.arange(16, dtype=np.int32)[:, None], counts, np.arange(12))


@pytest.fixture
def folder(tmp_path):
    save_table(tmp_path / "small", small_table(0))
    return tmp_path / "small"


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["ntp", "predict", *map(str, arguments)])
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_the_proxy_of_a_table_is_written_with_its_verdict(folder, capsys):
    main(["ntp", "predict", str(folder), "--from", "proxy", "--json"])
    printed = json.loads(capsys.readouterr().out)
    expected = proxy(small_table(0).support)
    written = load_prediction(folder / "predictions" / "proxy.safetensors")
    assert printed["prediction"].endswith("small/predictions/proxy.safetensors")
    assert written.logits == pytest.approx(expected.logits, abs=1e-12)
    assert printed["kind"] == written.kind == expected.kind
    assert printed["proxy"]["verdict"] in ("exact", "not exact", "undecided")
    assert printed["proxy"]["upper"] == pytest.approx(sum(printed["singular_values"]))


def test_a_solution_is_taken_where_there_is_one_and_its_gap_is_said(folder, capsys):
    main(["ntp", "solve", str(folder), "--gap", "1e-3"])
    main(["ntp", "solve", str(folder), "--gap", "1e-6"])
    capsys.readouterr()
    main(["ntp", "predict", str(folder), "--json"])
    printed = json.loads(capsys.readouterr().out)
    solutions = [load_solution(path) for path in (folder / "solutions").glob("*.safetensors")]
    best = min(solutions, key=lambda solution: solution.gap)
    assert printed["kind"] == "certified"
    assert printed["gap"] == best.gap <= 1e-6
    written = load_prediction(next((folder / "predictions").iterdir()))
    assert written.logits == pytest.approx(predict(best).logits, abs=1e-12)
    assert written.logits == pytest.approx(best.logits, abs=1e-5)


def test_the_summary_is_one_line_for_the_geometry_and_one_for_the_verdict(folder, capsys):
    main(["ntp", "predict", str(folder), "--from", "proxy", "--rank", "4"])
    printed = capsys.readouterr()
    first, second = printed.out.splitlines()
    assert re.fullmatch(
        r"proxy: 12 tokens and 16 contexts in 4 dimensions, singular values [\d.]+ to [\d.]+", first
    )
    assert re.fullmatch(r"centred support matrix: .* \(.*\); optimum in \[[\d.]+, [\d.]+\]", second)
    again = folder / "predictions" / "proxy-rank4.safetensors"
    assert load_prediction(again).rank == 4
    main(["ntp", "predict", str(folder), "--from", "proxy", "--rank", "4"])
    repeated = capsys.readouterr()
    assert repeated.out == printed.out
    assert "already predicted" in repeated.err


def test_mistakes_are_one_line(folder, tmp_path, capsys):
    assert "holds no solution; run `tightframe ntp solve" in refused(capsys, folder)
    assert "no such file" in refused(capsys, folder, "--from", tmp_path / "absent.safetensors")
    error = refused(capsys, folder, "--from", "proxy", "--rank", "13")
    assert "rank: 13, expected 1 to 12" in error
    assert not (folder / "predictions").exists()
    other = tmp_path / "other"
    save_table(other, small_table(1))
    main(["ntp", "solve", str(other)])
    solution = next((other / "solutions").iterdir())
    capsys.readouterr()
    error = refused(capsys, folder, "--from", solution)
    assert "solves another support matrix" in error
    assert len(error.strip().splitlines()) <= 2  # what is going on, and the mistake


def test_a_rank_below_that_of_a_solution_is_pointed_out(folder, capsys):
    main(["ntp", "solve", str(folder)])
    capsys.readouterr()
    main(["ntp", "predict", str(folder), "--rank", "3"])
    assert "rank 3 is below that of the logits" in capsys.readouterr().err
    assert np.isnan(load_prediction(next((folder / "predictions").iterdir())).gap)
