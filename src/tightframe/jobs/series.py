"""Members of a series: revisions on the hub or folders of checkpoints, and a choice of them."""

import dataclasses
import math
import re
from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeAlias

from tightframe.corpus import hub
from tightframe.errors import UserError
from tightframe.geometry.options import MeasureOptions, check_numbers, share_of
from tightframe.jobs.audit import ListedRevision, SeriesOptions
from tightframe.lm.folders import DESCRIPTION
from tightframe.lm.runs import Run

if TYPE_CHECKING:
    Steps: TypeAlias = Sequence[int]
else:
    Steps = Annotated[Any, tuple[int, ...]]

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kMGT]?)B?")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtlasOptions(MeasureOptions, SeriesOptions):
    """Options of measuring a series of models.

    Args:
        every_log: Number of steps to take, evenly spaced in their logarithms; step 0 is one.
        steps: Steps to take: 0,1,2,4.
        max_disk: Maximum disk space for downloaded weights, such as 30GB. Two revisions are held
            where it allows: one is downloaded while another is measured.
        part: I/N: the I-th of N shares of the revisions, for several jobs.
    """

    every_log: int | None = None
    steps: Steps = ()
    max_disk: str | None = None
    part: str = "1/1"
    keep_states: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "steps", tuple(self.steps or ()))
        check_numbers(every_log=self.every_log, tokens_per_step=self.tokens_per_step)
        share_of(self.part)
        if self.steps and self.every_log is not None:
            raise UserError("--steps and --every-log: give one of them")
        one = "is for one model of a series: `tightframe measure NAME@REVISION`"
        for name in ("step", "random_weights", "subfolder"):
            if (given := getattr(self, name)) is not None:
                raise UserError(f"{name} {given}: {one}")
        if self.max_disk is not None and not _SIZE.fullmatch(self.max_disk):
            raise UserError(f"max_disk is '{self.max_disk}'; expected a size such as 30GB")

    @property
    def disk(self) -> float:
        """Maximum number of bytes of downloaded weights."""
        found = _SIZE.fullmatch(self.max_disk or "")
        return float(found[1]) * _UNITS[found[2]] if found else math.inf


class Member(NamedTuple):
    """Model of a series."""

    name: str  # its revision, or its place in the folder
    run: str  # name in rows
    step: int
    tokens: int | None  # of training, until then
    folder: Path | None = None  # of a model on this machine
    is_run: bool = False  # of ours, with several checkpoints
    listed: ListedRevision | None = None  # on the hub


def hub_members(name: str, listed: Iterable[ListedRevision]) -> list[Member]:
    """Return the revisions of a model on the hub as members of its series."""
    short = name.rpartition("/")[2]
    return [
        Member(one.revision, _run(short, one.progress), one.progress.step, one.tokens, listed=one)
        for one in listed
    ]


def local_members(folder: Path, options: AtlasOptions) -> list[Member]:
    """Return the checkpoints of a folder: those of runs, and models that are named after steps.

    They may lie in the folder or in folders below it, such as the outputs of several trainings.
    """
    places = [folder.resolve()]
    if not (folder / "config.toml").is_file():
        places = [place for pattern in ("*", "*/*") for place in sorted(folder.glob(pattern))]
    members = []
    for place in places:
        name = place.relative_to(folder).as_posix() if place.is_relative_to(folder) else place.name
        if (place / "config.toml").is_file():
            run = Run.open(place)
            members += [
                Member(f"{name}@{step}", run.name, step, _tokens(step, options), place, True)
                for step in run.steps
            ]
        elif (place / DESCRIPTION).is_file() and (told := hub.parse_revision(place.name)):
            tokens = _tokens(told.step, options) if told.tokens is None else told.tokens
            above = place.resolve().parent.name
            members.append(Member(name, _run(above, told), told.step, tokens, place))
    found = [
        one
        for one in members
        if fnmatchcase(one.name, options.revisions)
        or fnmatchcase(one.name.rpartition("/")[2], options.revisions)
    ]
    if not found:
        raise UserError(
            f"{folder}: {len(members)} checkpoints, none of which matches '{options.revisions}'; "
            "expected runs, or models in folders such as checkpoint-400 or step1000"
        )
    return sorted(found, key=lambda one: (one.run, one.step))


def _run(name: str, told: hub.Revision) -> str:
    """Return the name in rows: a stage or branch is a series of its own."""
    stage = None if told.stage is None else f"stage{told.stage}"
    apart = "-".join(filter(None, [stage, told.branch]))
    return f"{name}@{apart}" if apart else name


def _tokens(step: int, options: AtlasOptions) -> int | None:
    return None if options.tokens_per_step is None else step * options.tokens_per_step


def choose_members(members: Sequence[Member], options: AtlasOptions) -> list[Member]:
    """Return the members of the steps that were requested, and of these the requested share."""
    known = {one.step for one in members}
    if missing := sorted(set(options.steps) - known):
        some = ", ".join(map(str, sorted(known)[:8])) + (", ..." if len(known) > 8 else "")
        raise UserError(f"steps: there is no step {missing[0]}; there are {some}")
    wanted = set(options.steps) or known
    if options.every_log is not None:
        # A damaged revision is not worth a place among few.
        sound = [one.step for one in members if one.listed is None or one.listed.is_sound]
        wanted = spaced(sound or known, options.every_log)
    i, n = share_of(options.part)
    return [one for one in members if one.step in wanted][i - 1 :: n]


def spaced(steps: Collection[int], n: int) -> set[int]:
    """Return about n of these steps, evenly spaced in their logarithms, with the last one."""
    positive = sorted({step for step in steps if step > 0})
    if n == 1 or not positive:
        return {max(steps)}
    chosen = {0} & set(steps)
    n -= len(chosen)
    ends = [math.log(positive[-1]), math.log(positive[0])]
    for place in range(n):
        at = ends[0] + (ends[1] - ends[0]) * place / max(1, n - 1)
        chosen.add(min(positive, key=lambda step: abs(math.log(step) - at)))
    return chosen
