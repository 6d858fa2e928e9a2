"""How many 95 % intervals hold the truth, in worlds like text, by documents and measure."""

import math

from reference.worlds import WORLDS, Text
from tightframe.collapse.measures import metrics
from tightframe.collapse.resampling import (
    plan_halving,
    plan_leaving_out,
    survivors,
    usual_min_count,
)

DOCUMENTS = (60, 150, 400)  # in 20 groups: three documents each is the hard case
MEASURES = (
    *("nc1_cdnv_med_db", "nc1_cdnv_rom_db", "nc2_equinorm_std_log", "nc2_equiang_std"),
    *("gnc2_log_kernel_excess", "gnc2_log_kernel_excess_db", "nc3_cos_mean", "nc3_cos_mean_db"),
    *("unc3_cos_var", "rank_pr"),
)
DRAWS = 400  # of each cell: the standard error of a coverage of 0.95 is 0.011
LEAST, MOST = 0.93, 0.97  # of the intervals hold the truth
SHOWN = 0.1  # share of draws with an interval, below which a cell counts as refused


class Cell:
    """Intervals of one measure in one world."""

    def __init__(self):
        self.draws = self.shown = self.held = 0

    def add(self, value, truth):
        """Count one draw."""
        self.draws += 1
        if not math.isnan(value.low):
            self.shown += 1
            self.held += value.low <= truth <= value.high

    @property
    def coverage(self):
        """Share of the intervals that hold the truth; NaN where they are refused."""
        refused = self.shown < max(1, SHOWN * self.draws)
        return math.nan if refused else self.held / self.shown

    @property
    def agrees(self):
        """Whether it is refused, or within two standard errors of 0.93 to 0.97."""
        if math.isnan(self.coverage):
            return True
        low, high = (
            sign * 2 * math.sqrt(p * (1 - p) / self.shown) for sign, p in ((-1, LEAST), (1, MOST))
        )
        return LEAST + low <= self.coverage <= MOST + high


def count(population_of, n_documents, draws, measures=MEASURES):
    """Count the intervals that hold the truth over some draws, with the settings of a user.

    Args:
        population_of: Gives the population of each draw.
        n_documents: Documents of each.
    """
    cells = {name: Cell() for name in measures}
    for draw in range(draws):
        population = population_of(draw)
        moments = population.sample(n_documents)
        least = usual_min_count(moments.counts_by_group)
        if least is None:
            for name in measures:
                cells[name].draws += 1
            continue
        values = metrics(moments, population.classifier, measures=measures, min_count=least)
        truth = population.truth(measures, over(moments, least))
        for name in measures:
            cells[name].add(values[name], truth[name])
    return cells


def of_text(world, n_documents, draws, *, seed=0):
    """Count in a made world, each draw from another population."""
    return count(lambda draw: Text(WORLDS[world], [seed, draw]), n_documents, draws)


def over(moments, least):
    """Tell which classes intervals are over."""
    plan = plan_leaving_out(range(moments.n_groups)) + plan_halving(moments.n_groups)
    return survivors(moments.counts_by_group, plan) & (moments.counts >= least)
