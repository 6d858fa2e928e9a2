from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from studies.small_sets import run as small_sets
from tightframe.ntp.model import load_model_checkpoints
from tightframe.ntp.table import ContextTable
from tightframe.results import read_rows
from tightframe.settings import read_toml, resolve

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("ntp-*.toml"))
TINY = {
    "ufm": 'set = "synthetic"\narm = "ufm"\nsteps = 40\nlearning_rate = 0.01\nwidth = 20\n'
    "down_to = 1e-3\nper_decade = 1\n",
    "transformer": 'set = "synthetic"\narm = "transformer"\nsteps = 4\nwidth = 16\ndepth = 1\n'
    "heads = 2\nlearning_rate = 1e-3\n",
}


def _small_set(seed):
    # Seven tokens, six contexts of two words; the first two share their support.
    counts = np.array(
        [
            [1, 2, 0, 0, 0, 0, 0],
            [2, 1, 0, 0, 0, 0, 0],
            [0, 1, 1, 1, 0, 0, 0],
            [0, 0, 0, 1, 2, 0, 0],
            [0, 0, 0, 0, 1, 1, 0],
            [0, 0, 0, 0, 0, 1, 3],
        ]
    )
    contexts = np.array([[0, 1], [2, 1], [3, 3], [4, 0], [5, 6], [6, 2]], dtype=np.int32)
    source = {"set": "synthetic", "seed": seed, "length": 2}
    return ContextTable(contexts, sp.csr_array(counts), np.arange(7), source=source)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Both arms on a set of seven words and six contexts, in a few steps."""
    place = tmp_path_factory.mktemp("study")
    for arm, text in TINY.items():
        (place / f"{arm}.toml").write_text(text)
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(small_sets.SETS, "synthetic", _small_set)
        configs = [str(place / f"{arm}.toml") for arm in TINY]
        small_sets.main([*configs, "--out", str(place / "ntp"), "--report", str(place / "report")])
    return place


def test_one_configuration_an_arm_gives_rows_arrays_and_figures(finished):
    header, rows = read_rows(finished / "ntp" / "synthetic" / "results" / "ufm.jsonl")
    assert header.tokens["vocab_size"] == 7
    assert header.tokens["contexts"] == 6
    assert header.settings["learning_rate"] == 0.01
    excess = {row.step: row.value for row in rows if row.metric == "ntp_excess"}
    assert list(excess) == [*range(41)]
    assert excess[40] < 0.5 * excess[0]
    names = {path.name for path in (finished / "report").iterdir()}
    assert names == {
        *("synthetic.csv", "synthetic-path.csv", "synthetic.safetensors", "synthetic-heat.png"),
        *("synthetic-ufm.png", "synthetic-transformer.png"),
    }


def test_a_checkpoint_has_the_prediction_at_its_own_loss_beside_it(finished):
    table = pd.read_csv(finished / "report" / "synthetic.csv")
    last = table[(table["run"] == "synthetic-ufm") & (table["step"] == 40)].iloc[0]
    _, path = read_rows(finished / "ntp" / "synthetic" / "results" / "path.jsonl")
    excess, ridge = (
        np.array([row.value for row in path if row.metric == name])
        for name in ("ntp_excess", "ntp_lambda")
    )
    # The excess falls with the ridge, so the ridge lies between those of its two neighbours.
    above = excess > last["ntp_excess"]
    assert ridge[~above].max() < last["at_same_loss.ntp_lambda"] < ridge[above].min()
    assert "shuffled.ntp_ssim_classifier" in table


def test_what_is_finished_is_kept(finished):
    files = {path: path.stat().st_mtime_ns for path in finished.glob("ntp/**/*.safetensors")}
    assert len(files) == 4  # table, limit, two arms
    said: list[str] = []
    for arm in TINY:
        small_sets.study(finished / f"{arm}.toml", out=finished / "ntp", say=said.append)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert [line.endswith("is finished") for line in said] == [True, True]


def test_other_settings_do_not_pass_as_the_finished_ones(finished, tmp_path, capsys):
    config = tmp_path / "other.toml"
    config.write_text(TINY["ufm"].replace("40", "50"))
    with pytest.raises(SystemExit) as stopped:
        small_sets.main([str(config), "--out", str(finished / "ntp")])
    assert stopped.value.code == 2
    assert "ufm.safetensors: trained with other settings" in capsys.readouterr().err


def test_another_draw_of_the_set_does_not_pass_as_this_one(finished, tmp_path, capsys):
    config = tmp_path / "other.toml"
    config.write_text(TINY["ufm"] + "set_seed = 3\n")
    with pytest.raises(SystemExit):
        small_sets.main([str(config), "--out", str(finished / "ntp")])
    assert "drawn with seed 0, but set_seed is 3" in capsys.readouterr().err


def test_arms_hold_the_tokens_and_contexts_of_the_table(finished):
    for arm, width in (("ufm", 20), ("transformer", 16)):
        path = finished / "ntp" / "synthetic" / "runs" / f"{arm}.safetensors"
        checkpoints, about = load_model_checkpoints(path)
        assert checkpoints[-1].classifier.shape == (7, width)
        assert checkpoints[-1].embeddings.shape == (6, width)
        assert about["settings"]["arm"] == arm


def test_thirty_thousand_steps_are_kept_where_the_published_ones_were():
    settings = resolve(small_sets.StudySettings, {"set": "stories", "arm": "ufm"}, source="here")
    assert {0, 1, 10, 100, *range(1000, 30_001, 1000)} <= set(settings.checkpoints)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_configurations_resolve(path):
    settings = resolve(small_sets.StudySettings, read_toml(path), source=str(path))
    assert path.stem == f"ntp-{settings.set}-{settings.arm}"
    assert max(settings.milestones) < settings.steps
