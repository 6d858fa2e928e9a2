"""Which interval over facts holds: coverage in the worlds of `tests/reference/fact_worlds.py`.

    python benchmarks/fact_intervals.py                             # the table of docs/measures.md
    python benchmarks/fact_intervals.py --candidates percentile bca studentized linearized

A row a world, a column a number of facts: percent of the intervals that hold the truth. In brackets
the percent of draws whose interval is announced as a wide one, or, of candidates, that have none
because all values are the same; "refused" where no draw has one.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy.stats import norm, t

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from reference.fact_worlds import FACTS, HELD_OUT, WORLDS, World
from tightframe.knowledge.intervals import interval

RESAMPLES = 1000
NOTHING = (np.nan, np.nan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--candidates", nargs="+", default=["ours"], choices=CANDIDATES)
    args = parser.parse_args()
    for name in args.candidates:
        if len(args.candidates) > 1:
            print(f"\n## {name}\n")
        print(f"| world | {' | '.join(f'{n} facts' for n in FACTS)} |")
        print("|---" * (1 + len(FACTS)) + "|")
        for world in (*WORLDS, *HELD_OUT):
            cells = [
                _cell(*coverage(world, n, name, draws=args.draws, seed=args.seed)) for n in FACTS
            ]
            print(f"| {world.name} | {' | '.join(cells)} |", flush=True)


def coverage(
    world: World, n_facts: int, name: str = "ours", *, draws: int, seed: int
) -> tuple[float, float, float]:
    """Share of the intervals that hold the truth, and of draws with a wide one, and without one."""
    held, given, wide = 0, 0, 0
    for draw in range(draws):
        generator = np.random.default_rng([seed, n_facts, draw])
        values, facts = world.draw(generator, n_facts)
        counts = np.bincount(facts)
        sums = np.bincount(facts, values)
        low, high, *reason = CANDIDATES[name](sums, counts, world.bounds, generator)
        if low == low:
            given += 1
            wide += bool(reason and reason[0])
            held += low - 1e-9 <= world.truth <= high + 1e-9
    return held / max(given, 1), wide / draws, 1 - given / draws


def ours(sums, counts, bounds, generator):
    seed = int(generator.integers(2**31))
    return interval(sums, counts, bounds, level=0.95, resamples=RESAMPLES, seed=seed)


def ratio(sums, counts):
    """Mean over questions, and its standard error by the linearization of a ratio."""
    mean = sums.sum(-1) / counts.sum(-1)
    n = counts.shape[-1]
    apart = sums - mean[..., None] * counts
    error = np.sqrt((apart**2).sum(-1) * n / (n - 1)) / counts.sum(-1)
    return mean, error


def resampled(sums, counts, generator):
    drawn = generator.integers(len(sums), size=(RESAMPLES, len(sums)))
    return sums[drawn], counts[drawn]


def percentile(sums, counts, bounds, generator):
    again, by = resampled(sums, counts, generator)
    means = again.sum(1) / by.sum(1)
    return _quantiles(means, 0.025, 0.975) if np.ptp(sums / counts) > 1e-9 else NOTHING


def bca(sums, counts, bounds, generator):
    if np.ptp(sums / counts) < 1e-9:
        return NOTHING
    mean, _ = ratio(sums, counts)
    again, by = resampled(sums, counts, generator)
    means = again.sum(1) / by.sum(1)
    below = (means < mean - 1e-9).mean() + (abs(means - mean) <= 1e-9).mean() / 2
    bias = norm.ppf(np.clip(below, 1 / RESAMPLES, 1 - 1 / RESAMPLES))
    left = (sums.sum() - sums) / (counts.sum() - counts)
    apart = left.mean() - left
    skew = (apart**3).sum() / (6 * (apart**2).sum() ** 1.5) if (apart**2).sum() > 0 else 0.0
    ends = bias + norm.ppf([0.025, 0.975])
    return _quantiles(means, *norm.cdf(bias + ends / (1 - skew * ends)))


def studentized(sums, counts, bounds, generator):
    if np.ptp(sums / counts) < 1e-9:
        return NOTHING
    mean, error = ratio(sums, counts)
    means, errors = ratio(*resampled(sums, counts, generator))
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = (means - mean) / errors
    apart = np.where(np.isnan(apart), 0.0, apart)
    low, high = np.quantile(apart, [0.025, 0.975], method="lower")
    found = mean - high * error, mean - low * error
    return found if np.isfinite(found).all() else NOTHING


def linearized(sums, counts, bounds, generator):
    if np.ptp(sums / counts) < 1e-9:
        return NOTHING
    mean, error = ratio(sums, counts)
    half = t.ppf(0.975, len(sums) - 1) * error
    return mean - half, mean + half


def wilson(sums, counts, bounds, generator):
    """Wilson's, with the number of facts that independent ones of this error would be."""
    if bounds is None:
        return NOTHING
    low, high = bounds
    n_facts = len(sums)
    mean, error = ratio((sums - low * counts) / (high - low), counts)
    n = n_facts if error < 1e-9 else mean * (1 - mean) / error**2
    z = t.ppf(0.975, n_facts - 1)
    centre = (mean + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(mean * (1 - mean) / n + z**2 / (4 * n**2))
    return low + (high - low) * (centre - half), low + (high - low) * (centre + half)


def pseudo(sums, counts, bounds, generator):
    """t with one fact more at either end of the range, of as many questions as the mean."""
    if bounds is None:
        return NOTHING
    typical = counts.mean()
    return linearized(
        np.concatenate([sums, [bounds[0] * typical, bounds[1] * typical]]),
        np.concatenate([counts, [typical, typical]]),
        bounds,
        generator,
    )


def _quantiles(values, low, high):
    return tuple(np.quantile(values, [low, high]))


def _cell(held: float, wide: float, refused: float) -> str:
    if refused == 1:
        return "refused"
    apart = f" ({100 * (wide + refused):.0f})" if wide + refused >= 0.005 else ""
    return f"{100 * held:.1f}{apart}"


CANDIDATES = {
    "ours": ours,
    "percentile": percentile,
    "bca": bca,
    "studentized": studentized,
    "linearized": linearized,
    "wilson": wilson,
    "pseudo": pseudo,
}

if __name__ == "__main__":
    main()
