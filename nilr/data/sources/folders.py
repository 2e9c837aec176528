"""Folders of images, read where they are."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from nilr.data.sources.members import Listing, Member, Payload, Unreadable, cannot_read, is_junk, is_unwanted_class


class FolderReader:
    """Reads a folder and all in it; links are followed, as everywhere on the user's own disk.

    Args:
        path: the folder.
        prefix: put before the path of each file.
        only: the synsets to look into; None for all.
    """

    kind = "folder"

    def __init__(self, path: Path, prefix: str, only: frozenset[str] | None = None) -> None:
        self._path = path
        self._prefix = prefix
        self._only = only

    def list_into(self, listing: Listing) -> None:
        """List every file.

        Raises:
            DataError: a folder in it cannot be read.
        """
        for path in self._files(listing):
            name = path.relative_to(self._path).as_posix()
            try:
                status = path.stat()
                member = Member(f"{self._prefix}/{name}", status.st_size, self, path)
                if stat.S_ISREG(status.st_mode):
                    listing.add(member, partial(_read, path))
                else:  # whoever opens a pipe may wait for ever
                    listing.others[member.path] = "a pipe, a socket or a device"
            except OSError as error:
                raise cannot_read(path, error) from error

    def fetch(self, members: Iterable[Member]) -> Iterator[tuple[Member, Payload]]:
        """Read some files, in the order given; one that the system cannot read is unreadable."""
        for member in members:
            try:
                yield member, _read(member.where, member.size)
            except OSError as error:
                yield member, Unreadable(f"cannot be read ({error.strerror})")

    def _files(self, listing: Listing) -> Iterator[Path]:
        seen: set[tuple[int, int]] = set()

        def refuse(error: OSError) -> None:
            raise cannot_read(Path(error.filename), error) from error

        for directory, folders, files in os.walk(self._path, followlinks=True, onerror=refuse):
            status = Path(directory).stat()
            # A link may lead back to where we are.
            if (status.st_dev, status.st_ino) in seen:
                name = Path(directory).relative_to(self._path).as_posix()
                listing.others[f"{self._prefix}/{name}"] = "a link to a folder that is listed already"
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            listing.left_out.update(name for name in folders if is_unwanted_class(name, self._only))
            folders[:] = sorted(name for name in folders if not is_junk(name) and name not in listing.left_out)
            yield from (Path(directory, name) for name in sorted(files) if not is_junk(name))


def _read(path: Path, n: int) -> bytes:
    with path.open("rb") as file:
        return file.read(n)
