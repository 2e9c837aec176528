from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from nilr.errors import Interrupted, StoreError
from nilr.files import (
    TEMPORARY_PREFIX,
    PatientFile,
    remove_at_once,
    remove_stale,
    replacing,
    replacing_directory,
    storage_error,
    write_atomically,
    write_output,
)
from nilr.signals import unwinding


def test_a_file_is_made_with_its_directories(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in path.parent.iterdir()] == ["c.txt"]


def test_the_old_content_stays_until_the_new_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    path.write_bytes(b"old")
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == path.parent
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_an_output_is_written_through_a_link_and_into_a_pipe(tmp_path: Path) -> None:
    link, pipe, read = tmp_path / "link", tmp_path / "pipe", list[bytes]()
    link.symlink_to("target")
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    for path in (link, pipe):
        write_output(path, b"new")
    reader.join()
    assert link.is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"
    assert pipe.is_fifo()
    assert read == [b"new"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_whatever_goes_wrong_the_old_content_stays_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "c.txt"
    path.write_bytes(b"old")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"ne")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["c.txt"]


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    with pytest.raises(StoreError, match=f"cannot write `{path}`: no space left on device") as caught, replacing(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "free some space" in (caught.value.hint or "")


def test_a_file_in_the_place_of_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot write") as caught:
        write_atomically(tmp_path / "a" / "c.txt", b"")
    assert caught.value.hint


def test_a_directory_in_the_place_of_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    path.mkdir()
    with pytest.raises(StoreError, match="is a directory"):
        write_atomically(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["c.txt"]


@pytest.mark.parametrize(
    ("code", "hint"),
    [(errno.EROFS, "choose a writable place"), (errno.EACCES, "check the permissions"), (errno.EDQUOT, "free some")],
)
def test_an_error_of_the_system_says_what_to_do(code: int, hint: str) -> None:
    error = storage_error(Path("x"), OSError(code, os.strerror(code)))
    assert error.message == f"cannot write `x`: {os.strerror(code).lower()}"
    assert hint in (error.hint or "")


@pytest.mark.parametrize("name", ["x" * 255, "ß" * 127])
def test_a_longest_name_can_be_written(tmp_path: Path, name: str) -> None:
    write_atomically(tmp_path / name, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def half_way(replacement: str, path: Path, what: str) -> subprocess.Popen[bytes]:
    """Return a process that has written half of what it would replace `path` by."""
    code = (
        f"import sys, time; from pathlib import Path; from nilr.files import {replacement}\n"
        f"with {replacement}(Path(sys.argv[1])) as temporary:\n"
        f"    {what}.write_bytes(b'half'); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)])
    deadline = time.monotonic() + 30
    while 4 not in [entry.stat().st_size for entry in path.parent.rglob("*") if entry.is_file()]:
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return process


def test_a_killed_process_leaves_nothing_under_the_final_name_and_the_next_writer_clears_up(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    process = half_way("replacing", path, "temporary")
    write_atomically(tmp_path / "other", b"")
    assert len(list(tmp_path.glob(f"{TEMPORARY_PREFIX}*"))) == 1, "the file of a living process stays"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not path.exists()
    write_atomically(tmp_path / "other", b"")
    assert [entry.name for entry in tmp_path.iterdir()] == ["other"]


def test_a_removal_that_was_killed_is_finished_by_the_next_writer(tmp_path: Path) -> None:
    (tmp_path / ".removed-nilr-0123456789ab" / "deep").mkdir(parents=True)
    (tmp_path / ".removed-nilr-mine").mkdir()
    (tmp_path / ".tmp-nilr-mine").write_bytes(b"")
    remove_stale(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".removed-nilr-mine", ".tmp-nilr-mine"]


def test_a_directory_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "a" / "c"
    for content in (b"old", b"new"):
        with replacing_directory(path) as staged:
            (staged / content.decode()).write_bytes(content)
            assert path.exists() == (content == b"new")
    assert [entry.name for entry in path.iterdir()] == ["new"]
    assert [entry.name for entry in path.parent.iterdir()] == ["c"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_whatever_goes_wrong_the_old_directory_stays_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "old").write_bytes(b"")

    def write_half() -> None:
        with replacing_directory(tmp_path / "c") as staged:
            (staged / "new").write_bytes(b"")
            raise error

    with pytest.raises(error):
        write_half()
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["c", "old"]


def test_a_directory_that_cannot_take_the_place_leaves_the_old_one_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c"
    path.mkdir()
    (path / "old").write_bytes(b"")
    whole = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return whole(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(StoreError, match=f"cannot write `{path}`: input/output error"), replacing_directory(path):
        pass
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["c", "old"]


def test_a_directory_takes_the_place_of_a_link_and_not_of_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("there")
    with replacing_directory(tmp_path / "link") as staged:
        (staged / "new").write_bytes(b"")
    assert not (tmp_path / "link").is_symlink()
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["file", "link", "new", "there"]


def test_a_directory_of_a_killed_process_is_removed_and_that_of_a_living_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "c"
    process = half_way("replacing_directory", path, "(temporary / 'half')")
    write_atomically(tmp_path / "other", b"")
    assert len(list(tmp_path.rglob("half"))) == 1, "the directory of a living process stays"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not path.exists()
    write_atomically(tmp_path / "other", b"")
    assert [entry.name for entry in tmp_path.rglob("*")] == ["other"]


def replace_directory(path: Path) -> None:
    with replacing_directory(path) as new:
        (new / "new").touch()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # files that the signal left open
@pytest.mark.parametrize("work", [replace_directory, lambda path: write_atomically(path / "new", b""), remove_at_once])
def test_a_signal_at_any_line_leaves_no_temporary_file(tmp_path: Path, work: Callable[[Path], None]) -> None:
    path = tmp_path / "a"

    def lines_until_signal(n: int) -> int:
        """Run `work` with a signal at its n-th line, and return how many lines it ran."""
        path.mkdir()
        (path / "old").touch()
        lines = 0

        def trace(_frame: FrameType, event: str, _arg: object) -> Any:
            nonlocal lines
            lines += event == "line"
            if event == "line" and lines == n:
                signal.raise_signal(signal.SIGTERM)
            return trace

        before = sys.gettrace()
        with contextlib.suppress(Interrupted), unwinding():
            sys.settrace(trace)
            try:
                work(path)
            finally:
                sys.settrace(before)
        return lines

    whole = lines_until_signal(0)
    assert whole > 100
    for n in random.Random(0).sample(range(1, whole + 1), 100):
        shutil.rmtree(path, ignore_errors=True)
        lines_until_signal(n)
        assert [entry.name for entry in tmp_path.rglob(".*")] == [], f"line {n} of {whole}"
        assert work is remove_at_once or list(path.iterdir())


def test_removing_a_link_leaves_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("there")
    remove_at_once(tmp_path / "link")
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["file", "there"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_has_the_permissions_that_the_umask_leaves(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "x", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == mode


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_patient_file_keeps_the_first_failure_for_later() -> None:
    with PatientFile(Path("/dev/full")) as file:
        file.check()
        assert [file.write(b"abc"), file.write(b"d")] == [3, 1]
        with pytest.raises(OSError, match="No space left on device"):
            file.check()


def test_a_patient_file_is_a_file_while_nothing_fails(tmp_path: Path) -> None:
    with PatientFile(tmp_path / "x") as file:
        file.write(memoryview(b"abcdef"))
        file.truncate(4)
        file.check()
    assert (tmp_path / "x").read_bytes() == b"abcd"
