"""Read zip archives: listed from their directory, read member by member, never unpacked to disk."""

import contextlib
import lzma
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from nilr.data.sources.members import Listing, Member, Payload, Unreadable, is_junk, read_error, safe_path
from nilr.errors import DataError

_CONTENT_ERRORS: Final = (zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, NotImplementedError, ValueError)
_ENCRYPTED: Final = 0x1


class ZipReader:
    """Reads a zip."""

    kind = "zip"

    def __init__(self, path: Path, prefix: str) -> None:
        self._path, self._prefix = path, prefix

    def list_into(self, listing: Listing) -> None:
        """Add every file to the listing; an archive in the zip is not opened."""
        with self._open() as archive:
            for info in archive.infolist():
                name = safe_path(info.filename, self._path)
                self._check(info)
                if not info.is_dir() and not is_junk(name):
                    member = Member(f"{self._prefix}/{name}", info.file_size, self, info)
                    listing.add(member, partial(_read, archive, info))

    def fetch(self, members: Iterable[Member]) -> Iterator[tuple[Member, Payload]]:
        """Read some members, in the order given; a damaged member is `Unreadable`."""
        with self._open() as archive:
            for member in members:
                try:
                    yield member, _read(archive, member.where, member.size)
                except _CONTENT_ERRORS as error:
                    yield member, Unreadable(f"is damaged in the archive ({error})")

    @contextlib.contextmanager
    def _open(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self._path) as archive:
                yield archive
        except _CONTENT_ERRORS as error:
            raise DataError(
                f"`{self._path}` is truncated or corrupt: {str(error).lower()}",
                hint="download it again, and compare its size or SHA-256 with the published one",
            ) from error
        except OSError as error:
            raise read_error(self._path, error) from error

    def _check(self, info: zipfile.ZipInfo) -> None:
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise DataError(
                f"`{self._path}` has a member {info.filename!r} that is a link or a device, not a file",
                hint="create the archive from regular files",
            )
        if info.flag_bits & _ENCRYPTED:
            raise DataError(f"`{self._path}` is encrypted: {info.filename!r} needs a password", hint="decrypt it first")


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, n: int) -> bytes:
    with archive.open(info) as file:
        return file.read(n)
