"""Files that are written whole or not at all, and fingerprints that tell when one has changed.

A file or folder that is being written is `.NAME.OWNER.part` beside NAME. The owner is a host, a
process number and the start time of the process, since the number alone may belong to another
process by now. Whoever writes NAME next removes what dead processes of this host have left of it.
A part of another host (or container) cannot be checked: it is left alone until it is a week old.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from tightframe.errors import UserError
from tightframe.leases import HEARTBEAT, Lease, host_id, process_id

_PART = re.compile(r"\.(?P<name>.+)\.(?P<host>[0-9a-f]{8})-(?P<process>\d+-\d+)\.part", re.DOTALL)

_REASONS = {
    errno.ENOSPC: "no space left on the disk; free some and run again",
    errno.EDQUOT: "no space left on the disk; free some and run again",
    errno.EIO: "the disk reports an error; check it, or choose another place",
    errno.EROFS: "cannot be written; check its permissions",
    errno.ENOENT: "no such file or folder",
    errno.EEXIST: "a file stands where a folder is needed; name another place",
    errno.ENOTDIR: "a file stands where a folder is needed; name another place",
    errno.EISDIR: "is a folder, expected a file",
    errno.ENOTEMPTY: "already exists; remove it or choose another name",
    errno.ELOOP: "a loop of symbolic links; name the place itself",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


def check_new(path: Path) -> None:
    """Refuse a path that is taken. Whoever works long for one asks before the work, not after."""
    if os.path.lexists(path):
        raise UserError(f"{path}: already exists; remove it or choose another name")
    if living := _living_parts(path):
        raise UserError(
            f"{path}: another process is making it ({living[0].name}); let it end, or choose "
            "another name"
        )


def check_place(path: Path) -> None:
    """Refuse a loop of links and a name that is too long; a path where nothing is may be right."""
    try:
        path.stat()
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
            raise UserError(f"{path}: {reason(error)}") from None


def free_disk(folder: Path) -> int:
    """Return the bytes that can still be written to a folder, which need not exist yet."""
    return shutil.disk_usage(_nearest(folder)).free


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to, or whose disk is full."""
    place = _nearest(folder)
    with _disk_errors(folder):
        if not place.is_dir():
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(place)
        if not shutil.disk_usage(place).total:  # a view of the system, such as /proc
            raise UserError(f"{folder}: no files can be written there; name another place")
        if not free_disk(place):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed to disk and renamed to `path`.

    On any failure the temporary file is removed and `path` stays as it was.
    """
    temporary = _temporary(path)
    with _disk_errors(path):
        if path.is_symlink() and not path.exists():
            raise UserError(f"{path}: is a link to nothing; remove it, or choose another name")
        path.parent.mkdir(parents=True, exist_ok=True)
        _living_parts(path)  # removes those of the dead
        try:
            yield temporary
            _flush(temporary)
            temporary.replace(path)
            _flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder; on success it is renamed to `path`, which must not exist.

    A second process that makes the same folder is refused when it begins.
    """
    temporary = _temporary(path)
    with _disk_errors(path):
        check_new(path)
        try:  # a signal may arrive as soon as the folder exists
            temporary.mkdir(parents=True)
            check_new(path)  # again: of two that begin at the same moment, none goes on unseen
            yield temporary
            for file in [*temporary.rglob("*"), temporary]:
                _flush(file)
            temporary.rename(path)
            _flush(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def exclusive(
    folder: Path, *, what: str, host: str | None = None, heartbeat: float = HEARTBEAT
) -> Iterator[Lease]:
    """Hold `folder` for one process of all machines that share the disk; refuse a second one.

    A dead holder is replaced at once on its own host, and by another host within two heartbeats.
    What it left half-written is removed.

    Args:
        folder: It is made if it doesn't exist.
        what: What it is, for the message to the second process.
        host: Eight digits for this machine; by default they are computed.
        heartbeat: Seconds between two signs of life.
    """
    with _disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lease = Lease.take(folder, what=what, host=host or host_id(), heartbeat=heartbeat)
    try:
        _living_parts(folder / "*")  # removes those of the dead
        yield lease
    finally:
        lease.release()


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Hold a lock beside `path`; whoever else wants it waits. Freed even by SIGKILL."""
    with _disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _lock_file(path.with_name(f".{path.name}.lock")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def append_line(path: Path, line: str) -> None:
    """Add a line to a UTF-8 file; a kill leaves at most this line unfinished."""
    with _disk_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def check_file(path: Path, remedy: str = "") -> None:
    """Refuse a path that is not a regular file; `remedy` says what to do if there is none."""
    with _read_errors(path, remedy):
        mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise UserError(f"{path}: is a folder, expected a file")
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: not a regular file; save its content to one")


def read_text(path: Path) -> str:
    """Read the text of a UTF-8 file; anything else is a UserError."""
    check_file(path)
    try:
        with _read_errors(path):
            return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); convert it first") from None


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    check_file(path)
    with _read_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """Return twelve hexadecimal digits that change when the JSON-able `value` changes."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def strict_json(value: Any) -> Any:
    """Return a value with null for NaN and infinities, for which JSON has no words."""
    if isinstance(value, Mapping):
        return {key: strict_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _nearest(folder: Path) -> Path:
    """Return the nearest folder, of this one and those it is to lie in, that exists."""
    place = folder.expanduser()
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


def disk_error(error: Exception) -> OSError:
    """Return the error of the system that a library reports as text: `... (os error 28)`."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]) if number else errno.EIO, str(error))


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that it holds."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def reason(error: OSError, *, reading: bool = False) -> str:
    """Return what went wrong with a place on the disk, and what to do about it."""
    if isinstance(error, PermissionError):
        return f"cannot be {'read' if reading else 'written'}; check its permissions"
    return _REASONS.get(error.errno or 0, str(error.strerror or error))


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{host_id()}-{process_id(os.getpid())}.part")


def _living_parts(path: Path) -> list[Path]:
    """Remove the parts of `path` (whose name may be "*") left by dead processes; return others.

    Parts of this process and of other hosts are left alone, and are not returned.
    """
    living = []
    own = process_id(os.getpid())
    for part in path.parent.glob(".*.part"):
        lease = _PART.fullmatch(part.name)
        if lease is None or path.name not in ("*", lease["name"]):
            continue
        if lease["host"] == host_id():
            alive = lease["process"] == process_id(int(lease["process"].partition("-")[0]))
            if alive and lease["process"] != own:
                living.append(part)
        else:
            alive = not _older_than_a_week(part)
        if not alive:
            remove(part)
    return living


def _older_than_a_week(part: Path) -> bool:
    try:
        return time.time() - part.lstat().st_mtime > 7 * 24 * 3600
    except FileNotFoundError:  # it was finished at this moment
        return False


def _lock_file(path: Path) -> TextIO:
    """Open a file to lock, which is never emptied; a link that a stranger left is not followed."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP and path.parent.is_dir():
            raise UserError(
                f"{path}: is a symbolic link, expected a lock file; remove it"
            ) from None
        raise UserError(f"{path}: {reason(error)}") from None
    return os.fdopen(descriptor, "r+")


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Say in one line what is wrong with `path`, or with another file that the error names."""
    try:
        yield
    except OSError as error:
        known = error.errno in _REASONS or isinstance(error, PermissionError)
        if not known or isinstance(error, FileNotFoundError):
            raise
        raise UserError(f"{_place(error, path)}: {reason(error)}") from None


def _place(error: OSError, path: Path) -> Path:
    """Return the file that an error names, or `path` if it names none, its part or its parent."""
    if error.filename is None:
        return path
    place = Path(os.fsdecode(error.filename))
    own = (path.name, _temporary(path).name)
    of_path = path.is_relative_to(place) or any(one.name in own for one in (place, *place.parents))
    return path if of_path else place


@contextlib.contextmanager
def _read_errors(path: Path, remedy: str = "") -> Iterator[None]:
    reasons = {
        errno.ENOENT: "no such file" + (f"; {remedy}" if remedy else ""),
        errno.ENOTDIR: "no such file; a part of the path is no folder",
        errno.EACCES: "cannot be read; check its permissions",
        errno.ELOOP: "a loop of links; name the file itself",
        errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    }
    try:
        yield
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        raise UserError(f"{path}: {reasons.get(error.errno or 0, reason)}") from None
    except ValueError as error:
        if "null" not in str(error):
            raise
        raise UserError(f"{str(path)!a}: a null character in the name; name the file") from None


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
