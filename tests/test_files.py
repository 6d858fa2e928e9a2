import errno
import os
import signal
import subprocess
import sys
import threading

import pytest

from tightframe import files
from tightframe.errors import UserError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.whole_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


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
    (tmp_path / f".b.{os.getpid()}.part").write_text("a living process is still at it")
    (tmp_path / ".c.mine.part").write_text("nobody's")
    assert len(list(tmp_path.glob(".a.*.part"))) == 1
    with files.exclusive(tmp_path, what="run"):
        pass
    left = {path.name for path in tmp_path.glob(".*.part")}
    assert left == {f".b.{os.getpid()}.part", ".c.mine.part"}


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
