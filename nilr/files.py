"""Write files and directories that are either complete or absent."""

import contextlib
import errno
import fcntl
import io
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nilr.errors import StoreError
from nilr.locks import host_digest, shares_locks
from nilr.signals import DeferringSignals

TEMPORARY_PREFIX = ".tmp-nilr-"

_REMOVED_PREFIX = ".removed-nilr-"
_DIRECTORY = ".d"
_STALE = re.compile(f"({re.escape(TEMPORARY_PREFIX)}|{re.escape(_REMOVED_PREFIX)})[0-9a-f]{{12}}({_DIRECTORY})?")

_NO_SPACE = "free some space, or choose another place with {flag}"
_NO_PERMISSION = "check the permissions, or choose another place with {flag}"
_NOT_A_DIRECTORY = "a part of this path is a file; choose another place"
_NO_LOCKS = "the file system does not support this; choose a place on a local disk with {flag}"
_HINTS = {
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _NO_SPACE,
    errno.EROFS: "choose a writable place with {flag}",
    errno.EACCES: _NO_PERMISSION,
    errno.EPERM: _NO_PERMISSION,
    errno.EEXIST: _NOT_A_DIRECTORY,
    errno.ENOTDIR: _NOT_A_DIRECTORY,
    **dict.fromkeys((errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP), _NO_LOCKS),
}


def storage_error(path: Path, error: OSError, doing: str = "write", *, flag: str = "--home") -> StoreError:
    """Return the error for an operating system's error about `path`, which `flag` sets, with a hint."""
    reason = error.strerror or str(error)
    return StoreError(
        f"cannot {doing} `{path}`: {reason.lower()}", hint=_HINTS.get(error.errno or 0, "").format(flag=flag) or None
    )


def check_output(path: Path, flag: str, *, folder: bool = False) -> None:
    """Check before the work that a file or folder can be written, in a directory that exists.

    Raises:
        StoreError: it cannot.
    """
    if path.is_dir() and not folder:
        raise StoreError(f"cannot write `{path}`: it is a directory", hint=f"give {flag} the name of a file")
    if path.exists() and not path.is_dir():
        if folder:
            raise StoreError(f"cannot write `{path}`: it is a file", hint=f"give {flag} the name of a directory")
        if not path.is_file():
            return  # a pipe or a device
    directory = path if path.is_dir() else resolve_links(path).parent
    if not directory.exists():
        hint = f"correct {flag}, or create the directory: mkdir -p {shlex.quote(str(directory))}"
        raise StoreError(f"cannot write `{path}`: there is no directory `{directory}`", hint=hint)
    check_writable(directory, path, flag)


def check_free(path: Path, flag: str, *, force: bool) -> None:
    """Check that nothing exists at `path`, which `flag` sets, unless `force`; StoreError if something does."""
    if path.exists() and not force:
        raise StoreError(f"`{path}` already exists", hint=f"replace it with --force, or choose another {flag}")


def check_writable(directory: Path, path: Path, flag: str = "--home") -> None:
    """Check that `path` can be created below `directory`, which exists; StoreError if it cannot."""
    reason = 0
    if not directory.is_dir():
        reason = errno.ENOTDIR
    elif not os.access(directory, os.W_OK | os.X_OK):
        reason = errno.EROFS if os.statvfs(directory).f_flag & os.ST_RDONLY else errno.EACCES
    if reason:
        raise storage_error(path, OSError(reason, os.strerror(reason)), flag=flag)


def expand_home(path: str) -> str:
    """Replace a leading `~`, which a shell leaves in `--home=~/x`, by the user's home directory.

    Raises:
        StoreError: the user is unknown.
    """
    expanded = os.path.expanduser(path)  # noqa: PTH111 - Path.expanduser raises for `~` in a plain file name
    user, slash, _ = path.partition("/")
    if expanded == path and user.startswith("~") and slash and not os.path.lexists(user):
        raise StoreError(f"`{path}`: `{user}` has no home directory", hint="write the absolute path")
    return expanded


def path_argument(path: Path | str) -> str:
    """Return a path as a word of a command: `./-x`, because `-x` is an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def command_line(*words: str, home: Path | None) -> str:
    """Return a command of nilr for the user to run next: in the same directory, on the store that was given."""
    given = () if home is None else ("--home", path_argument(home))
    return shlex.join(["nilr", *words, *given])


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it to `path`.

    In any case `path` has its old content or all of the new one, and the temporary file is gone. Only a SIGKILL leaves
    it behind, with a name that starts with `TEMPORARY_PREFIX`; the next process that writes in that directory removes
    it.

    Raises:
        StoreError: the directory cannot be created or written, or the disk is full.
    """
    with _temporary_beside(path) as temporary:
        yield temporary
        flush(temporary)
        temporary.replace(path)
        flush(path.parent)


@contextlib.contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """Yield a new directory for files; on success flush them to disk and replace `path` by the directory.

    In any case `path` is the old directory (or link) or all of the new one; only a kill between two renames can leave
    neither. What a SIGKILL leaves behind is removed as for `replacing`, which raises the same errors.
    """
    with _temporary_beside(path) as temporary:
        place = temporary.with_suffix(_DIRECTORY)  # stale as soon as `temporary` is gone
        new, old = place / "new", place / "old"
        with DeferringSignals():
            try:
                new.mkdir(parents=True)
                with DeferringSignals(False):
                    yield new
                for file in (*new.iterdir(), new):
                    flush(file)
                if os.path.lexists(path):
                    path.rename(old)
                try:
                    new.rename(path)
                except OSError:
                    if os.path.lexists(old):
                        old.rename(path)
                    raise
                flush(path.parent)
            finally:
                _remove(place)


@contextlib.contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    """Yield a temporary file in the directory of `path`, which is created and cleared of stale files."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path.parent)
        with temporary_in(path.parent) as temporary:
            yield temporary
    except OSError as error:
        raise storage_error(path, error) from error


def remove_at_once(path: Path) -> None:
    """Remove a directory in one step for all other processes, or OSError; of a link, remove the link only."""
    with DeferringSignals():
        _remove(path.rename(path.with_name(f"{_REMOVED_PREFIX}{os.urandom(6).hex()}")))


def remove_stale(directory: Path) -> None:
    """Remove the temporary files and unfinished removals of killed processes from a directory, as far as possible.

    A running process holds a lock on its temporary file, which the operating system releases when the process ends.
    Where other machines do not see locks, those of other machines stay.
    """
    with contextlib.suppress(OSError):
        names = [name for name in sorted(os.listdir(directory)) if _STALE.fullmatch(name)]  # noqa: PTH208
        if names and not shares_locks(directory):
            ours = (f"{TEMPORARY_PREFIX}{host_digest()}", _REMOVED_PREFIX)
            names = [name for name in names if name.startswith(ours)]
        for path in [directory / name for name in names]:
            with contextlib.suppress(OSError):
                if path.name.startswith(_REMOVED_PREFIX):
                    _remove(path)
                elif path.suffix != _DIRECTORY:
                    with opened(path, os.O_RDWR | os.O_NOFOLLOW) as handle:
                        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        path.unlink()
                elif not os.path.lexists(path.with_suffix("")):
                    _remove(path)


def _remove(path: Path) -> None:
    """Remove a link or a whole directory, even if another process removes it at the same time."""
    while os.path.lexists(path):
        with contextlib.suppress(FileNotFoundError):
            if path.is_symlink():
                path.unlink()
            else:
                shutil.rmtree(path)


@contextlib.contextmanager
def temporary_in(directory: Path) -> Iterator[Path]:
    """Create a file, lock it during the block even if it is renamed, and remove it if it keeps its first name."""
    with DeferringSignals():
        while True:
            path = directory / f"{TEMPORARY_PREFIX}{host_digest()}{os.urandom(4).hex()}"
            try:
                with opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL) as handle:
                    # A shared lock, because reading the file through HDF5 takes one as well. On a file system without
                    # locks a stale file cannot be recognised, and is never removed.
                    with contextlib.suppress(OSError):
                        fcntl.flock(handle, fcntl.LOCK_SH)
                    if os.fstat(handle).st_nlink:  # else it was removed as stale before it was locked
                        with DeferringSignals(False):
                            yield path
                        return
            finally:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)


@contextlib.contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """Open a file descriptor for the block."""
    handle = os.open(path, flags, 0o666)
    try:
        yield handle
    finally:
        os.close(handle)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, as `replacing` does."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_output(path: Path, content: bytes) -> None:
    """Write a file that the user names: through links, and into a pipe or a device instead of replacing it.

    Raises:
        StoreError: it cannot be written.
        BrokenPipeError: nothing reads the pipe any more.
    """
    if not path.exists() or path.is_file():
        write_atomically(resolve_links(path), content)
        return
    try:
        path.write_bytes(content)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise storage_error(path, error) from error


class PatientFile(io.FileIO):
    """A new file to read and write, which stores the first write error and ignores all later writes.

    For HDF5, which crashes at the end of the process if a write fails.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self._error: OSError | None = None

    def write(self, content: Any, /) -> int:  # noqa: ANN401 - any buffer
        """Write all of `content`, unless an error is stored."""
        rest = memoryview(content).cast("B")
        size = len(rest)
        with self._storing_error():
            while self._error is None and len(rest):
                rest = rest[super().write(rest) :]
        return size

    def truncate(self, size: int | None = None, /) -> int:
        """Set the size of the file, unless an error is stored."""
        with self._storing_error():
            if self._error is None:
                return super().truncate(size)
        return self.tell() if size is None else size

    def check(self) -> None:
        """Raise the stored OSError, if there is one."""
        if self._error is not None:
            raise self._error

    @contextlib.contextmanager
    def _storing_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._error = error


def resolve_links(path: Path) -> Path:
    """Return where a path leads through links, so that writing there keeps links such as `/dev/stdout`."""
    return Path(os.path.realpath(path))


def flush(path: Path) -> None:
    """Flush a file or directory from the operating system's cache to the disk."""
    with opened(path, os.O_RDONLY) as handle:
        os.fsync(handle)
