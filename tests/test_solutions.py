import dataclasses
import json
import warnings

import numpy as np
import pytest
import safetensors.numpy
import scipy.sparse as sp

from tightframe.cli import main
from tightframe.errors import UserError
from tightframe.ntp import (
    ContextTable,
    certify,
    load_solution,
    save_solution,
    save_table,
    solve_svm,
)
from tightframe.ntp.solutions import FORMAT, best_solution, check_certificate


def small_table():
    """Eight contexts of one token each, and which of six tokens followed them."""
    counts = np.zeros((8, 6), dtype=np.int64)
    for context in range(8):
        counts[context, [context % 6, (context * 2 + 1) % 6]] = [1 + context, 2]
    return ContextTable(
        np.arange(8, dtype=np.int32)[:, None], sp.csr_array(counts), np.arange(6, dtype=np.int64)
    )


@pytest.fixture(scope="module")
def solution():
    return solve_svm(np.repeat(np.eye(5, dtype=bool), 2, axis=1), 1e-9)


def test_a_solution_comes_back_with_its_certificate(tmp_path, solution):
    path = tmp_path / "solutions" / "svm.safetensors"
    save_solution(path, solution, {"gap": 1e-9})
    again = load_solution(path)
    np.testing.assert_array_equal(again.logits, solution.logits)
    np.testing.assert_array_equal(again.dual, solution.dual)
    np.testing.assert_array_equal(again.singular_values, solution.singular_values)
    for name in ("upper", "lower", "gap", "status", "iterations", "rank", "dtype"):
        assert getattr(again, name) == getattr(solution, name)
    support = np.repeat(np.eye(5, dtype=bool), 2, axis=1)
    assert certify(again.logits, support, again.dual).gap <= 1e-9


def test_it_says_what_it_was_solved_for_and_with_which_versions(tmp_path, solution):
    path = tmp_path / "svm.safetensors"
    save_solution(path, solution, {"gap": 1e-9})
    facts = FORMAT.read_facts(path)
    assert facts.source == {"gap": 1e-9}
    assert set(facts.versions) == {"tightframe", "torch", "numpy", "scipy"}
    assert (facts.contexts, facts.distinct_contexts) == (10, 5)


def test_a_certificate_signed_as_ours_is_computed_anew(tmp_path, solution):
    check_certificate(tmp_path, solution)
    zeroed = solution.grouped_logits.copy()
    zeroed[:2] = 0
    for change in ({"grouped_logits": zeroed}, {"lower": solution.upper * 1.01}):
        with pytest.raises(UserError, match="but its arrays give"):
            check_certificate(tmp_path, dataclasses.replace(solution, **change))


def test_of_several_the_one_of_smallest_gap_is_taken_whatever_its_age(tmp_path, solution):
    fine, coarse = solution, dataclasses.replace(solution, lower=0.9 * solution.upper)
    assert fine.gap < coarse.gap == pytest.approx(0.1)
    folder = tmp_path / "solutions"
    save_solution(folder / "b.safetensors", fine, {"table": "this"})
    save_solution(folder / "a.safetensors", coarse, {"table": "this"})
    save_solution(folder / "c.safetensors", coarse)  # does not say of which table
    assert best_solution(tmp_path, "this") == folder / "b.safetensors"


def test_a_solution_of_another_table_is_never_taken(tmp_path, solution):
    assert best_solution(tmp_path, "this") is None
    other = tmp_path / "solutions" / "a.safetensors"
    save_solution(other, solution, {"table": "that"})
    with pytest.raises(
        UserError, match=r"a\.safetensors: solved for table that, but .* holds this"
    ):
        best_solution(tmp_path, "this")
    own = tmp_path / "solutions" / "b.safetensors"
    save_solution(own, solution, {"table": "this"})
    assert best_solution(tmp_path, "this") == own


def test_other_files_are_refused_in_one_line(tmp_path, solution):
    missing = tmp_path / "missing.safetensors"
    with pytest.raises(UserError, match=r"missing\.safetensors: no such file; run `tightframe ntp"):
        load_solution(missing)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"not a tensor")
    with pytest.raises(UserError, match=r"damaged\.safetensors: not a whole .*; remove it"):
        load_solution(damaged)
    other = tmp_path / "other.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(2)}, other)
    with pytest.raises(UserError, match="holds 'something else', expected a solution of the nucl"):
        load_solution(other)


def test_the_command_writes_a_solution_beside_its_table_and_prints_one_line(tmp_path, capsys):
    folder = tmp_path / "ntp" / "small"
    save_table(folder, small_table())
    main(["ntp", "solve", str(folder), "--json"])
    printed = json.loads(capsys.readouterr().out)
    path = folder / "solutions" / printed["solution"].rpartition("/")[2]
    solution = load_solution(path)
    assert printed["status"] == "optimal"
    assert printed["gap"] == solution.gap <= 1e-4
    assert solution.logits.shape == (6, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert solve_svm(small_table().matrix).upper == solution.upper
    # The same again is read, not solved anew; another gap is another file.
    written = path.stat().st_mtime_ns
    main(["ntp", "solve", str(folder)])
    out, err = capsys.readouterr()
    assert out.startswith(f"optimal: upper {solution.upper:.9g}, lower {solution.lower:.9g}, gap ")
    assert out.count("\n") == 1
    assert "already solved" in err
    assert path.stat().st_mtime_ns == written
    main(["ntp", "solve", str(folder), "--gap", "1e-6"])
    assert len(list((folder / "solutions").iterdir())) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gap", "0"], "gap: 0.0, expected 1e-10 or more in float64"),
        (["--gap", "1e-6", "--dtype", "float32"], "gap: 1e-06, expected 1e-05 or more in float32"),
        (["--max-iter", "-1"], "--max-iter: '-1' is no whole number from 0 on"),
    ],
)
def test_options_out_of_range_are_one_line(tmp_path, capsys, options, message):
    folder = tmp_path / "small"
    save_table(folder, small_table())
    with pytest.raises(SystemExit) as stopped:
        main(["ntp", "solve", str(folder), *options])
    assert stopped.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (folder / "solutions").exists()


def test_solving_again_writes_the_same_bytes(tmp_path, solution):
    support = np.repeat(np.eye(5, dtype=bool), 2, axis=1)
    for name in ("first", "second"):
        save_solution(tmp_path / name, solve_svm(support, 1e-9), {"gap": 1e-9})
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
