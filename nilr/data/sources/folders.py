"""Read folders of images in place."""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from nilr.data.sources.members import (
    SPECIAL_FILE,
    Listing,
    Member,
    Payload,
    Unreadable,
    is_junk,
    is_unwanted_class,
    read_error,
)


class FolderReader:
    """Reads a folder and its subfolders; symbolic links are followed."""

    kind = "folder"

    def __init__(self, path: Path, prefix: str, only: frozenset[str] | None = None) -> None:
        self._path, self._prefix, self._only = path, prefix, only

    def list_into(self, listing: Listing) -> None:
        """Add every file to the listing."""
        for path in self._files(listing):
            try:
                status = path.stat()
                member = Member(self._name(path), status.st_size, self, path)
                if stat.S_ISREG(status.st_mode):
                    listing.add(member, partial(_read, path))
                else:  # opening a pipe may block forever
                    listing.others[member.path] = SPECIAL_FILE
            except OSError as error:
                listing.unread[self._name(path)] = _describe(error)

    def fetch(self, members: Iterable[Member]) -> Iterator[tuple[Member, Payload]]:
        """Read some files, in the order given; an error of the operating system makes a file `Unreadable`."""
        for member in members:
            try:
                yield member, _read(member.where, member.size)
            except OSError as error:
                yield member, Unreadable(f"cannot be read ({error.strerror})")

    def _name(self, path: Path) -> str:
        return f"{self._prefix}/{path.relative_to(self._path).as_posix()}"

    def _files(self, listing: Listing) -> Iterator[Path]:
        seen: set[tuple[int, int]] = set()

        def leave_out(error: OSError) -> None:
            if (path := Path(error.filename)) == self._path:
                raise read_error(path, error) from error
            listing.unread[self._name(path)] = _describe(error)

        for directory, folders, files in os.walk(self._path, followlinks=True, onerror=leave_out):
            status = Path(directory).stat()
            if (status.st_dev, status.st_ino) in seen:  # links may form a cycle
                listing.others[self._name(Path(directory))] = "a link to a folder that is already listed"
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            listing.skipped_classes.update(name for name in folders if is_unwanted_class(name, self._only))
            folders[:] = sorted(name for name in folders if not is_junk(name) and name not in listing.skipped_classes)
            yield from (Path(directory, name) for name in sorted(files) if not is_junk(name))


def _describe(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ELOOP):
        return "is a link to a missing file"
    return f"cannot be read ({(error.strerror or str(error)).lower()})"


def _read(path: Path, n: int) -> bytes:
    with path.open("rb") as file:
        return file.read(n)
