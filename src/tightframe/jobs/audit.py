"""Audit of a series of models on the hub: which revisions have weights of their own.

Public series are damaged: branches that are named after early steps hold the final weights, or one
shard of them, and some hold none. The hub lists the digest of every file, so that all of this is
found out by one request per revision, before anything is downloaded.
"""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tightframe.corpus import hub
from tightframe.corpus.hub import ListedFile, Revision
from tightframe.errors import UserError
from tightframe.files import check_writable, one_at_a_time, whole_file
from tightframe.geometry.options import Place, check_numbers, describe
from tightframe.lm.folders import is_path
from tightframe.progress import tell
from tightframe.results import ResultTable

if TYPE_CHECKING:
    import pandas as pd

FILE = "audit.parquet"  # in the folder of a series
MAIN = "main"
SAVE_EVERY = 50  # requests
Say = Callable[[str], None]
Verdict = Literal["fine", "equal", "partly equal", "weights missing", "not listed"]

_SHARD = re.compile(r"-(\d+)-of-(\d+)\.\w+$")
_TOKENIZER = ("tokenizer", "vocab", "merges", "special_tokens")  # how files of tokenizers begin


@dataclasses.dataclass(frozen=True)
class ListedRevision:
    """Revision of a model as the hub lists it, and the verdict on it."""

    revision: str
    commit: str
    files: tuple[ListedFile, ...] = ()
    error: str = ""  # why its files are not listed
    verdict: Verdict | None = None
    notes: tuple[str, ...] = ()  # what else there is to say, and which others it is equal to
    tokens: int | None = None  # of training, until then

    @property
    def progress(self) -> Revision:
        """Stage, branch, step and tokens that the name tells."""
        progress = hub.parse_revision(self.revision)
        assert progress is not None
        return progress

    @cached_property
    def weights(self) -> dict[str, dict[str, str]]:
        """Digest of each file of weights, by format and name."""
        digests = {file.name: file.digest for file in self.files}
        formats = hub.weight_files(list(digests))
        return {kind: {name: digests[name] for name in names} for kind, names in formats.items()}

    @property
    def size(self) -> int:
        """Bytes of the weights in the format that would be downloaded."""
        names = next(iter(self.weights.values()), {})
        return sum(file.size for file in self.files if file.name in names)

    @property
    def described(self) -> tuple[str, str]:
        """Digests of config.json and of the tokenizer's files."""
        config = [file.digest for file in self.files if file.name == "config.json"]
        tokenizer = [f"{f.name} {f.digest}" for f in self.files if f.name.startswith(_TOKENIZER)]
        return "".join(config), "\n".join(sorted(tokenizer))

    @property
    def is_sound(self) -> bool:
        """True if the weights are there and are those of no other revision."""
        return self.verdict == "fine"

    @property
    def words(self) -> str:
        """Verdict and notes in one line."""
        plain = [] if self.verdict == "equal" else [str(self.verdict)]
        return "; ".join([*plain, *self.notes])


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Audit(ResultTable):
    """Verdicts on the revisions of a model on the hub, in the order of training."""

    name: str
    path: Path  # audit.parquet
    revisions: tuple[ListedRevision, ...]
    not_understood: tuple[str, ...]  # names that tell no step

    @property
    def one_line(self) -> str:
        """Number of revisions by verdict."""
        counts = Counter(one.verdict for one in self.revisions)
        parts = [f"{n:,} {verdict}" for verdict, n in counts.most_common()]
        return f"{self.name}: {len(self.revisions):,} revisions, {', '.join(parts)}"

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row per revision: name, commit, progress, format, bytes and verdict."""
        return _table(self.revisions).drop(columns="files")

    def summary(self) -> str:
        """Return one line per revision, the names that tell no step, and the counts."""
        width = max(len(one.revision) for one in self.revisions)
        lines = []
        for one in self.revisions:
            formats = ", ".join(one.weights)
            size = f"{one.size / 1e9:.3g} GB"
            lines.append(f"{one.revision:{width}}  {size:>10}  {formats:16}  {one.words}")
        if self.not_understood:
            lines.append(f"not understood as steps: {', '.join(self.not_understood)}")
        return "\n".join([*lines, self.one_line])


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeriesOptions:
    """Options on the revisions of a series.

    Args:
        revisions: Pattern of the names of revisions or checkpoints, such as "step*".
        tokens_per_step: Training tokens per step, for names that tell steps only.
    """

    revisions: str = "*"
    tokens_per_step: int | None = None

    def __post_init__(self) -> None:
        check_numbers(tokens_per_step=self.tokens_per_step)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditOptions(SeriesOptions):
    """Options of an audit.

    Args:
        out: Folder of the series (default: atlas/NAME).
    """

    out: Place | None = None


def audit(name: str, /, **options: Any) -> Audit:
    """Audit a series of revisions on the Hugging Face hub without downloading weights.

    One request lists the revisions, and one for each of them its files with their digests. What was
    listed before is read from `audit.parquet`, because a commit never changes. Returned is a
    verdict for each revision whose name tells its step; `main` is compared with them.

    `name` is the name of the model on the hub, as NAME or OWNER/NAME.
    """
    given = AuditOptions(**options)
    return audit_series(name, given, given.out)


describe(audit, AuditOptions)


def audit_series(
    name: str, options: SeriesOptions, out: str | Path | None, say: Say = lambda line: None
) -> Audit:
    """Audit a series as `audit` does; `say` takes a line on what could not be listed."""
    if is_path(name) or Path(name).is_dir():
        raise UserError(f"{name}: is a folder or a path; an audit is of a name on the hub")
    path = series_folder(name, out) / FILE
    check_writable(path.parent)
    commits = hub.references(name)
    chosen = [one for one in commits if fnmatchcase(one, options.revisions)]
    understood = [one for one in chosen if hub.parse_revision(one) is not None]
    if not understood:
        some = f", such as {', '.join(sorted(commits)[:3])}" if commits else ""
        raise UserError(
            f"{name}: none of its {len(commits)} revisions{some}, is a step that matches "
            f"'{options.revisions}'; give another --revisions"
        )
    with one_at_a_time(path):  # parts of a job that begin at once: one asks, the others read
        known = _read(path)
        # What an earlier audit listed is compared, too, and first, so that no writing loses it.
        beside = [one.revision for one in known if commits.get(one.revision) == one.commit]
        wanted = dict.fromkeys([*beside, *understood, *({MAIN} & set(commits))])
        listings = _listed(name, {one: commits[one] for one in wanted}, known, path, say)
        audited = verdicts(listings, ends_of(commits), options.tokens_per_step)
        _write(path, audited, listings)
    audited = [one for one in audited if one.revision in understood]
    others = sorted({*chosen} - {*understood})
    return Audit(name, path, tuple(audited), tuple(others))


def series_folder(name: str, out: str | Path | None) -> Path:
    """Return the folder of a series: the given one, or atlas/NAME."""
    return Path("atlas") / Path(name).expanduser().resolve().name if out is None else Path(out)


def _listed(
    name: str,
    commits: Mapping[str, str],
    earlier: Iterable[ListedRevision],
    path: Path,
    say: Say,
) -> list[ListedRevision]:
    """Return the files of each revision, those of known commits without a request."""
    known = {one.commit: one.files for one in earlier}
    listings: list[ListedRevision] = []
    unsaved = 0
    try:
        for place, (revision, commit) in enumerate(commits.items()):
            tell("files of revisions", place / len(commits))
            error = ""
            if commit not in known:
                try:
                    known[commit] = tuple(hub.listed_files(name, commit))
                except UserError as refused:
                    error = str(refused)
                    say(f"{revision}: {error}")
                unsaved += 1
            listings.append(ListedRevision(revision, commit, known.get(commit, ()), error))
            if unsaved >= SAVE_EVERY:
                _write(path, (), listings)
                unsaved = 0
    except BaseException:
        if unsaved:
            _write(path, (), listings)
        raise
    return listings


def verdicts(
    listings: Sequence[ListedRevision], ends: Iterable[str], tokens_per_step: int | None = None
) -> list[ListedRevision]:
    """Return the verdict on each revision that is a step, in the order of training.

    Args:
        listings: All revisions, and main.
        ends: Last steps, one of which main may be.
        tokens_per_step: For names that tell no tokens.
    """
    steps = [one for one in listings if one.revision != MAIN]
    steps.sort(key=lambda one: order_of(one.revision))
    main = next((one for one in listings if one.revision == MAIN), None)
    described = [one.described for one in steps if not one.error]
    usual = [Counter(kind).most_common(1)[0][0] for kind in zip(*described, strict=True)]
    audited = []
    for one in steps:
        verdict, notes = _of_weights(one, steps, main, one.revision in ends)
        if not one.error:
            kinds = zip(("config", "tokenizer"), one.described, usual, strict=True)
            notes += [f"another {what} than most" for what, own, most in kinds if own != most]
        tokens = one.progress.tokens
        if tokens is None and tokens_per_step is not None:
            tokens = one.progress.step * tokens_per_step
        audited.append(dataclasses.replace(one, verdict=verdict, notes=tuple(notes), tokens=tokens))
    return audited


def order_of(revision: str) -> tuple[int, str, int]:
    """Return the place of a revision in training: stage, branch and step."""
    progress = hub.parse_revision(revision)
    assert progress is not None
    return progress.stage or 0, progress.branch or "", progress.step


def ends_of(names: Iterable[str]) -> set[str]:
    """Return the last step of each stage and branch."""
    ordered = sorted((one for one in names if hub.parse_revision(one) is not None), key=order_of)
    return set({order_of(one)[:2]: one for one in ordered}.values())


def _of_weights(
    one: ListedRevision, steps: Sequence[ListedRevision], main: ListedRevision | None, is_end: bool
) -> tuple[Verdict, list[str]]:
    """Return the verdict on the weights of a revision, and what they are equal to."""
    if one.error:
        return "not listed", [one.error]
    if lacking := _lacking(one):
        return "weights missing", [] if lacking == [""] else [f"no {', '.join(lacking)}"]
    equal = [other for other in steps if other is not one and _shared(one, other) == "all"]
    if main is not None and _shared(one, main) == "all":
        # Where main is the last step, it is the others that are wrong.
        return ("fine", [f"is {MAIN}"]) if is_end else ("equal", [f"equal to {MAIN}"])
    notes = [f"equal to {', '.join(other.revision for other in equal)}"] if equal else []
    # A learning rate that begins at 0 changes nothing in the first step.
    if equal and {each.progress.step for each in (one, *equal)} != {0, 1}:
        return "equal", notes
    for other in (main, *steps):
        if other is not None and other is not one and isinstance(part := _shared(one, other), list):
            return "partly equal", [*notes, f"{', '.join(part)} of {other.revision}"]
    return "fine", notes


def _lacking(one: ListedRevision) -> list[str]:
    """Return the shards that the names of others promise; an empty name for all weights."""
    if not one.weights:
        return [""]
    lacking = []
    for names in one.weights.values():
        for name in names:
            if found := _SHARD.search(name):
                stem, width = name[: found.start()], len(found[1])
                every = [
                    f"{stem}-{number:0{width}}-of-{found[2]}{Path(name).suffix}"
                    for number in range(1, int(found[2]) + 1)
                ]
                lacking += [shard for shard in every if shard not in names]
    return list(dict.fromkeys(lacking))


def _shared(one: ListedRevision, other: ListedRevision) -> Literal["all", "none"] | list[str]:
    """Return how much of the weights two revisions share: a list of shards where it is a part."""
    for kind, own in one.weights.items():
        theirs = set(other.weights.get(kind, {}).values())
        same = [name for name, digest in own.items() if digest in theirs]
        if same:
            return "all" if set(own.values()) == theirs else same
    return "none"


def _table(
    audited: Sequence[ListedRevision], rest: Sequence[ListedRevision] = ()
) -> "pd.DataFrame":
    import pandas as pd

    rows: list[dict[str, Any]] = [
        {
            "revision": one.revision,
            "commit": one.commit,
            **one.progress._asdict(),
            "tokens": one.tokens,
            "format": ", ".join(one.weights),
            "bytes": one.size,
            "verdict": one.verdict,
            "notes": "; ".join(one.notes),
            "files": json.dumps(one.files),
        }
        for one in audited
    ]
    rows += [
        {"revision": one.revision, "commit": one.commit, "files": json.dumps(one.files)}
        for one in rest
    ]
    whole = [name for name in ("stage", "step", "tokens", "bytes") if audited]
    return pd.DataFrame(rows).astype(dict.fromkeys(whole, "Int64"))


def _write(
    path: Path, audited: Sequence[ListedRevision], listings: Sequence[ListedRevision]
) -> None:
    """Write what is known of the listed revisions; those without a verdict have their files."""
    known = {one.revision for one in audited}
    rest = [one for one in listings if one.revision not in known and not one.error]
    with whole_file(path) as temporary:
        _table(audited, rest).to_parquet(temporary, index=False)


def _read(path: Path) -> list[ListedRevision]:
    """Return the revisions of an earlier audit whose files were listed."""
    import pandas as pd

    if not path.is_file():
        return []
    try:
        table = pd.read_parquet(path, columns=["revision", "commit", "files"])
        return [
            ListedRevision(revision, commit, tuple(ListedFile(*file) for file in json.loads(files)))
            for revision, commit, files in table.itertuples(index=False)
            if json.loads(files)
        ]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not an audit ({error}); remove it and run again") from None
