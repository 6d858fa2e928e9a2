import dataclasses
import json
import warnings

import numpy as np
import pytest
import safetensors.numpy
import scipy.sparse as sp
import torch

from reference.supports import random_support
from tightframe.cli import main
from tightframe.errors import UserError
from tightframe.ntp import ContextTable, certify, load_solution, solve_svm
from tightframe.ntp.certificate import grouped_bounds
from tightframe.ntp.prediction import FORMAT as PREDICTION
from tightframe.ntp.solution import FORMAT, best_solution
from tightframe.ntp.summary import summarize
from tightframe.ntp.table import save_table


def small_table():
    """Eight contexts of one token each, and which of six tokens followed them."""
    counts = np.zeros((8, 6), dtype=np.int64)
    for context in range(8):
        counts[context, [context % 6, (context * 2 + 1) % 6]] = [1 + context, 2]
    return ContextTable(
        np.arange(8, dtype=np.int32)[:, None], sp.csr_array(counts), np.arange(6, dtype=np.int64)
    )


def ragged_table():
    """16 contexts, each followed by three of twelve tokens: the proxy is not their optimum."""
    counts = sp.csr_array(random_support(12, 16, (3, 3), 0).T.astype(np.int64))
    return ContextTable(np.arange(16, dtype=np.int32)[:, None], counts, np.arange(12))


@pytest.fixture(scope="module")
def solution():
    return solve_svm(np.repeat(np.eye(5, dtype=bool), 2, axis=1), 1e-9)


def test_a_solution_comes_back_with_its_certificate(tmp_path, solution):
    path = tmp_path / "solutions" / "svm.safetensors"
    solution.save(path, {"gap": 1e-9})
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
    solution.save(path, {"gap": 1e-9})
    facts = FORMAT.read_facts(path)
    assert facts.source == {"gap": 1e-9}
    assert set(facts.versions) == {"tightframe", "torch", "numpy", "scipy"}
    assert (facts.contexts, facts.distinct_contexts) == (10, 5)


def rewrite(path, arrays=None, format=FORMAT, **facts):
    """Write a file again with other arrays or facts and a digest that is valid for them."""
    tensors, before = format.read(path)
    tensors |= {name: torch.from_numpy(values) for name, values in (arrays or {}).items()}
    format.write(path, tensors, {**before.model_dump(), **facts})


def zeroed(matrix):
    changed = matrix.copy()
    changed[:2] = 0
    return changed


@pytest.mark.parametrize(
    ("arrays", "facts", "message"),
    [
        # A lower bound that is raised to the upper one, or an upper one that is cut to it.
        (
            {},
            lambda s: {"lower": s.upper, "gap": 0.0},
            "says lower 5.6568.*, but its arrays give 5.65",
        ),
        (
            {},
            lambda s: {"upper": s.lower, "gap": 0.0},
            "says upper 5.651.*, but its arrays give 5.6568",
        ),
        ({}, lambda s: {"lower": 0.9 * s.lower}, "says lower 5.08.*, but its arrays give 5.65"),
        ({}, lambda s: {"gap": 0.0}, "says gap 0.0, but the rest of it gives 0.001"),
        ({}, lambda s: {"violation": 1.0}, "says violation 1, but its arrays give "),
        ({}, lambda s: {"status": "max_iter"}, "says status max_iter, .* gives optimal"),
        ({}, lambda s: {"source": {"gap": 1e-9}}, "says status optimal, .* gives max_iter"),
        ({}, lambda s: {"rank": 3}, "says rank 3, but the rest of it gives 4"),
        ({"logits": lambda s: zeroed(s.grouped_logits)}, {}, "but its arrays give"),
        ({"dual": lambda s: zeroed(s.grouped_dual)}, {}, "says lower 5.651.*, but its arrays give"),
        ({"singular_values": lambda s: s.singular_values[::-1].copy()}, {}, "singular value 1 "),
        (
            {"row_counts": lambda s: 2 * s.groups.row_counts},
            {},
            "says upper 5.6568.*, but its arrays",
        ),
    ],
)
def test_a_certificate_signed_as_ours_is_computed_anew(tmp_path, solution, arrays, facts, message):
    # The optimum is 4 sqrt(2) = 5.6568; a dual matrix less a thousandth leaves a gap of that.
    loose = 0.999 * solution.grouped_dual
    _, lower = grouped_bounds(solution.groups, solution.grouped_logits, loose)
    given = dataclasses.replace(solution, grouped_dual=loose, lower=lower)
    path = tmp_path / "svm.safetensors"
    given.save(path, {"gap": 0.01})
    assert load_solution(path).gap == given.gap == pytest.approx(1e-3)
    rewrite(
        path,
        {name: change(given) for name, change in arrays.items()},
        **(facts(given) if facts else {}),
    )
    with pytest.raises(UserError, match=f"svm.safetensors: .*{message}"):
        load_solution(path)


def test_a_solution_is_one_of_the_support_that_it_is_read_for(tmp_path, solution):
    path = tmp_path / "svm.safetensors"
    solution.save(path)
    support = np.repeat(np.eye(5, dtype=bool), 2, axis=1)
    assert load_solution(path, support).upper == solution.upper
    with pytest.raises(UserError, match=r"another support matrix \(5 x 10\) than .* \(5 x 10\)"):
        load_solution(path, support[::-1])
    weighted = solve_svm(np.eye(5, dtype=bool), 1e-9, weights=np.array([1.0, 2, 2, 2, 2]))
    weighted.save(path)
    assert load_solution(path).upper == weighted.upper
    with pytest.raises(UserError, match="weighs tokens or contexts otherwise than once each"):
        load_solution(path, np.eye(5, dtype=bool))


@pytest.mark.parametrize("side", ["lower", "upper"])
@pytest.mark.parametrize("command", ["solve", "predict", "predicted", "path"])
def test_no_command_shows_a_gap_that_a_file_only_claims(tmp_path, capsys, command, side):
    folder = tmp_path / "ntp" / "small"
    save_table(folder, ragged_table())
    main(["ntp", "solve", str(folder), "--gap", "0.01"])
    if command == "predicted":
        main(["ntp", "predict", str(folder)])
    (path,) = (folder / "solutions").iterdir()
    bounds = {"upper": load_solution(path).upper, "lower": load_solution(path).lower}
    assert bounds["lower"] < bounds["upper"]
    claimed = bounds["lower" if side == "upper" else "upper"]
    rewrite(path, gap=0.0, **{side: claimed})
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    arguments = {
        "solve": ["ntp", "solve", str(folder), "--gap", "0.01"],
        "path": ["ntp", "ridge-path", str(folder), "--down-to", "1e-2"],
    }.get(command, ["ntp", "predict", str(folder)])
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert f"says {side} {claimed:.9g}, but its arrays give {bounds[side]:.9g}" in " ".join(
        printed.err.split()
    )
    assert "certified" not in printed.out
    with pytest.raises(UserError, match=f"says {side} .*, but its arrays give"):
        summarize(folder)  # what the page of a table shows
    if command != "path":  # which writes its points before it reads the solution
        assert sorted(tmp_path.rglob("*")) == before


def test_a_prediction_is_worth_what_its_source_gives(tmp_path, capsys):
    folder = tmp_path / "ntp" / "small"
    save_table(folder, ragged_table())
    main(["ntp", "solve", str(folder), "--gap", "0.01"])
    for source in ([], ["--from", "proxy"]):
        main(["ntp", "predict", str(folder), *source])
        first = capsys.readouterr().out.splitlines()[-1]
        main(["ntp", "predict", str(folder), *source])
        again = capsys.readouterr()
        assert again.out.splitlines()[-1] == first
        assert "already predicted" in again.err
    certified, proxy = sorted(
        (folder / "predictions").iterdir(), key=lambda path: path.stem == "proxy"
    )
    rewrite(certified, format=PREDICTION, gap=1e-9)
    rewrite(proxy, format=PREDICTION, kind="exact", gap=0.0)
    for source, words in (
        ([], "says certified with gap 1e-09, but what it was made from gives certified with gap"),
        (["--from", "proxy"], "says exact with gap 0, but what it was made from gives proxy with"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["ntp", "predict", str(folder), *source])
        assert stopped.value.code == 2
        assert words in " ".join(capsys.readouterr().err.split())


def test_of_several_the_one_of_smallest_gap_is_taken_whatever_its_age(tmp_path, solution):
    fine, coarse = solution, dataclasses.replace(solution, lower=0.9 * solution.upper)
    assert fine.gap < coarse.gap == pytest.approx(0.1)
    folder = tmp_path / "solutions"
    fine.save(folder / "b.safetensors", {"table": "this"})
    coarse.save(folder / "a.safetensors", {"table": "this"})
    coarse.save(folder / "c.safetensors")  # does not say of which table
    assert best_solution(tmp_path, "this") == folder / "b.safetensors"


def test_a_solution_of_another_table_is_never_taken(tmp_path, solution):
    assert best_solution(tmp_path, "this") is None
    other = tmp_path / "solutions" / "a.safetensors"
    solution.save(other, {"table": "that"})
    with pytest.raises(
        UserError, match=r"a\.safetensors: solved for table that, but .* holds this"
    ):
        best_solution(tmp_path, "this")
    own = tmp_path / "solutions" / "b.safetensors"
    solution.save(own, {"table": "this"})
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
        assert solve_svm(small_table().support).upper == solution.upper
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
    for name in ("first.safetensors", "second.safetensors"):
        solve_svm(support, 1e-9).save(tmp_path / name, {"gap": 1e-9})
    assert (tmp_path / "first.safetensors").read_bytes() == (
        tmp_path / "second.safetensors"
    ).read_bytes()
