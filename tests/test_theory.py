import json

import numpy as np
import pytest

from test_counting import draw_documents, write_shards
from tightframe import cli
from tightframe.commands import ntp
from tightframe.ntp import count, load_table

pytestmark = pytest.mark.filterwarnings("ignore:.*(occur, and such|single token)")


@pytest.fixture
def shards(tmp_path):
    return write_shards(tmp_path / "tokens", draw_documents())


def refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("context", ["3", "all"])
def test_the_command_writes_the_table_and_says_what_is_in_it(shards, tmp_path, capsys, context):
    out = tmp_path / "ntp" / "x"
    options = ["--context", context, "--min-count", "2", "--split", "val", "--json"]
    cli.main(["ntp", "count", str(shards.path), "--out", str(out), *options])
    printed = json.loads(capsys.readouterr().out)
    length = context if context == "all" else int(context)
    expected = count(shards, length, split="val", min_count=2)
    written = load_table(out)
    assert np.array_equal(written.contexts, expected.contexts)
    assert (written.counts != expected.counts).nnz == 0
    assert written.source == expected.source == printed["source"]
    assert printed["n_pairs"] == expected.n_pairs
    assert printed["empirical_entropy"] == expected.empirical_entropy
    assert sorted(path.name for path in out.iterdir()) == [
        "contexts.parquet",
        "manifest.json",
        "table.safetensors",
    ]


def test_the_line_says_what_was_left_out_and_a_dense_table_is_warned_of(shards, tmp_path, capsys):
    options = ["-c", "1", "--min-context", "60", "--min-count", "10"]
    cli.main(["ntp", "count", str(shards.path), "--out", str(tmp_path / "x"), *options])
    printed = capsys.readouterr()
    assert "pairs left out: " in printed.out
    assert " by min_count" in printed.out
    assert "empirical entropy" in printed.out
    assert "of all (token, context) pairs occur" in printed.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--context", "0"], "--context 0: expected a number of tokens from 1 on, or all"),
        (["--context", "many"], "--context many: expected a number of tokens"),
        (["--context", "500"], "has 500 tokens and a next one; use a shorter context"),
        (["--min-context", "100000"], "is left with min_context=100000"),
        (["--min-count", "0"], "min_count: 0, expected at least 1"),
        (["--sample-seed", "1"], "sample_seed needs max_contexts"),
    ],
)
def test_a_wrong_option_is_one_line_and_nothing_is_written(
    shards, tmp_path, capsys, options, message
):
    out = tmp_path / "x"
    arguments = ["ntp", "count", str(shards.path), "--out", str(out), *options]
    assert message in refused(arguments, capsys)
    assert not out.exists()


def test_an_existing_folder_and_missing_tokens_are_refused(shards, tmp_path, capsys):
    tokens = str(shards.path)
    assert "already exists" in refused(["ntp", "count", tokens, "--out", tokens], capsys)
    missing = ["ntp", "count", str(tmp_path / "no"), "--out", str(tmp_path / "x")]
    assert "no such folder" in refused(missing, capsys)


def test_only_followers_are_kept_where_asked(shards, tmp_path, capsys):
    options = f"ntp count {shards.path} -c 3 --min-context 3 --out".split()
    cli.main([*options, str(tmp_path / "all")])
    cli.main([*options, str(tmp_path / "some"), "--followers-only"])
    whole, some = load_table(tmp_path / "all"), load_table(tmp_path / "some")
    used = np.unique(whole.counts.indices)
    assert len(used) < whole.vocab_size
    assert np.array_equal(some.tokens, whole.tokens[used])
    assert np.array_equal(some.counts.toarray(), whole.counts.toarray()[:, used])


def test_a_long_solve_is_announced_and_one_that_cannot_be_held_refused(
    shards, tmp_path, capsys, monkeypatch
):
    folder = tmp_path / "x"
    cli.main(f"ntp count {shards.path} -c 1 --out {folder}".split())
    table = load_table(folder)
    monkeypatch.setattr(ntp, "LARGE", table.n_supports - 1)
    capsys.readouterr()
    cli.main(["ntp", "solve", str(folder), "--gap", "0.5"])
    assert f"{table.n_supports:,} distinct supports" in capsys.readouterr().err
    bytes_needed = table.vocab_size * table.n_contexts
    monkeypatch.setattr("tightframe.lm.hardware.free_memory", lambda device: bytes_needed - 1)
    message = refused(["ntp", "solve", str(folder), "--gap", "0.4"], capsys)
    assert f"takes {bytes_needed:,} bytes, {bytes_needed - 1:,} are free" in message
    assert "--from proxy --rank 32" in message
