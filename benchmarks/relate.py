"""Seconds of `relate`: permutations of the published Table 1, all measures with controls, the page.

    OMP_NUM_THREADS=1 python benchmarks/relate.py

Beside the first row, scipy.stats.permutation_test makes the same test of one measure with a
hundredth of the permutations, in the same run. The page is opened in headless Chromium, where there
is one: from the request to all points of the main plot, the best of five, by the clock.
"""

import argparse
import json
import platform
import shutil
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy import stats

from tightframe.analysis import inference
from tightframe.analysis.relate import relate
from tightframe.report.relation_page import render_relation

CHROMIUM = shutil.which("chromium")


def table1(permutations: int) -> float:
    """The seven measures of 21 rows."""
    rng = np.random.default_rng(0)
    basis, _ = inference.basis_of(np.ones((21, 1)), ["1"])
    x = inference.residuals(rng.normal(size=(21, 7)), basis)
    y = inference.residuals(rng.normal(size=(21, 1)), basis)[:, 0]
    start = time.process_time()
    inference.permute(x, y, basis, np.arange(21), permutations=permutations, seed=0)
    return time.process_time() - start


def scipys(permutations: int) -> float:
    """One measure of 21 rows, by scipy."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 21))
    y = y - y.mean()

    def statistic(values: np.ndarray, axis: int) -> np.ndarray:
        return np.abs(values @ y)

    start = time.process_time()
    stats.permutation_test(
        (x,), statistic, permutation_type="pairings", vectorized=True, n_resamples=permutations
    )
    return time.process_time() - start


def all_measures(permutations: int) -> float:
    """The 230 rows of 170 runs, 155 measures, 30 architectures and 7 run types held fixed."""
    rng = np.random.default_rng(0)
    runs = np.concatenate([np.arange(110), 110 + np.repeat(np.arange(60), 2)])
    names = [f"m{j}" for j in range(155)]
    table = pd.DataFrame(rng.normal(size=(230, 155)), columns=names).assign(
        val_loss=rng.normal(size=230),
        run=runs,
        architecture=[f"a{i % 30}" for i in range(230)],
        run_type=[f"t{i % 7}" for i in range(230)],
    )
    start = time.process_time()
    relate(table, measures=names, fixed=["architecture", "run_type"], permutations=permutations)
    return time.process_time() - start


def page(folder: Path) -> float:
    """The page of 230 rows and 155 measures."""
    from playwright.sync_api import sync_playwright

    rng = np.random.default_rng(0)
    names = [f"m{j}" for j in range(155)]
    table = pd.DataFrame(rng.normal(size=(230, 155)), columns=names)
    table = table.assign(val_loss=rng.normal(size=230), run=[f"run {i}" for i in range(230)])
    file = folder / "index.html"
    found = relate(table, measures=names, permutations=99, draws=100)
    file.write_text(render_relation(found, name="large"), encoding="utf-8")
    seconds = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for _ in range(5):
            opened = browser.new_page(viewport={"width": 1400, "height": 900})
            start = time.perf_counter()
            opened.goto(file.as_uri())
            plot = opened.locator('.plot[data-scatter="{measure}"]')
            plot.scroll_into_view_if_needed()
            plot.locator(".points path").first.wait_for()
            seconds.append(time.perf_counter() - start)
            opened.close()
        browser.close()
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/relate.json")
    given = parser.parse_args()
    rows = [
        ("21 rows x 7 measures, 10^6 permutations", table1(10**6), "10"),
        ("21 rows x 1 measure, 10^4 permutations, scipy", scipys(10**4), ""),
        ("230 rows x 155 measures, controls, 10^4 permutations", all_measures(10**4), "30"),
    ]
    if CHROMIUM:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(("page of 230 rows x 155 measures, by the clock", page(Path(folder)), "2"))
    shown = Table("work", "CPU s", "at most")
    for work, seconds, target in rows:
        shown.add_row(work, f"{seconds:.2f}", target)
    Console().print(shown)
    content = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("numpy", "scipy", "pandas")},
        "rows": [dict(zip(("work", "seconds", "target"), row, strict=True)) for row in rows],
    }
    given.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
