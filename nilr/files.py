"""Files that are complete or not there at all."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nilr.errors import StoreError

TEMPORARY_PREFIX = ".tmp-"

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

    Whatever happens, `path` holds its old content or the whole new one, and the temporary file is gone
    (a SIGKILL leaves one behind under a name that starts with `TEMPORARY_PREFIX`, never under the final name).

    Raises:
        StoreError: the directory cannot be made or written, or the disk is full.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        flush(temporary)
        temporary.replace(path)
        flush(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


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


def flush(path: Path) -> None:
    """Push a file's or a directory's content from the system's cache to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
