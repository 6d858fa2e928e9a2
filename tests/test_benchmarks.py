import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
def test_the_engine_benchmark_runs_where_nothing_else_is_installed(tmp_path):
    # The small problems, one thread; without the reference library its columns are left out, and
    # what is compared agrees, or the benchmark ends with a message.
    out = tmp_path / "engine.json"
    command = [sys.executable, str(BENCHMARKS / "engine.py"), "--quick", "--threads", "1"]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = {row["row"]: row for row in json.loads(out.read_text())["rows"]}
    assert list(rows) == [
        "moments",
        "pairs",
        "tiles",
        "same",
        "kept",
        "wide",
        "nearest",
        "fp32",
        "bf16",
    ]
    assert all(row["ours"]["cpu_seconds"] > 0 for row in rows.values())
    assert all("theirs" not in rows[name] for name in ("moments", "pairs", "tiles", "wide"))
    assert all(rows[name]["difference"] == 0 for name in ("fp32", "bf16"))  # as many positions


@pytest.mark.slow
def test_a_row_that_does_not_exist_is_refused():
    command = [sys.executable, str(BENCHMARKS / "engine.py"), "--rows", "pears"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "unknown rows pears; expected some of ['moments', 'pairs'" in done.stderr


@pytest.mark.slow
def test_the_benchmark_of_the_theory_solves_what_it_compares_to_equal_objectives(tmp_path):
    # Small problems; unequal objectives, or one that is not certified, end it with a message.
    out = tmp_path / "ntp.json"
    rows = ["svm", "svm_repeated", "zipf512", "zipf1000"]
    command = [sys.executable, str(BENCHMARKS / "ntp.py"), "--quick", "--rows", ",".join(rows)]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {row["row"]: row for row in json.loads(out.read_text())["rows"]}
    assert list(found) == rows
    assert all(found[name]["difference"] <= 1e-6 for name in ("svm", "svm_repeated"))
    assert found["zipf512"]["ours"]["gap"] <= 1e-3
    assert found["zipf1000"]["ours"]["gap"] <= 1e-2


@pytest.mark.slow
def test_the_benchmark_of_scores_reads_writes_and_compares():
    # Intervals that do not hold their value end it with a traceback.
    command = [sys.executable, str(BENCHMARKS / "knowledge_score.py")]
    options = ["--facts", "50", "--questions", "310"]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["work"] == "310 outputs on 50 facts"
    assert 0 < row["seconds"] < 30
