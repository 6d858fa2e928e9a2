import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest

from studies.bridge import run as bridge
from tightframe.corpus.shards import TokenShards
from tightframe.errors import UserError
from tightframe.lm.options import TrainOptions
from tightframe.lm.training import train
from tightframe.ntp.table import PAD
from tiny_tokens import write_tokens


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return write_tokens(tmp_path_factory.mktemp("tokens") / "t", train=60, block=17)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, tokens):
    """Three models that have hardly been trained."""
    folder = tmp_path_factory.mktemp("sweeps") / "s"
    for width in (4, 8, 12):
        settings = TrainOptions(
            tokens=tokens, out=folder / "runs" / f"w{width}", width=width, depth=1, heads=1,
            epochs=0.2, device="cpu", threads=1,
        )  # fmt: skip
        train(settings)
    return folder


def test_contexts_begin_where_their_story_does(tokens):
    plain = TokenShards.open(tokens)
    shards = dataclasses.replace(plain, manifest=plain.manifest | {"end_of_text": 7})
    table = bridge.context_table(shards, 3)
    # End-of-text begins a story: what stands left of it is no context of the next one.
    begins = table.contexts[:, 1:] == 7
    assert begins.any()
    assert (table.contexts[:, :-1][begins] == PAD).all()
    assert (table.contexts[:, -1] != PAD).all()
    assert len(np.unique(table.contexts, axis=0)) == table.n_contexts


@pytest.mark.parametrize("length", [1, 4])
def test_every_labelled_position_is_in_the_table(tokens, length):
    shards = TokenShards.open(tokens)
    table = bridge.context_table(shards, length)
    assert table.counts.sum(axis=0).tolist() == shards.split("train").label_counts().tolist()


def test_contexts_of_one_token_are_pairs_of_neighbours(tmp_path):
    shards = TokenShards.open(write_tokens(tmp_path / "t"))
    rows, lengths = shards.split("train").rows(range(22))
    expected = np.zeros((23, 23), dtype=int)
    for row, length in zip(rows.tolist(), lengths.tolist(), strict=True):
        for before, after in itertools.pairwise(row[:length]):
            expected[before, after] += 1
    table = bridge.context_table(shards, 1)
    found = np.zeros((23, 23), dtype=int)
    found[table.contexts[:, 0]] = table.counts.toarray()
    assert found.tolist() == expected.tolist()


def test_a_sweep_becomes_tables_and_a_figure_and_its_moments_are_kept(
    tmp_path, sweep, tokens, monkeypatch
):
    lines = []
    options = {"lengths": (1, 2), "min_count": 2, "say": lines.append}
    out = bridge.run_bridge(sweep, tokens, tmp_path / "out", **options)
    names = ["bridge.png", "classes.csv", "models.csv", "order.csv", "values.csv"]
    assert sorted(path.name for path in out.iterdir()) == names
    models, classes = (pd.read_csv(out / f"{name}.csv") for name in ("models", "classes"))
    assert models["width"].tolist() == [12, 4, 8]  # by name
    # Five predictions of three models at the first length, and no `counts` at the second.
    assert len(classes) == 3 * (5 + 4)
    counted = classes.groupby("variant").size().to_dict()
    assert counted == {"counts": 3, "finite": 6, "limit": 6, "random": 6, "shuffled": 6}
    assert classes["cosines"].between(-1, 1).all()
    order = pd.read_csv(out / "order.csv")
    assert set(order["n"]) <= {0, 1, 2, 3}
    # Again: the same bytes, without a pass over the training split.
    monkeypatch.setattr("tightframe.geometry.states.accumulate_moments", None)
    monkeypatch.setattr(bridge, "save", lambda figure, path: None)  # slow, and deterministic
    monkeypatch.setattr(bridge.drawing, "draw", lambda values, classes: None)
    again = bridge.run_bridge(sweep, tokens, tmp_path / "again", **options)
    for name in names[1:]:
        assert (again / name).read_bytes() == (out / name).read_bytes()


def test_a_sweep_of_other_tokens_is_refused(tmp_path, sweep):
    other = write_tokens(tmp_path / "other")
    with pytest.raises(UserError, match=r"was trained on tokens .*, but .* holds .*; give the"):
        bridge.run_bridge(sweep, other, tmp_path / "out", say=lambda line: None)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_runs_is_refused(tmp_path, tokens, capsys):
    with pytest.raises(SystemExit, match="2"):
        bridge.main([str(tmp_path), "--tokens", str(tokens), "--out", str(tmp_path / "out")])
    assert "holds 0 runs, expected a sweep of three or more" in capsys.readouterr().err
