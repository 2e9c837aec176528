"""Files that are complete or not there at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

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


def flush(path: Path) -> None:
    """Push a file's or a directory's content from the system's cache to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
