"""Options of `relate`: what is related, and what was decided before."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tightframe.errors import UserError

LOSS = "val_loss"
# The seven properties of the published Table 1, in its order.
TESTED = (
    "nc1_cdnv_p2",
    "nc2_equinorm_cov_log",
    "nc2_equiang_cov",
    "gnc2_log_kernel_cov_unc",
    "nc3_cos_mean",
    "unc3_cos_cov",
    "nc4_hits",
)
RANGES = {
    "alpha": (1e-9, 0.5),
    "margin": (0, 1),
    "permutations": (1, 10_000_000),
    "draws": (100, 1_000_000),
    "seed": (0, 2**32 - 1),
}


@dataclasses.dataclass(frozen=True)
class RelateOptions:
    """Options of `relate`, with all that was decided before.

    Attributes:
        y: Column that is explained.
        controls: Numeric columns that are held fixed; `log_NAME` takes the logarithm, `A:B` the
            product of two columns.
        fixed: Columns whose every value has an effect of its own, such as architecture.
        clusters: Columns whose rows depend on each other; by default run, where there is such a
            column. Of several, permutations use the first, and the interval is the widest.
        family: Column whose values are left out one by one for `gain`.
        within: Column whose values are strata; correlations are given inside each of them, too.
        measures: Columns that are tested; together they are the family of tests.
        direction: Expected sign of the correlation by measure: 1, -1, or 0 for none. By default it
            is that of more collapse with lower loss, for the measures of the catalogue.
        correction: How p values are adjusted for the verdict: "holm", "bh" or "maxt".
        alpha: Level of the tests.
        margin: A correlation whose interval lies within it counts as no association.
        permutations: Number of random permutations.
        draws: Number of bootstrap draws.
        seed: Seed of permutations and draws.
    """

    y: str = LOSS
    controls: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    clusters: tuple[str, ...] = ()
    family: str = ""
    within: str = ""
    measures: tuple[str, ...] = TESTED
    direction: dict[str, Literal[-1, 0, 1]] | None = None
    correction: Literal["holm", "bh", "maxt"] = "holm"
    alpha: float = 0.05
    margin: float = 0.1
    permutations: int = 10_000
    draws: int = 2_000
    seed: int = 0


def resolve_options(options: RelateOptions, settings: Mapping[str, Any]) -> RelateOptions:
    """Return options with some fields replaced; a single name may stand for a tuple of one."""
    from tightframe.settings import resolve  # imports pydantic, which help does without

    several = ("controls", "fixed", "clusters", "measures")
    plain = {
        name: (value,) if name in several and isinstance(value, str) else value
        for name, value in settings.items()
    }
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    made = resolve(RelateOptions, values | plain, source="relate")
    for name, (least, most) in RANGES.items():
        value = getattr(made, name)
        if not least <= value <= most:
            raise UserError(f"{name} is {value:g}, expected {least:g} to {most:g}")
    return made


def with_rule(path: Path, typed: RelateOptions) -> RelateOptions:
    """Return the options in the table [relate] of a TOML file, with typed ones in their place."""
    from tightframe.settings import read_toml, resolve

    values = read_toml(path).get("relate")
    if not isinstance(values, dict):
        raise UserError(f"{path}: no table [relate]; expected the options of `relate` in it")
    plain, usual = dataclasses.asdict(typed), dataclasses.asdict(RelateOptions())
    given = {name: value for name, value in plain.items() if value != usual[name]}
    return resolve(RelateOptions, {**values, **given}, source=str(path))


def rules_of(sources: Sequence[Path]) -> list[Path]:
    """Return the files of sweeps that declare a rule, in a table [relate]."""
    from tightframe.settings import read_toml

    files = [path / "sweep.toml" for path in sources]
    return [file for file in files if file.is_file() and read_toml(file).get("relate")]
