"""Measure a series of models one by one: revisions of the hub within a disk budget, or folders.

On disk, under `atlas/<name>/`: `audit.parquet`, `tokens/`, `results/` with one file per revision
and way of measuring, `done/` with one record per revision and request, which says that its rows
exist, and `.work/<commit>/`, the weights that are downloaded or measured now. They are removed as
soon as they are measured; those that a killed process leaves, when the next one starts.
"""

import contextlib
import dataclasses
import json
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tightframe.corpus import hub
from tightframe.corpus.manifest import read_manifest
from tightframe.corpus.sources import check_source, open_source
from tightframe.corpus.tokenization import identity
from tightframe.errors import UserError
from tightframe.files import exclusive, fingerprint, free_disk, remove, write_text
from tightframe.formats import read_json
from tightframe.geometry.checks import check_measurement, no_tokens
from tightframe.geometry.measurement import Measurement
from tightframe.geometry.measures import check_measures
from tightframe.geometry.study import measure_subject, takes
from tightframe.geometry.subject import Subject
from tightframe.jobs.audit import audit_series, series_folder
from tightframe.jobs.series import AtlasOptions, Member, choose_members, hub_members, local_members
from tightframe.lm.folders import is_path
from tightframe.lm.hardware import ALONE
from tightframe.progress import tell
from tightframe.results import ResultTable, gather
from tightframe.tracking import tracker

if TYPE_CHECKING:
    import pandas as pd

METADATA = 4096  # bytes beside each downloaded file, at most
Say = Callable[[str], None]
UNKNOWN = ("weights missing", "not listed")  # verdicts of what cannot be measured
# Options that change which revisions are measured, or how, but no number; texts are read instead.
_NO_NUMBERS = {"revisions", "every_log", "steps", "max_disk", "part", "out", "batch_tokens"}
_NO_NUMBERS |= {"keep_states", "trust_remote_code", "allow_bin", "text", "validation", "device"}
_NO_NUMBERS |= {"device_map", "track"}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Atlas(ResultTable):
    """Measured series of models: its folder, and how each revision ended."""

    path: Path
    measured: tuple[str, ...]  # now
    before: tuple[str, ...]  # whose rows existed
    left_out: dict[str, str]  # revisions whose weights are not their own, and why
    failed: dict[str, str]
    equal: tuple[tuple[str, ...], ...]  # revisions whose tensors are equal, whatever their files

    @property
    def one_line(self) -> str:
        """Numbers of revisions by how they ended."""
        parts = [f"{len(self.measured):,} measured", f"{len(self.before):,} were so before"]
        parts += [f"{len(self.left_out):,} left out"] if self.left_out else []
        parts += [f"{len(self.failed):,} failed"] if self.failed else []
        return f"{self.path}: {', '.join(parts)}"

    def to_pandas(self) -> "pd.DataFrame":
        """Return all rows of the series, as `gather` does: one per measured number."""
        return gather(sorted((self.path / "results").glob("*.jsonl")))


@takes(AtlasOptions)
def atlas(name: Any, /, **options: Any) -> Atlas:
    """Measure a series of models one by one, within a disk budget.

    Each revision is downloaded by its commit, measured as `measure` does, and deleted, while the
    next one is downloaded. The same call resumes what was cut short: what is measured already is
    skipped. Revisions whose weights are not their own, by `audit`, are left out. The results are
    those of one run with many steps, for `relate` and `report`.

    `name` is the name of a model on the hub, or a folder with runs or checkpoints, which are
    measured where they are.
    """
    return measure_series(str(name), AtlasOptions(**options))


def measure_series(name: str, options: AtlasOptions, say: Say = lambda line: None) -> Atlas:
    """Measure a series as `atlas` does; `say` takes a line for each revision."""
    out = series_folder(name, options.out)
    options = dataclasses.replace(options, out=out)
    check_measures(options.measures)
    records = _Records(out / "done", _request(name, options))
    members = choose_members(_members(name, options, say), options)
    left_out, failed, weights, todo = dict[str, str](), dict[str, str](), dict[str, str](), []
    for member in members:
        if member.listed is not None and not member.listed.is_sound:
            is_failure = member.listed.verdict in UNKNOWN
            (failed if is_failure else left_out)[member.name] = member.listed.words
            say(f"{member.name}: {'fails' if is_failure else 'left out'}: {member.listed.words}")
        elif known := records.weights(member):
            weights[member.name] = known
        else:
            todo.append(member)
    before = tuple(weights)
    said = set[str]()

    def say_once(line: str) -> None:
        if line not in said:
            said.add(line)
            say(line)

    with (
        contextlib.closing(_Downloads(name, out / ".work", options)) as downloads,
        tracker(options.track, out),
    ):
        for place, member in enumerate(todo):
            source = member.folder or downloads.folder(member)
            try:
                if member.listed is not None:
                    downloads.wait(member, following=todo[place + 1 : place + 2])
                made, digest = _measured(name, member, source, options, say_once)
                weights[member.name] = digest
                records.write(member, digest, made.paths.values())
                line = "measured" if made.n_computed else "was measured before"
            except UserError as error:
                failed[member.name] = str(error).replace(str(source), f"{name}@{member.name}")
                line = f"fails: {failed[member.name]}"
            finally:
                downloads.remove(member)
            say(f"{member.name} ({place + 1} of {len(todo)}): {line}")
    measured = tuple(one for one in weights if one not in before)
    by_weights: dict[str, list[str]] = {}
    for revision, digest in weights.items():
        by_weights.setdefault(digest, []).append(revision)
    equal = tuple(tuple(names) for names in by_weights.values() if len(names) > 1)
    for names in equal:
        say(f"{' and '.join(names)}: their tensors are equal")
    return Atlas(out, measured, before, left_out, failed, equal)


def _members(name: str, options: AtlasOptions, say: Say) -> list[Member]:
    """Return the models of a folder, or the audited revisions of a name on the hub."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return local_members(folder, options)
    if is_path(name):
        raise UserError(f"{name}: no such folder; expected checkpoints, or a name on the hub")
    made = audit_series(name, options, options.out, say)
    return hub_members(name, made.revisions)


def _request(name: str, options: AtlasOptions) -> str:
    """Return the fingerprint of the text and of all options that change rows."""
    values = {one.name: getattr(options, one.name) for one in dataclasses.fields(options)}
    texts = [text for text in (options.text, options.validation) if text is not None]
    for text in texts:
        check_source(text, field=options.field)
    if not texts and options.tokens is None and not Path(name).expanduser().is_dir():
        raise no_tokens(name)
    documents = options.documents or "files"
    opened = [open_source(x, documents=documents, field=options.field, pinned=True) for x in texts]
    for given in ("tokens", "ood", "shared_with"):
        if (tokens := values[given]) is not None:
            is_path = isinstance(tokens, str | Path)
            manifest = read_manifest(Path(tokens)) if is_path else tokens.manifest
            values[given] = manifest["fingerprint"]
    kept = {given: str(value) for given, value in values.items() if given not in _NO_NUMBERS}
    return fingerprint([kept, [identity(text) for text in opened]])


def _measured(
    name: str, member: Member, source: Path, options: AtlasOptions, say: Say
) -> tuple[Measurement, str]:
    """Measure a member; return its rows and the digest of its weights, and let the model go."""
    at_step = f"{source}@{member.step}" if member.is_run else str(source)
    check_measurement(at_step, options)
    subject = Subject.of(at_step, options, options.out, precision=options.precision)
    snapshot = None
    if member.listed is not None:
        snapshot = hub.Snapshot(source, name, member.name, member.listed.commit)
    subject = dataclasses.replace(
        subject,
        name=member.run,
        step=member.step,
        snapshot=snapshot,
        trained_tokens=member.tokens,
        part=fingerprint([member.run, member.step]),
    )
    made = measure_subject(subject, options, ALONE, say)
    if not options.keep_states:
        remove(subject.states)
    return made, subject.weights


class _Records:
    """Records of revisions whose rows exist, by revision, commit and request."""

    def __init__(self, folder: Path, request: str) -> None:
        self._folder, self._request = folder, request

    def weights(self, member: Member) -> str | None:
        """Return the digest of the weights of a revision; None if its rows do not exist."""
        path = self._path(member)
        if not path.is_file():
            return None
        record = read_json(path)
        exist = all((self._folder.parent / file).is_file() for file in record["results"])
        return str(record["weights"]) if exist else None

    def write(self, member: Member, weights: str, results: Iterable[Path]) -> None:
        """Write that the rows of a revision exist; those of a folder are found by its weights."""
        if member.listed is not None:
            files = [str(path.relative_to(self._folder.parent)) for path in results]
            facts = {"revision": member.name, "commit": member.listed.commit, "weights": weights}
            write_text(self._path(member), json.dumps(facts | {"results": files}) + "\n")

    def _path(self, member: Member) -> Path:
        commit = "" if member.listed is None else member.listed.commit
        return self._folder / f"{fingerprint([member.name, commit, self._request])}.json"


class _Download(NamedTuple):
    """Revision that is downloaded in a thread, or was."""

    size: int
    thread: threading.Thread
    errors: list[Exception]
    lease: contextlib.ExitStack


class _Downloads:
    """Downloaded revisions in `.work`: the one that is measured and, if it fits, the next."""

    def __init__(self, name: str, work: Path, options: AtlasOptions) -> None:
        self._name, self._work, self._options = name, work, options
        self._held: dict[Path, _Download] = {}
        self._closed = threading.Event()
        for left in sorted(work.glob("*")):  # by processes that were killed
            with contextlib.suppress(UserError), exclusive(left, what="revision"):
                remove(left)

    def folder(self, member: Member) -> Path:
        """Return the folder of a revision."""
        assert member.listed is not None
        return self._work / member.listed.commit

    def wait(self, member: Member, *, following: Sequence[Member]) -> None:
        """Wait until a revision is downloaded, and begin the following one if it fits."""
        if not self._begin(member):
            raise UserError(f"{member.name}: is held twice")
        folder = self.folder(member)
        held = self._held[folder]
        while held.thread.is_alive():
            held.thread.join(0.2)
            tell(f"download of {member.name}", min(1.0, _size(folder) / max(1, held.size)))
        if held.errors:
            raise held.errors[0]
        with contextlib.suppress(UserError):  # which is said when its turn comes
            for one in following:
                self._begin(one)

    def _begin(self, member: Member) -> bool:
        """Begin to download a revision; return False if it has to wait for the one that is held."""
        assert member.listed is not None
        folder, listed = self.folder(member), member.listed
        if folder in self._held:
            return True
        given = f"{self._name}@{member.name}"
        names = [file.name for file in listed.files]
        needed = set(hub.needed_files(given, names, allow_bin=self._options.allow_bin))
        files = [file for file in listed.files if file.name in needed]
        size = sum(file.size + METADATA for file in files)
        taken = sum(held.size for held in self._held.values())
        # What is still to be downloaded of the others is not free either.
        free = free_disk(self._work) - taken + sum(map(_size, self._held))
        for room, what in ((self._options.disk, "max_disk allows"), (free, "are free")):
            if size > room or taken + size > self._options.disk:
                if self._held:
                    return False
                raise UserError(
                    f"{given}: takes {size / 1e9:.3g} GB, but {room / 1e9:.3g} GB {what}"
                )
        lease = contextlib.ExitStack()
        lease.enter_context(exclusive(folder, what="revision"))
        errors: list[Exception] = []

        def download() -> None:
            try:
                for file in files:
                    if not self._closed.is_set():
                        hub.download(self._name, listed.commit, file, folder)
            except Exception as error:  # raised by `wait`
                errors.append(error)

        thread = threading.Thread(target=download, daemon=True)
        self._held[folder] = _Download(size, thread, errors, lease)
        thread.start()
        return True

    def remove(self, member: Member) -> None:
        """Remove the weights of a revision."""
        if member.listed is not None and (held := self._held.pop(self.folder(member), None)):
            remove(self.folder(member))
            held.lease.close()

    def close(self) -> None:
        """Remove all weights; a download that is under way ends with its file."""
        self._closed.set()
        for folder, held in self._held.items():
            held.thread.join(1.0)
            remove(folder)
            held.lease.close()
        with contextlib.suppress(OSError):  # another job's weights lie there
            self._work.rmdir()


def _size(folder: Path) -> int:
    """Return the bytes of all files of a folder, which may change meanwhile."""
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size
    return total
