"""The published experiment: free features and a Transformer on a small context table.

    python -m studies.small_sets.run configs/ntp-*.toml --report docs/results/ntp

Each configuration is one arm on one set. What belongs to the set (its table, the certified limit,
the ridge path) is made by the first of its configurations; what is finished is kept. On disk,
under `ntp/<set>/`: the table, `solutions/limit.safetensors`, `runs/<name>.safetensors` (classifier
and embeddings of every kept checkpoint) and `results/<name>.jsonl`, names being the arms and
`path`.
"""

import argparse
import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic
import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from studies.small_sets.sets import stories_set, synthetic_set
from studies.small_sets.tables import report_study
from studies.small_sets.training import TransformerOnTable, train_on_table
from tightframe.errors import UserError
from tightframe.files import one_at_a_time
from tightframe.jobs.programs import endings_in_one_line, say
from tightframe.ntp.comparison import References, compare_embeddings, shuffled_groups
from tightframe.ntp.model import ModelCheckpoint, load_model_checkpoints, save_model_checkpoints
from tightframe.ntp.prediction import proxy
from tightframe.ntp.ridge import lambda_max, ridge_path
from tightframe.ntp.svm import solve_svm
from tightframe.ntp.table import ContextTable, load_table, save_table, table_fingerprint
from tightframe.ntp.ufm import train_ufm
from tightframe.results import Header, Row, write_rows
from tightframe.settings import as_dict, read_toml, resolve

GAP = 1e-6  # of the limit
EARLY = (0, 1, 3, 10, 30, 100, 300)  # steps that are kept, beside thirty evenly
EVENLY = 30
SHUFFLES = 5  # draws of random supports, for the baseline; equal ones stay equal
NEEDS_A_MODEL = ("ntp_outside",)  # measures that a table's own tokens say nothing of
SETS = {"synthetic": synthetic_set, "stories": stories_set}


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class StudySettings:
    """One arm on one set."""

    set: Literal["synthetic", "stories"]  # 30 words x 16 contexts, or 104 x 403
    arm: Literal["ufm", "transformer"]
    set_seed: NonNegativeInt = 0  # of the text, and of all choices in the set

    width: PositiveInt = 128  # length of an embedding
    depth: PositiveInt = 4  # blocks of the Transformer
    heads: PositiveInt = 4  # of the Transformer

    steps: PositiveInt = 30_000
    learning_rate: PositiveFloat = 1e-4  # of AdamW, at the start
    milestones: tuple[NonNegativeInt, ...] = ()  # steps after which the rate falls
    factor: PositiveFloat = 1.0  # to this share of what it was
    weight_decay: NonNegativeFloat = 1e-6
    seed: NonNegativeInt = 0  # of the weights at the start

    down_to: PositiveFloat = 1e-7  # the least ridge of the path
    per_decade: PositiveInt = 2  # its points

    @property
    def decays(self) -> dict[int, float]:
        """Factors of the rate by the step that they follow."""
        return dict.fromkeys(self.milestones, self.factor)

    @property
    def checkpoints(self) -> list[int]:
        """Steps that are kept: dense at the start, then thirty evenly, each thousand of 30,000."""
        every = max(1, self.steps // EVENLY)
        return sorted(
            {step for step in EARLY if step < self.steps}
            | {*range(every, self.steps + 1, every), self.steps}
        )


@dataclasses.dataclass(frozen=True)
class Place:
    """A set's folder, with what all its arms share."""

    folder: Path
    table: ContextTable
    references: References


@dataclasses.dataclass(frozen=True)
class Point:
    """What is compared with the theory: a checkpoint, or a point of the ridge path."""

    step: int  # of the training, or number of the point
    classifier: Float[np.ndarray, "V D"]
    embeddings: Float[np.ndarray, "M D"]
    more: dict[str, float] = dataclasses.field(default_factory=dict)  # other numbers to write


def study(config: Path, *, out: Path, say: Callable[[str], None]) -> Path:
    """Run one configuration; what is finished is kept.

    Args:
        config: Of `StudySettings`, as TOML.
        out: Folder that takes a folder for each set.
        say: Gets a line for every step.

    Returns:
        The folder of the set.
    """
    settings = resolve(StudySettings, read_toml(config), source=str(config))
    folder = out / settings.set
    with one_at_a_time(folder):
        place = _prepared(folder, settings, say)
    checkpoints = _trained(place, settings, say)
    _write_rows(place, settings.arm, checkpoints, as_dict(settings))
    return folder


def _prepared(folder: Path, settings: StudySettings, say: Callable[[str], None]) -> Place:
    """Table, limit and path of the set, made where they are missing."""
    if not folder.exists():
        say(f"making the set {settings.set} in {folder}")
        save_table(folder, SETS[settings.set](settings.set_seed))
    table = load_table(folder)
    if table.source["seed"] != settings.set_seed:
        raise UserError(
            f"{folder}: drawn with seed {table.source['seed']}, but set_seed is "
            f"{settings.set_seed}; remove the folder, or choose another --out"
        )
    limit = folder / "solutions" / "limit.safetensors"
    if not limit.exists():
        solution = solve_svm(table.support, GAP)
        solution.save(limit, {"table": table_fingerprint(folder)})
        say(f"limit: |L_mm|_* = {solution.upper:.4f}, gap {solution.gap:.1e}, {limit}")
    references = References.read(
        folder, table.soft_labels, table_fingerprint(folder), shuffles=0, seed=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # on supports that nobody asked about
        drawn = tuple(proxy(shuffled_groups(table.support, seed)) for seed in range(SHUFFLES))
    place = Place(folder, table, dataclasses.replace(references, shuffled=drawn))
    if not (folder / "results" / "path.jsonl").exists():
        say(f"ridge path of {folder}")
        path = {"down_to": settings.down_to, "per_decade": settings.per_decade}
        _write_rows(place, "path", _path(place, settings), path)
    return place


def _path(place: Place, settings: StudySettings) -> list[Point]:
    """Optima from just below the ridge where zero is one down to the least that is asked for."""
    labels = place.table.soft_labels
    largest = 0.97 * lambda_max(labels)
    count = 1 + math.ceil(settings.per_decade * math.log10(largest / settings.down_to))
    lambdas = np.geomspace(largest, settings.down_to, max(count, 2))
    dim = min(labels.vocab_size - 1, labels.n_contexts)  # enough for the problem to be convex
    return [
        Point(i, found.classifier, found.embeddings, {"lambda": found.lam, "relgap": found.relgap})
        for i, found in enumerate(ridge_path(labels, lambdas.tolist(), dim=dim))
    ]


def _trained(place: Place, settings: StudySettings, say: Callable[[str], None]) -> list[Point]:
    """The kept checkpoints of the arm, trained now if there is no file of them."""
    path = place.folder / "runs" / f"{settings.arm}.safetensors"
    about = {"settings": as_dict(settings), "table": place.table.source}
    if path.exists():
        checkpoints, earlier = load_model_checkpoints(path)
        if earlier != about:
            raise UserError(
                f"{path}: trained with other settings or on another table; remove it, or choose "
                "another --out"
            )
        say(f"{path} is finished")
    else:
        say(f"training {settings.arm} on {place.folder}: {settings.steps:,} steps")
        checkpoints = _train(place.table, settings)
        save_model_checkpoints(path, checkpoints, about)
    return [
        Point(step, classifier.astype(float), embeddings.astype(float))
        for step, classifier, embeddings in checkpoints
    ]


def _train(table: ContextTable, settings: StudySettings) -> list[ModelCheckpoint]:
    course: dict[str, Any] = {
        "steps": settings.steps,
        "learning_rate": settings.learning_rate,
        "decays": settings.decays,
        "weight_decay": settings.weight_decay,
    }
    if settings.arm == "transformer":
        model = TransformerOnTable(
            table,
            width=settings.width,
            depth=settings.depth,
            heads=settings.heads,
            seed=settings.seed,
        )
        return train_on_table(model, table, checkpoints=settings.checkpoints, **course)
    run = train_ufm(
        table.soft_labels,
        dim=settings.width,
        optimizer="adamw",
        n_pairs=table.n_pairs,
        seed=settings.seed,
        log_steps=settings.checkpoints,
        **course,
    )
    return [
        ModelCheckpoint(
            found.step, found.classifier.astype(np.float32), found.embeddings.astype(np.float32)
        )
        for found in run.checkpoints
    ]


def _write_rows(place: Place, name: str, points: Sequence[Point], settings: dict[str, Any]) -> None:
    """What the theory says of every point, as one results file; a finished one is left alone."""
    path = place.folder / "results" / f"{name}.jsonl"
    if path.exists():
        return
    run = f"{place.folder.name}-{name}"
    rows = [row for point in points for row in _rows(place, run, point)]
    labels = place.table.soft_labels
    header = Header(
        run=run,
        step=points[-1].step,
        model={"name": name, "width": points[-1].classifier.shape[1]},
        tokens={
            "name": place.folder.name,
            "fingerprint": table_fingerprint(place.folder),
            "vocab_size": labels.vocab_size,
            "contexts": labels.n_contexts,
            "pairs": place.table.n_pairs,
            "empirical_entropy": labels.entropy,
        },
        settings=settings,
        measurement=place.references.facts
        | {"shuffles": SHUFFLES, "shuffled": "groups", "threads": torch.get_num_threads()},
    )
    write_rows(path, header, rows)


def _rows(place: Place, run: str, point: Point) -> Iterator[Row]:
    references = place.references
    with warnings.catch_warnings():
        # Said once by the set: that no two contexts share a support.
        warnings.simplefilter("ignore", UserWarning)
        values = compare_embeddings(
            point.classifier,
            point.embeddings,
            place.table.soft_labels,
            references.solution,
            proxy=references.proxy,
            shuffled=references.shuffled,
        ).values
    numbers = {
        name: (value.value, value.n, value.excluded, value.reason)
        for name, value in values.items()
        if name not in NEEDS_A_MODEL
    }
    numbers |= {f"ntp_{name}": (value, 1, 0, "") for name, value in point.more.items()}
    for name, (value, n, excluded, reason) in numbers.items():
        yield Row(
            run,
            point.step,
            "train",
            0,
            "support",
            "all",
            name,
            value,
            n,
            1,
            excluded,
            reason=reason,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the configurations in order, then draw what all sets have."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("configs", nargs="+", type=Path, metavar="CONFIG.toml")
    parser.add_argument("--out", type=Path, default=Path("ntp"), help="takes a folder for each set")
    parser.add_argument(
        "--report",
        type=Path,
        help="takes figures and tables; the report folder of each set by default",
    )
    given = parser.parse_args(arguments)
    with endings_in_one_line():
        folders = [study(config, out=given.out, say=say) for config in given.configs]
        for folder in dict.fromkeys(folders):
            for path in report_study(folder, given.report or folder / "report"):
                print(path)


if __name__ == "__main__":
    main()
