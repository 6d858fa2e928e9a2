import numpy as np
import pytest

from studies.simulators.run import ALPHA, main, one_draw, summary
from studies.simulators.worlds import MEASURES, draw, true_correlation


def test_worlds_are_what_they_say():
    table = draw("size only", 0, families=2_000)
    rest = table[["val_loss", *MEASURES]].sub(
        table.groupby("log_size")[["val_loss", *MEASURES]].transform("mean")
    )
    assert rest.corr().loc["val_loss", "m0"] == pytest.approx(0, abs=0.02)
    assert table["cell"].nunique() == 10_000
    # Without size the correlation is that of noise and measure: -0.4 / sqrt(0.16 + 0.09) = -0.8.
    causes = draw("causes", 0, families=2_000)
    parts = causes.groupby("log_size")[["val_loss", "m0"]].corr().xs("m0", level=1)["val_loss"]
    assert parts.to_numpy() == pytest.approx([-0.8] * 5, abs=0.02)
    assert true_correlation("unrelated") == pytest.approx(0, abs=0.01)


def test_the_program_writes_its_table(tmp_path, capsys):
    main(["--draws", "3", "--out", str(tmp_path)])
    assert (tmp_path / "simulators.csv").is_file()
    assert "| size only | 40 | 3 |" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("world", ["size only", "unrelated"])
def test_tests_err_no_more_often_than_they_say(world):
    # 1,000 draws at 5 %: two standard errors are 1.4 points; more than 5.5 + 1.4 % is a defect.
    found = summary(world, 1_000)
    assert found["partial p < 0.05"] < 0.055 + 0.014
    assert found["any of five, max-T"] < 0.055 + 0.014
    assert found["any of five, plain"] > 2 * ALPHA  # what max-T is for


@pytest.mark.slow
def test_intervals_of_forty_clusters_hold():
    assert 0.93 - 0.016 < summary("causes", 1_000)["interval holds"] < 0.97 + 0.011


@pytest.mark.slow
def test_a_measure_of_size_gains_nothing_and_a_cause_does():
    gains = {
        world: np.array([one_draw(world, seed)["gain"] for seed in range(100)])
        for world in ("causes", "size only")
    }
    assert (gains["causes"] > 0).mean() > 0.95
    assert gains["size only"].mean() < 0
