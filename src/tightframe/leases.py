"""Leases: which process of which machine holds a folder, and whether it is still alive.

A lease is a file `.lease-N` in the folder, with the host, the process, the seconds between two
heartbeats and the machine's name. Its holder touches it once per heartbeat. The highest N counts;
it is never removed, only marked as released, so that of several processes that want to be next
exactly one can make the next file.

A holder on this host is dead when its process is. Nothing is known of another host but the
heartbeats: whoever wants the folder watches the file for two of them by its own clock, because the
clocks of two machines differ. A holder that was suspended for so long loses the folder, and is told
so by `Lease.check` before it writes.
"""

import contextlib
import errno
import functools
import hashlib
import os
import threading
import time
from pathlib import Path
from typing import NamedTuple

from tightframe.errors import UserError

HEARTBEAT = 30.0  # seconds
_RELEASED = "released"


class Holder(NamedTuple):
    """A lease as it is read: who holds the folder, and when its last heartbeat was."""

    number: int
    beat: int  # nanoseconds, by the clock of the file system
    host: str = ""  # eight digits; "" while the lease is being written
    process: str = ""  # number and start time
    heartbeat: float = 0.0  # seconds; 0 while the lease is being written
    machine: str = "another machine"
    released: bool = False

    @property
    def name(self) -> str:
        """The holder for a message."""
        return f"process {self.process.partition('-')[0] or '?'} on {self.machine}"

    def alive(self, host: str) -> bool | None:
        """Return whether the holder is alive; None where only its heartbeats can tell."""
        if self.released:
            return False
        if self.host != host:
            return None
        return process_id(int(self.process.partition("-")[0])) == self.process


class Lease:
    """A held folder; `take` makes one."""

    def __init__(self, folder: Path, number: int, heartbeat: float, what: str):
        self.folder = folder
        self.path = _lease_path(folder, number)
        self._number = number
        self._heartbeat = heartbeat
        self._what = what
        self._beaten = _seconds()
        self._released = threading.Event()
        threading.Thread(target=self._beat_until_released, daemon=True).start()

    @classmethod
    def take(cls, folder: Path, *, what: str, host: str, heartbeat: float = HEARTBEAT) -> "Lease":
        """Hold a folder that nobody holds, or whose holder is dead.

        Args:
            folder: An existing folder.
            what: What it is, for the message to a second process.
            host: Eight digits for this machine, as `host_id` returns them.
            heartbeat: Seconds between two heartbeats.

        Raises:
            UserError: A living process holds it.
        """
        words = f"{host} {process_id(os.getpid())} {heartbeat} {os.uname().nodename}\n"
        while True:
            newest = holder(folder)
            if newest is not None and _is_alive(folder, newest, host, heartbeat):
                raise UserError(
                    f"{folder}: another process is at work on this {what} ({newest.name}); let it "
                    "end"
                )
            number = 1 if newest is None else newest.number + 1
            try:
                with _lease_path(folder, number).open("x") as file:
                    file.write(words)
            except FileExistsError:  # somebody else was faster
                continue
            if _numbers(folder)[-1] == number:
                break
            _lease_path(folder, number).unlink()  # made from an outdated list
        for old in _numbers(folder)[:-1]:
            _lease_path(folder, old).unlink(missing_ok=True)
        return cls(folder, number, heartbeat, what)

    def check(self) -> None:
        """Refuse to continue where another process has taken the folder over.

        That happens to a process that was suspended: it asks before it writes.
        """
        if _seconds() - self._beaten > 1.5 * self._heartbeat:
            self._beat()
        newest = self._numbers_above()
        if newest:
            taker = holder(self.folder)
            raise UserError(
                f"{self.folder}: {taker.name if taker else 'another process'} has taken over this "
                f"{self._what}, because this process did not move for {2 * self._heartbeat:g} s; "
                "nothing more is written here"
            )

    def release(self) -> None:
        """Let the folder go."""
        self._released.set()
        with contextlib.suppress(FileNotFoundError):  # the folder was removed, or taken over
            descriptor = os.open(self.path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW)
            with os.fdopen(descriptor, "w") as file:
                file.write(_RELEASED + "\n")

    def _beat_until_released(self) -> None:
        while not self._released.wait(self._heartbeat):
            with contextlib.suppress(OSError):  # the disk may be back at the next heartbeat
                self._beat()

    def _beat(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # it was taken over: `check` says so
            os.utime(self.path, follow_symlinks=False)
        self._beaten = _seconds()

    def _numbers_above(self) -> list[int]:
        return [number for number in _numbers(self.folder) if number > self._number]


def holder(folder: Path) -> Holder | None:
    """Return what the newest lease of a folder says; None where there was never one."""
    while numbers := _numbers(folder):
        path = _lease_path(folder, numbers[-1])
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:  # removed at this moment, after a newer one was made
            continue
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise UserError(
                f"{path}: is a symbolic link, expected a lock file; remove it"
            ) from None
        with os.fdopen(descriptor, "rb") as file:
            words = file.read(1000).decode(errors="replace").split()
            beat = os.fstat(descriptor).st_mtime_ns
        if not words:
            return Holder(numbers[-1], beat)
        if words == [_RELEASED]:
            return Holder(numbers[-1], beat, released=True)
        try:
            host, process, heartbeat, machine = words
            int(process.partition("-")[0])
            return Holder(numbers[-1], beat, host, process, float(heartbeat), machine)
        except ValueError:
            raise UserError(f"{path}: is no lease; remove it") from None
    return None


def held_by(folder: Path) -> str:
    """Return who holds a folder, as far as its lease tells; "" where nobody does."""
    newest = holder(folder)
    if newest is None or newest.alive(host_id()) is False:
        return ""
    silent = time.time() - newest.beat / 1e9
    late = silent > 3 * (newest.heartbeat or HEARTBEAT)
    return newest.name + (f", no heartbeat for {silent / 60:.0f} min" if late else "")


def _is_alive(folder: Path, newest: Holder, host: str, heartbeat: float) -> bool:
    """Return whether a holder is alive; of another host's, after at most two heartbeats.

    `heartbeat` is used where the lease doesn't tell its own.
    """
    alive = newest.alive(host)
    if alive is not None:
        return alive
    heartbeat = newest.heartbeat or heartbeat
    until = _seconds() + 2 * heartbeat
    while (left := until - _seconds()) > 0:
        time.sleep(min(left, heartbeat / 20))
        now = holder(folder)
        if now is not None and now != newest:
            return not now.released
    return False


def _numbers(folder: Path) -> list[int]:
    """Return the numbers of the leases of a folder, in order."""
    names = (path.name.removeprefix(".lease-") for path in folder.glob(".lease-*"))
    return sorted(int(name) for name in names if name.isdecimal())


def _lease_path(folder: Path, number: int) -> Path:
    return folder / f".lease-{number}"


def _seconds() -> float:
    """Return seconds of a clock that also counts the time in which the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@functools.cache
def host_id() -> str:
    """Return eight digits for this machine, or for this container with its own process numbers."""
    namespace = os.readlink("/proc/self/ns/pid")
    installed = Path("/etc/machine-id")
    machine = installed.read_text().strip() if installed.is_file() else ""
    parts = f"{os.uname().nodename} {machine} {namespace}"
    return hashlib.sha256(parts.encode()).hexdigest()[:8]


def process_id(number: int) -> str | None:
    """Return the number and start time of a process of this host; None where it has ended."""
    try:
        content = Path(f"/proc/{number}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = content.rpartition(")")[2].split()  # the name before it may hold anything
    return None if state in "ZX" else f"{number}-{fields[18]}"
