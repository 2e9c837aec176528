"""Locks of files, among the processes of one machine and of all machines that share a file system.

The lock is `flock`: the operating system releases it when its process ends, however it ends. Mounts of NFS and other
network file systems may keep `flock` on the machine. There, a second file names the machine that has the lock. It is
created exclusively, which is atomic on NFS too, and only its own machine takes it for a file of a process that ended.
"""

import contextlib
import fcntl
import os
import re
import socket
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
# Types of file systems that one machine alone uses, and of those whose `flock` all machines see, unless an option of
# the mount says that it does not leave the machine.
_LOCAL = {
    "ext2",
    "ext3",
    "ext4",
    "xfs",
    "btrfs",
    "zfs",
    "f2fs",
    "bcachefs",
    "tmpfs",
    "ramfs",
    "overlay",
    "vfat",
    "exfat",
}
_NETWORK = {"nfs", "nfs4", "lustre", "ceph", "gpfs"}
_LOCKS_STAY_HERE = {"nolock", "local_lock=flock", "local_lock=all", "localflock"}

_ATTEMPTS = 3
_RECORD_BYTES = 200


class InUseError(Exception):
    """Another process has the lock; the message is a hint that names it, if it is known."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock a file, which is created and stays, during the block.

    Raises:
        InUseError: another process has the lock, or another machine may have it.
        OSError: the file system has no locks, or the file cannot be written.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    with contextlib.ExitStack() as resources:
        resources.callback(os.close, handle)
        if not _flock(handle):
            raise InUseError(f"wait until {_describe(os.pread(handle, _RECORD_BYTES, 0))} ends")
        record = f"{_host()} {os.getpid()}\n".encode()
        if not shares_locks(path):
            resources.enter_context(_claimed(_claim(path), record))
        with contextlib.suppress(OSError):  # it is only for messages, and a full disk must not keep models
            os.ftruncate(handle, 0)
            os.pwrite(handle, record, 0)
            os.fsync(handle)
            resources.callback(_clear, handle)
        yield


def is_locked(path: Path) -> bool:
    """Return whether a process has locked a file, or another machine may have; False on a file system without locks."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return not shares_locks(path) and _is_foreign(_claim(path).read_bytes())
    return False


def shares_locks(path: Path) -> bool:
    """Return whether every machine that can use a path sees the locks of this one, as far as the mount tells.

    False for types of file systems that are not known here. Without information about mounts (macOS), True.
    """
    kind, options = "", set[str]()
    try:
        mounts = _MOUNTS.read_text().splitlines()
    except OSError:
        return True
    place = os.path.realpath(path)
    longest = ""
    for line in mounts:
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4])
        if len(point) >= len(longest) and f"{place}/".startswith(point.rstrip("/") + "/"):
            longest, (kind, _, flags) = point, after.split(" ", 2)
            options = set(flags.split(","))
    return kind in _LOCAL or (kind in _NETWORK and not options & _LOCKS_STAY_HERE)


def host_digest() -> str:
    """Return four hexadecimal digits for this machine, to distinguish its files from those of other machines."""
    return f"{zlib.crc32(_host().encode()) & 0xFFFF:04x}"


@contextlib.contextmanager
def _claimed(path: Path, record: bytes) -> Iterator[None]:
    """Hold the file that names the machine, during the block, when this machine's lock is held."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        found = path.read_bytes()
        if _is_foreign(found):
            known = f"machines may not see each other's locks on this file system, so if it has ended, remove `{path}`"
            raise InUseError(f"wait until {_describe(found)} ends ({known})") from None
        handle = os.open(path, os.O_WRONLY | os.O_TRUNC)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(record)
        yield
    finally:
        path.unlink(missing_ok=True)


def _clear(handle: int) -> None:
    with contextlib.suppress(OSError):
        os.ftruncate(handle, 0)


def _claim(path: Path) -> Path:
    return path.with_name(f"{path.name}.host")


def _is_foreign(record: bytes) -> bool:
    return record.split()[:1] != [_host().encode()]


def _describe(record: bytes) -> str:
    host, _, process = record.decode(errors="replace").strip().partition(" ")
    return f"process {process} on `{host}`" if process else "it"


def _host() -> str:
    return socket.gethostname().replace(" ", "_")[: _RECORD_BYTES // 2]


def _flock(handle: int) -> bool:
    """Lock a file; return False if another process has locked it for longer than `is_locked` does."""
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.02)
    return False
