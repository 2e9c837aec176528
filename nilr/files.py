"""Files that are complete or not there at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nilr.errors import StoreError

TEMPORARY_PREFIX = ".tmp-nilr-"

_REMOVED_PREFIX = ".removed-nilr-"
_DIRECTORY = ".d"
_STALE = re.compile(f"({re.escape(TEMPORARY_PREFIX)}|{re.escape(_REMOVED_PREFIX)})[0-9a-f]{{12}}({_DIRECTORY})?")

_HINTS = {
    errno.ENOSPC: "free some space, or choose another place with --home",
    errno.EDQUOT: "free some space, or choose another place with --home",
    errno.EROFS: "choose a writable place with --home or NILR_HOME",
    errno.EACCES: "check the permissions, or choose another place with --home",
    errno.EPERM: "check the permissions, or choose another place with --home",
    errno.EEXIST: "a part of this path is a file; choose another place",
    errno.ENOTDIR: "a part of this path is a file; choose another place",
}


def storage_error(path: Path, error: OSError, doing: str = "write") -> StoreError:
    """Turn an operating system's error about `path` into one that says what to do."""
    reason = error.strerror or str(error)
    return StoreError(f"cannot {doing} `{path}`: {reason.lower()}", hint=_HINTS.get(error.errno or 0))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success flush it to disk and rename it over `path`.

    Whatever happens, `path` holds its old content or the whole new one, and the temporary file is gone. A SIGKILL
    leaves it behind under a name that starts with `TEMPORARY_PREFIX`; the next one to write in that directory removes
    it.

    Raises:
        StoreError: the directory cannot be made or written, or the disk is full.
    """
    with _held_beside(path) as temporary:
        yield temporary
        flush(temporary)
        temporary.replace(path)
        flush(path.parent)


@contextlib.contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """Give a new directory for files; on success flush them to disk and put the directory in the place of `path`.

    Whatever happens, `path` is the old directory (or link) or the whole new one; only a kill between two renames can
    leave neither. What a SIGKILL leaves behind is removed as `replacing` says.

    Raises:
        StoreError: the parent cannot be made or written, or the disk is full.
    """
    with _held_beside(path) as held:
        place = held.with_suffix(_DIRECTORY)  # stale as soon as `held` is gone
        new, old = place / "new", place / "old"
        try:
            new.mkdir(parents=True)
            yield new
            for file in (*new.iterdir(), new):
                flush(file)
            _exchange(path, new, old)
            flush(path.parent)
        finally:
            _remove(place)


@contextlib.contextmanager
def _held_beside(path: Path) -> Iterator[Path]:
    """Give a temporary file in the directory of `path`, which is made and cleared of stale ones.

    Raises:
        StoreError: the system fails, here or in the block.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path.parent)
        with temporary_in(path.parent) as temporary:
            yield temporary
    except OSError as error:
        raise storage_error(path, error) from error


def _exchange(path: Path, new: Path, old: Path) -> None:
    """Rename `path`, where it is there, to `old`, and `new` to `path`; on failure it is `path` again."""
    if not os.path.lexists(path):
        new.rename(path)
        return
    path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise


def remove_at_once(path: Path) -> None:
    """Remove a directory, in one moment for all who look for it; of a link the link, never what it points to.

    Raises:
        OSError: it cannot be removed.
    """
    _remove(path.rename(path.with_name(f"{_REMOVED_PREFIX}{secrets.token_hex(6)}")))


def remove_stale(directory: Path) -> None:
    """Remove what killed processes left in a directory: temporary files, and what they were about to remove.

    A living process holds a lock on its temporary file, which the system lets go of when the process ends. What cannot
    be removed stays.
    """
    with contextlib.suppress(OSError):
        names = sorted(os.listdir(directory))  # noqa: PTH208
        for path in [directory / name for name in names if _STALE.fullmatch(name)]:
            with contextlib.suppress(OSError):
                if path.name.startswith(_REMOVED_PREFIX):
                    _remove(path)
                elif path.suffix != _DIRECTORY:
                    _remove_unheld(path)
                elif not os.path.lexists(path.with_suffix("")):
                    _remove(path)


def _remove(path: Path) -> None:
    """Remove a link or a whole directory, perhaps beside another process that does the same."""
    while os.path.lexists(path):
        with contextlib.suppress(FileNotFoundError):
            if path.is_symlink():
                path.unlink()
            else:
                shutil.rmtree(path)


def _remove_unheld(path: Path) -> None:
    with _opened(path, os.O_RDWR | os.O_NOFOLLOW) as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


@contextlib.contextmanager
def temporary_in(directory: Path) -> Iterator[Path]:
    """Make a file, hold it as long as the block lasts, under whatever name, and remove it if its first name stands."""
    while True:
        path = directory / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
        try:
            with _opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL) as handle:
                # A shared lock, as whoever reads the file through HDF5 takes one as well. Without locks in the file
                # system nobody can tell that the file is stale, and it is never removed.
                with contextlib.suppress(OSError):
                    fcntl.flock(handle, fcntl.LOCK_SH)
                if os.fstat(handle).st_nlink:  # else it was removed as stale before it was locked
                    yield path
                    return
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    handle = os.open(path, flags, 0o666)
    try:
        yield handle
    finally:
        os.close(handle)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, whole or not at all.

    Raises:
        StoreError: see `replacing`.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


class PatientFile(io.FileIO):
    """A new file, to read and write, that keeps the first failure to write and then ignores all writes.

    For a library that must not see a failure: HDF5 crashes at the process's end over a file it could not write out.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self._failure: OSError | None = None

    def write(self, content: Any, /) -> int:  # noqa: ANN401 - any buffer
        """Write all of `content`, if nothing has failed yet."""
        rest = memoryview(content).cast("B")
        size = len(rest)
        with self._keeping_failure():
            while self._failure is None and len(rest):
                rest = rest[super().write(rest) :]
        return size

    def truncate(self, size: int | None = None, /) -> int:
        """Set the file's size, if nothing has failed yet."""
        with self._keeping_failure():
            if self._failure is None:
                return super().truncate(size)
        return self.tell() if size is None else size

    def check(self) -> None:
        """Raise the failure, if there is one.

        Raises:
            OSError: something could not be written.
        """
        if self._failure is not None:
            raise self._failure

    @contextlib.contextmanager
    def _keeping_failure(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._failure = error


def led_to(path: Path) -> Path:
    """Return where a path leads through links: a file that a user names is written there, never in a link's place.

    Else `--json /dev/stdout` would put a file in the place of what the system calls so.
    """
    return Path(os.path.realpath(path))


def flush(path: Path) -> None:
    """Push a file's or a directory's content from the system's cache to the disk."""
    with _opened(path, os.O_RDONLY) as handle:
        os.fsync(handle)
