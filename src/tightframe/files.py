"""Files that are written whole or not at all, and fingerprints that tell when one has changed."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tightframe.errors import UserError


def check_new(path: Path) -> None:
    """Refuse a path that is taken. Whoever works long for one asks before the work, not after."""
    if path.exists():
        raise UserError(f"{path}: already exists; remove it or choose another name")


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to, or whose disk is full."""
    place = folder.expanduser()
    while not place.exists() and place != place.parent:
        place = place.parent
    with _disk_errors(folder):
        if not place.is_dir():
            raise FileExistsError(place)
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(place)
        if not os.statvfs(place).f_bavail:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed to disk and renamed to `path`.

    On any failure the temporary file is removed and `path` stays as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with _disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _flush(temporary)
            temporary.replace(path)
            _flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder; on success it is renamed to `path`, which must not exist."""
    check_new(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with _disk_errors(path):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for file in [*temporary.rglob("*"), temporary]:
                _flush(file)
            temporary.rename(path)
            _flush(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def exclusive(folder: Path, *, what: str) -> Iterator[None]:
    """Hold `folder` for one process; a second one is told so in one line. Freed even by SIGKILL.

    What a killed holder left half-written in it is removed.
    """
    with _disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder}: another process is at work on this {what}; let it end"
            ) from None
        for left in folder.glob(".*.part"):
            if not _alive(left.suffixes[-2].removeprefix(".")):
                shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        yield


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Hold a lock beside `path`; whoever else wants it waits. Freed even by SIGKILL."""
    with _disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f".{path.name}.lock").open("w")
    with lock:
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


def check_file(path: Path) -> None:
    """Refuse a path that is not a regular file, or that cannot be looked at."""
    with _read_errors(path):
        mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise UserError(f"{path}: is a folder, expected a file")
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: not a regular file; save its content to one")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file; anything else is the user's mistake, said in one line."""
    check_file(path)
    try:
        with _read_errors(path):
            return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); convert it first") from None


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    check_file(path)
    with _read_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """Twelve hexadecimal digits that change when the JSON-able `value` changes."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _alive(process: str) -> bool:
    """Whether a process of this machine has this number; what is no number belongs to somebody."""
    if not process.isdecimal():
        return True
    try:
        os.kill(int(process), 0)  # sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{path}: no space left on the disk; free some and run again") from None
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            raise UserError(f"{path}: cannot be written; check its permissions") from None
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise UserError(
                f"{path}: a file stands where a folder is needed; name another place"
            ) from None
        raise


@contextlib.contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    reasons = {
        errno.ENOENT: "no such file",
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
