"""Tables of models whose truth is known: what a measure has to do with y in each of four worlds.

Each table has 8 families of 5 sizes and 3 seeds. The seeds of one family and size share noise, as
repeats of one architecture do, so those 40 cells are the clusters; the 3 rows of a cell are less
than 3 independent models.
"""

from typing import Literal, get_args

import numpy as np
import pandas as pd

World = Literal["causes", "size only", "unrelated", "opposite within"]
WORLDS = get_args(World)
FAMILIES, SIZES, SEEDS = 8, 5, 3
MEASURES = tuple(f"m{j}" for j in range(5))
SHARED = 0.7  # share of the variance of noise that the seeds of one cell have in common


def draw(world: World, seed: int, *, families: int = FAMILIES) -> pd.DataFrame:
    """Draw a table of one world; its five measures differ in nothing but their noise.

    In "causes" the first measure lowers y beside size. In "size only" measures and y follow size
    and nothing else. In "unrelated" only y follows size. In "opposite within" the first measure
    raises y in half of the families and lowers it in the others.
    """
    rng = np.random.default_rng(seed)
    family, size, repeat = (
        part.ravel()
        for part in np.meshgrid(
            np.arange(families), np.arange(SIZES), np.arange(SEEDS), indexing="ij"
        )
    )
    cell = family * SIZES + size

    def noise() -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        shared = rng.normal(size=families * SIZES)[cell]
        alone = rng.normal(size=len(cell))
        return np.asarray(np.sqrt(SHARED) * shared + np.sqrt(1 - SHARED) * alone)

    follows = 0.0 if world in ("unrelated", "opposite within") else 0.7
    measures = {name: follows * size + noise() for name in MEASURES}
    y = 4 - 0.5 * size + 0.3 * noise()
    if world == "causes":
        y -= 0.4 * measures["m0"]
    if world == "opposite within":
        y += np.where(family % 2, 0.4, -0.4) * measures["m0"]
    return pd.DataFrame(
        {
            "family": [f"f{one}" for one in family],
            "cell": [f"f{one}-{other}" for one, other in zip(family, size, strict=True)],
            "seed": repeat,
            "log_size": size.astype(float),
            "val_loss": y,
            **measures,
        }
    )


def true_correlation(world: World) -> float:
    """Return the correlation of y with the first measure, by one draw of 40,000 families."""
    table = draw(world, 0, families=40_000)
    return float(np.corrcoef(table["m0"], table["val_loss"])[0, 1])
