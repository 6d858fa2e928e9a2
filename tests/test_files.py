import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tightframe import files, leases
from tightframe.errors import UserError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.whole_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_to_nothing_is_not_replaced_by_a_file(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError, match="link: is a link to nothing; remove it"):
        files.write_text(tmp_path / "link", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_a_failed_folder_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), files.whole_folder(tmp_path / "a") as temporary:
        (temporary / "half").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_never_overwritten(tmp_path):
    with pytest.raises(UserError, match="already exists"), files.whole_folder(tmp_path):
        pass


def test_a_full_disk_is_one_line(tmp_path):
    with (
        pytest.raises(UserError, match=r"a.txt: no space left on the disk"),
        files.whole_file(tmp_path / "a.txt"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_folder_is_held_by_one_process(tmp_path):
    with (
        files.exclusive(tmp_path, what="run"),
        pytest.raises(UserError, match="another process is at work on this run"),
        files.exclusive(tmp_path, what="run"),
    ):
        pass
    with files.exclusive(tmp_path, what="run"):
        pass  # free again


def test_what_a_killed_holder_left_half_written_is_removed(tmp_path):
    killed = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os, pathlib, signal\n"
            "from tightframe import files\n"
            f"with files.whole_file(pathlib.Path({str(tmp_path / 'a')!r})) as part:\n"
            "    part.write_text('half')\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n",
        ]
    )
    assert killed.returncode == -signal.SIGKILL
    living = files._temporary(tmp_path / "b")
    living.write_text("a living process is still at it")
    (tmp_path / ".c.mine.part").write_text("nobody's")
    assert len(list(tmp_path.glob(".a.*.part"))) == 1
    with files.exclusive(tmp_path, what="run"):
        pass
    left = {path.name for path in tmp_path.glob(".*.part")}
    assert left == {living.name, ".c.mine.part"}


def _part(folder, name, process, *, host=None, age=0.0):
    """What another process has half-written: a folder with a file."""
    part = folder / f".{name}.{host or leases.host_id()}-{process}.part"
    part.mkdir()
    (part / "half").write_text("half")
    os.utime(part, (time.time() - age,) * 2)
    return part


@pytest.fixture
def child():
    """A living process that is not this one, as in a lease."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("write", ["file", "folder"])
def test_whoever_takes_a_name_removes_what_dead_processes_left_of_it(tmp_path, child, write):
    number = child.pid
    living = leases.process_id(number)
    recycled = _part(tmp_path, "a.b", f"{number}-{int(living.partition('-')[2]) - 1}")
    dead = _part(tmp_path, "a.b", "4194305-7")  # above the largest number of a process
    abandoned = _part(tmp_path, "a.b", living, host="0" * 8, age=8 * 24 * 3600)
    elsewhere = _part(tmp_path, "a.b", "4194305-7", host="0" * 8, age=6 * 24 * 3600)
    of_another_name = _part(tmp_path, "b", "4194305-7")
    if write == "file":
        files.write_text(tmp_path / "a.b", "text")
    else:
        with files.whole_folder(tmp_path / "a.b"):
            pass
    assert not any(path.exists() for path in (recycled, dead, abandoned))
    assert elsewhere.exists()
    assert of_another_name.exists()


def test_a_process_that_has_ended_but_was_not_waited_for_is_dead(child):
    number = child.pid
    assert leases.process_id(number) is not None
    child.kill()
    os.waitid(os.P_PID, number, os.WEXITED | os.WNOWAIT)  # a zombie now
    assert leases.process_id(number) is None


def test_the_second_process_that_makes_a_folder_is_refused_at_its_start(tmp_path, child):
    living = _part(tmp_path, "a", leases.process_id(child.pid))
    with (
        pytest.raises(UserError, match="another process is making it"),
        files.whole_folder(tmp_path / "a"),
    ):
        raise AssertionError
    with pytest.raises(UserError, match="another process is making it"):
        files.check_new(tmp_path / "a")
    assert list(tmp_path.iterdir()) == [living]


def test_a_folder_that_appears_meanwhile_is_not_overwritten(tmp_path):
    path = tmp_path / "a"
    with (
        pytest.raises(UserError, match="a: already exists"),
        files.whole_folder(path) as temporary,
    ):
        (temporary / "mine").touch()
        path.mkdir()
        (path / "theirs").touch()
    assert [file.name for file in tmp_path.rglob("*")] == ["a", "theirs"]


def test_a_lock_that_is_a_link_is_refused_and_what_it_points_to_is_kept(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("text")
    (tmp_path / ".a.lock").symlink_to(precious)
    (tmp_path / ".lease-1").symlink_to(precious)
    for lock in (files.one_at_a_time(tmp_path / "a"), files.exclusive(tmp_path, what="run")):
        with pytest.raises(UserError, match=r"\.(a\.lock|lease-1): is a symbolic link"), lock:
            pass
    assert precious.read_text() == "text"


def _loop(folder):
    (folder / "loop").symlink_to("loop")
    return folder / "loop" / "a"


def _file_for_folder(folder):
    (folder / "file").touch()
    return folder / "file" / "a"


def _long_name(folder):
    return folder / ("n" * 256)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (_loop, "loop"),
        (_file_for_folder, "a file stands where a folder is needed"),
        (_long_name, "the name is too long"),
    ],
)
@pytest.mark.parametrize(
    "use",
    [
        lambda path: files.write_text(path, "text"),
        lambda path: files.whole_folder(path).__enter__(),
        lambda path: files.one_at_a_time(path).__enter__(),
        lambda path: files.exclusive(path / "b", what="run").__enter__(),
    ],
)
def test_places_that_cannot_be_are_one_line(tmp_path, place, message, use):
    path = place(tmp_path)
    before = list(tmp_path.iterdir())
    with pytest.raises(UserError, match=message):
        use(path)
    assert list(tmp_path.iterdir()) == before


def test_an_error_of_another_file_is_not_said_of_the_one_that_is_written(tmp_path):
    with (
        pytest.raises(UserError, match=r"^/elsewhere/b: cannot be written"),
        files.whole_file(tmp_path / "a"),
    ):
        raise PermissionError(errno.EACCES, "no", "/elsewhere/b")
    with (
        pytest.raises(UserError, match=f"^{tmp_path / 'a'}: is a folder"),
        files.whole_file(tmp_path / "a") as temporary,
    ):
        raise IsADirectoryError(errno.EISDIR, "no", str(temporary / "b"))


def test_whoever_comes_second_waits(tmp_path):
    path = tmp_path / "sub" / "a"
    told, held = [], threading.Event()

    def second():
        held.wait()
        with files.one_at_a_time(path):
            told.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with files.one_at_a_time(path):
        held.set()
        thread.join(timeout=0.2)
        told.append("first")
    thread.join()
    assert told == ["first", "second"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"caf\xe9", r"not UTF-8 text \(byte 3\)")],
)
def test_text_that_cannot_be_read_is_one_line(tmp_path, content, message):
    path = tmp_path / "a.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        files.read_text(path)


def test_a_fingerprint_depends_on_values_not_on_key_order():
    assert files.fingerprint({"a": 1, "b": 2}) == files.fingerprint({"b": 2, "a": 1})
    assert files.fingerprint({"a": 1}) != files.fingerprint({"a": 2})


def test_an_error_of_the_disk_that_a_library_tells_as_text_is_that_error(tmp_path):
    text = "Error while serializing: I/O error: No space left on device (os error 28)"
    with (
        pytest.raises(UserError, match="a: no space left on the disk"),
        files.whole_file(tmp_path / "a"),
    ):
        raise files.disk_error(RuntimeError(text))
    assert files.disk_error(RuntimeError("header too large")).errno == errno.EIO
