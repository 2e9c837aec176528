"""Read zip archives: listed from their directory, read member by member, never unpacked to disk."""

import contextlib
import io
import lzma
import shlex
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Final

from nilr.data.sources.members import (
    MAX_PATH,
    SPECIAL_FILE,
    Listing,
    Member,
    Opener,
    Payload,
    Unreadable,
    damaged,
    is_junk,
    read_error,
    safe_path,
)
from nilr.errors import DataError
from nilr.files import path_argument

_CONTENT_ERRORS: Final = (zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, NotImplementedError, ValueError)
# Bits of a member's flags.
_ENCRYPTED: Final = 0x1
_UTF8: Final = 0x800
_END_SIZE: Final = 22  # of the record at the end, without the comment behind it
_END_SEARCHED: Final = _END_SIZE + 2**16 - 1  # bytes at the end of a file that may contain this record
_OTHER_METHODS: Final = {9: "Deflate64", 93: "Zstandard", 95: "XZ", 98: "PPMd"}
_METHODS: Final = frozenset({
    zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA,
    getattr(zipfile, "ZIP_ZSTANDARD", zipfile.ZIP_STORED),  # Python 3.14
})  # fmt: skip


def is_zip(what: str, path: Path) -> bool:
    """Return whether a file that is described as `what` is a zip, perhaps behind a program that unpacks it."""
    if what in ("a file of unknown type", "a text file"):
        return zipfile.is_zipfile(path)
    return what in ("a zip archive", "an empty zip archive")


class ZipReader:
    """Reads a zip; `opened` opens it if it is inside another archive, and `path` is then only its name."""

    kind = "zip"

    def __init__(self, path: Path, prefix: str, opened: Opener | None = None) -> None:
        self._path, self._prefix, self._opened = path, prefix, opened

    def list_into(self, listing: Listing) -> None:
        """Add every file to the listing; an archive in the zip is not opened."""
        with self._open() as (archive, file):
            self._check_ends(archive, file, listing)
            for info in archive.infolist():
                name = safe_path(_decoded_name(info), self._path)
                if info.filename.endswith(("/", "\\")) or is_junk(name):
                    continue
                member = Member(f"{self._prefix}/{name}", info.file_size, self, info)
                kind = stat.S_IFMT(info.external_attr >> 16)
                if what := _unsupported(info, kind):
                    listing.leave_out(member.path, what)
                elif kind == stat.S_IFLNK:
                    listing.add_link(member.path, _read(archive, info, MAX_PATH).decode(errors="surrogateescape"))
                else:
                    listing.add(member, partial(_read, archive, info))

    def fetch(self, members: Iterable[Member]) -> Iterator[tuple[Member, Payload]]:
        """Read some members, in the order given, or in that of a zip inside a zip; a damaged one is `Unreadable`."""
        if self._opened is not None:  # seeking back means unpacking from the start
            members = sorted(members, key=lambda member: member.where.header_offset)
        with self._open() as (archive, _):
            for member in members:
                try:
                    yield member, _read(archive, member.where, member.size)
                except _CONTENT_ERRORS as error:
                    yield member, Unreadable(f"is damaged in the archive ({error})")

    @contextlib.contextmanager
    def open_member(self, member: Member) -> Iterator[IO[bytes]]:
        """Open a member, such as an archive, for reading; it can be sought."""
        with self._open() as (archive, _), archive.open(member.where) as file:
            yield file

    @contextlib.contextmanager
    def _open(self) -> Iterator[tuple[zipfile.ZipFile, IO[bytes]]]:
        try:
            with self._opened() if self._opened else self._path.open("rb") as file, zipfile.ZipFile(file) as archive:
                yield archive, file
        except _CONTENT_ERRORS as error:
            raise damaged(self._path, f"truncated or corrupt: {str(error).lower()}") from error
        except OSError as error:
            raise read_error(self._path, error) from error

    def _check_ends(self, archive: zipfile.ZipFile, file: IO[bytes], listing: Listing) -> None:
        """Like `unzip`, ignore data before the first member and behind the end; DataError for a part of a split zip."""
        file.seek(max(0, file.seek(0, io.SEEK_END) - _END_SEARCHED))
        tail = file.read()
        # The record at the end begins with a magic of 4 bytes and the number of this part, if it is one of several.
        end = tail[tail.rfind(b"PK\5\6") :]
        if end[4:6] not in (b"\0\0", b"\xff\xff"):
            raise DataError(
                f"`{self._path}` is the last part of a split zip archive",
                hint=f"join the parts with `zip -s 0 {shlex.quote(path_argument(self._path))} --out joined.zip`",
            )
        if min((info.header_offset for info in archive.infolist()), default=archive.start_dir) > 0:
            listing.warnings.append(f"ignored data before the zip archive in `{self._path}`")
        if end[_END_SIZE + len(archive.comment) :].strip(b"\0"):
            listing.warnings.append(f"ignored data after the end of the zip `{self._path}`")


def _unsupported(info: zipfile.ZipInfo, kind: int) -> str | None:
    """Return what a member is that cannot be read, or None."""
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        return SPECIAL_FILE
    if info.flag_bits & _ENCRYPTED:
        return "an encrypted file"
    if info.compress_type not in _METHODS:
        return f"a file compressed with {_OTHER_METHODS.get(info.compress_type, f'method {info.compress_type}')}"
    return None


def _decoded_name(info: zipfile.ZipInfo) -> str:
    """Return a member's name; some programs write UTF-8 without setting its flag."""
    if not info.filename.isascii() and not info.flag_bits & _UTF8:
        with contextlib.suppress(UnicodeError):
            return info.filename.encode("cp437").decode()
    return info.filename


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, n: int) -> bytes:
    with archive.open(info) as file:
        return file.read(n)
