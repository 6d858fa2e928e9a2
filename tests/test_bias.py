"""What is left of the bias of small counts where positions of a document depend on each other."""

import math
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from reference.documents import World, biases

# By what documents have in common, and what plain values and those that take samples for
# independent are off by: percents, a tenth, more than half.
WORLDS = {
    "none": World(),
    "class in document": World(own=0.15),
    "document": World(shared=0.25),
    "class in document, strong": World(own=0.3, bursts=2, distance=0.5),
    "document, strong": World(shared=0.5, bursts=2, distance=0.5),
    "document, half of the classes": World(shared=0.5, sharing=0.5, bursts=2, distance=0.5),
    "class in document, extreme": World(own=0.8, bursts=4, distance=0.06, length=1500),
    "document, extreme": World(shared=0.8, bursts=4, distance=0.06, length=1500),
}
NAMES = (
    *("nc1_cdnv_rom", "nc1_cdnv_med", "nc1_cdnv", "nc3_cos_mean"),
    "gnc2_log_kernel_excess",
)
ESTIMATORS = ("", "_db", "_dbg")
PLAIN = ("nc2_equinorm_std_log", "nc2_equiang_std", "unc3_cos_var")  # without a debiased form
KERNEL = "gnc2_log_kernel_excess_dbg"


def apart(world, n_documents, measures, **options):
    """In a process of its own, whose calls are not type-checked: that takes three times as long."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(biases, world, n_documents, measures, **options).result()


@pytest.mark.parametrize(
    ("name", "off"),
    [
        ("class in document, strong", (0.03, 0.08)),
        ("document, strong", (0.03, 0.08)),
        ("class in document, extreme", (0.45, 0.65)),
    ],
)
def test_ratios_of_means_by_groups_are_right_where_documents_rule(name, off):
    # Sixty documents, three a group. The standard error of a mean of six draws is 0.3 % to 1.5 %.
    measures = ["nc1_cdnv_rom_db", "nc1_cdnv_rom_dbg", "nc1_cdnv_med_dbg", "nc3_cos_mean_dbg"]
    found = biases(WORLDS[name], 60, measures, draws=6)
    assert off[0] < -found["nc1_cdnv_rom_db"].mean < off[1]
    assert abs(found["nc1_cdnv_rom_dbg"].mean) < 0.02
    for measure in measures[2:]:
        assert abs(found[measure].mean) < 0.02 or found[measure].announced == 1, measure


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("n_documents", [60, 150, 400])
def test_the_table_of_biases(n_documents):
    # `pytest -m slow -s tests/test_bias.py` prints it; docs/measures.md has it.
    measures = [f"{name}{estimator}" for name in NAMES for estimator in ESTIMATORS]
    print()
    print("| documents | in common |", " | ".join([*NAMES, "its middle", *PLAIN]), "|")
    print("|" + "---|" * (len(NAMES) + len(PLAIN) + 3))
    for name, world in WORLDS.items():
        found = apart(world, n_documents, [*measures, *PLAIN], draws=60, middles=[KERNEL])
        cells = [" / ".join(_cell(found[f"{x}{e}"]) for e in ESTIMATORS) for x in NAMES]
        cells += [_cell(found[x]) for x in (f"{KERNEL} middle", *PLAIN)]
        print(f"| {n_documents} | {name} |", " | ".join(cells), "|", flush=True)
        for measure in (*(f"{x}_dbg" for x in NAMES), f"{KERNEL} middle"):
            bias = found[measure]
            small = abs(bias.mean) - 2 * bias.error < 0.02
            assert small or bias.announced > 0.9, (name, measure, bias)


def _cell(bias):
    """In percent; with a star where most values carry a reason that says so, or have none."""
    star = "*" if bias.announced > 0.5 else ""
    return "none" if math.isnan(bias.mean) else f"{100 * bias.mean:+.1f}{star}"
