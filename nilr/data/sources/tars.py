"""Tar archives, plain or compressed, and tars within them: listed once, then read in place, never unpacked to disk."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import re
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final, cast

from nilr.data.file_types import describe_content
from nilr.data.sources.members import (
    Listing,
    Member,
    Payload,
    cannot_read,
    container_name,
    is_junk,
    is_unwanted_class,
    safe_path,
)
from nilr.errors import DataError

BLOCK: Final = tarfile.BLOCKSIZE
_MAX_OFFSET: Final = 2**62
_MAX_GAP: Final = 8 * BLOCK
# Of what stands before a member to give it a longer name and the like.
_MAX_HEADER: Final = 2**20
_MAX_DEPTH: Final = 8
_MAX_RUN: Final = 2**18
# Of small images, most headers lie in the buffer already.
_BUFFER: Final = 2**16

# Name, size, checksum, type, magic and prefix.
_HEADER: Final = struct.Struct("100s24x12s12x8sc100x8s80x155s12x")
_OCTAL: Final = re.compile(rb"([0-7]+)[\0 ]*")
_MAGICS: Final = (tarfile.POSIX_MAGIC, tarfile.GNU_MAGIC)

_OPENERS: Final[Mapping[bytes, Callable[[Path], io.BufferedIOBase]]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}
_CONTENT_ERRORS: Final = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)
_AGAIN: Final = "get it again: its size or its SHA-256 should be the one that its publisher names"


def is_compressed(head: bytes) -> bool:
    """Tell whether a file begins as a gzip, bzip2 or xz file does."""
    return head.startswith(tuple(_OPENERS))


def is_tar(head: bytes) -> bool:
    """Tell whether a file's first block is a tar header, of any of its dialects, or the mark of an empty tar."""
    try:
        tarfile.TarInfo.frombuf(head[:BLOCK], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return len(head) >= BLOCK and not any(head[:BLOCK])
    return True


class TarReader:
    """Reads a tar.

    Args:
        path: the archive.
        prefix: put before the path of each member.
        only: the synsets to look into where tars lie in the tar; None for all.
    """

    kind = "tar"

    def __init__(self, path: Path, prefix: str, only: frozenset[str] | None = None) -> None:
        self._path = path
        self._prefix = prefix
        self._only = only

    def list_into(self, listing: Listing) -> None:
        """List every file, those of tars in the tar included.

        Raises:
            DataError: not a tar, truncated, corrupt, or with a member that leads out of it.
        """
        with self._open() as file:
            head = file.read(BLOCK)
            if not is_tar(head):
                what = describe_content(head)
                raise DataError(
                    f"`{self._path}` does not hold a tar: what is in it is {what}",
                    hint="a compressed file is read where it holds a tar; decompress anything else first",
                )
            file.seek(0)
            self._list(file, 0, self._prefix, listing)
            if self.is_stream:
                _read_out(file)

    def fetch(self, members: Iterable[Member]) -> Iterator[tuple[Member, Payload]]:
        """Read some members: in the order given, or from a compressed archive in its own order.

        Raises:
            DataError: it cannot be read any more.
        """
        with self._open() as file:
            for run in _runs(sorted(members, key=_offset) if self.is_stream else members):
                start, end = run[0].where, run[-1].where + run[-1].size
                content = _read_at(file, start, end - start)
                if len(content) < end - start:
                    raise self._truncated()
                for member in run:
                    yield member, content[member.where - start : member.where - start + member.size]

    @property
    def is_stream(self) -> bool:
        """Whether it can only be read from front to back."""
        with self._path.open("rb") as file:
            return is_compressed(file.read(8))

    @contextlib.contextmanager
    def _open(self) -> Iterator[io.BufferedIOBase]:
        try:
            with self._path.open("rb") as file:
                head = file.read(8)
            opener = next((opener for magic, opener in _OPENERS.items() if head.startswith(magic)), None)
            with opener(self._path) if opener else io.BufferedReader(io.FileIO(self._path), _BUFFER) as file:
                yield file
        except _CONTENT_ERRORS as error:
            raise DataError(f"`{self._path}` is truncated or corrupt: {error}", hint=_AGAIN) from error
        except OSError as error:
            raise cannot_read(self._path, error) from error

    def _list(self, file: io.BufferedIOBase, start: int, prefix: str, listing: Listing, depth: int = 0) -> None:
        if depth > _MAX_DEPTH:
            raise DataError(
                f"`{self._path}` has more than {_MAX_DEPTH} tars within one another",
                hint="unpack it, and give the folder",
            )
        for name, offset, size in self._headers(file, start):
            if is_junk(name):
                continue
            member = Member(f"{prefix}/{name}", size, self, offset)
            if not name.lower().endswith(".tar"):
                listing.add(member, partial(_read_head, file, offset, size))
                continue
            stem = container_name(member.filename)
            if is_unwanted_class(stem, self._only):
                listing.left_out.add(stem)
            elif is_tar(head := _read_at(file, offset, min(size, BLOCK))):
                self._list(file, offset, f"{member.path.rpartition('/')[0]}/{stem}", listing, depth + 1)
            else:
                listing.others[member.path] = describe_content(head)

    def _headers(self, file: io.BufferedIOBase, start: int) -> Iterator[tuple[str, int, int]]:
        """Give the name, offset and size of each file of the tar that begins at `start`."""
        # TarFile's own iteration takes a damaged header for the end of the archive; this does not.
        with tarfile.TarFile(fileobj=io.BytesIO(bytes(BLOCK)), mode="r") as archive:
            archive.fileobj, archive.offset = cast(io.BytesIO, _Headers(file)), start
            while True:
                file.seek(at := archive.offset)
                if not any(block := file.read(BLOCK)) and len(block) == BLOCK:
                    return
                if not archive.pax_headers and (plain := _plain_file(block)):
                    name, size = plain
                    archive.offset = at + BLOCK + -(-size // BLOCK) * BLOCK
                    yield safe_path(name, str(self._path)), at + BLOCK, size
                    continue
                info = self._header(archive, file, at)
                if info.issym() or info.islnk() or info.isdev():
                    raise DataError(
                        f"`{self._path}` has a member {info.name!r} that is a link or a device, not a file",
                        hint="pack the files themselves",
                    )
                name = safe_path(info.name, str(self._path))
                if info.isreg():
                    yield name, info.offset_data, info.size

    def _header(self, archive: tarfile.TarFile, file: io.BufferedIOBase, at: int) -> tarfile.TarInfo:
        file.seek(at)
        try:
            info = tarfile.TarInfo.fromtarfile(archive)
        except (tarfile.TarError, MemoryError, OverflowError, RecursionError, ValueError) as error:
            if not file.read(1):
                raise self._truncated() from error
            raise DataError(
                f"`{self._path}` is corrupt: there is no header at byte {at} ({error})", hint=_AGAIN
            ) from error
        if not at < archive.offset < _MAX_OFFSET or info.issparse():
            raise DataError(f"`{self._path}` is corrupt: the size of {info.name!r} cannot be", hint=_AGAIN)
        return info

    def _truncated(self) -> DataError:
        return DataError(f"`{self._path}` is truncated: it ends before its last member does", hint=_AGAIN)


class _Headers:
    """A file as `tarfile` sees it: it reads a header whole, whatever size that claims."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, n: int) -> bytes:
        if n > _MAX_HEADER:
            raise ValueError(f"it has {n:,} bytes")
        return self._file.read(n)


def _plain_file(block: bytes) -> tuple[str, int] | None:
    """Return the path and size that a header gives of a plain file; None where it takes `tarfile` to tell.

    `tarfile` takes 20 microseconds for a header, which shows when an image is decoded in 100.
    """
    if len(block) < BLOCK:
        return None
    name, size, checksum, kind, magic, prefix = _HEADER.unpack(block)
    digits, expected = _OCTAL.fullmatch(size), _OCTAL.fullmatch(checksum)
    if kind != tarfile.REGTYPE or magic not in _MAGICS or not digits or not expected:
        return None
    # The checksum is the sum of all bytes, as if its own field held spaces. The low half of an Adler-32 is that sum and
    # one, modulo 65521, and comes ten times as quickly.
    if int(expected[1], 8) + sum(checksum) - 8 * ord(" ") != (zlib.adler32(block) & 0xFFFF) - 1:
        return None
    path = name.partition(b"\0")[0]
    if magic == tarfile.POSIX_MAGIC and prefix[0]:
        path = prefix.partition(b"\0")[0] + b"/" + path
    return (path.decode("utf-8", "surrogateescape"), int(digits[1], 8)) if path[-1:] not in (b"", b"/") else None


def _read_out(file: io.BufferedIOBase) -> None:
    # A compressed file's checksum stands at its end.
    while file.read(2**20):
        pass


def _read_at(file: io.BufferedIOBase, offset: int, n: int) -> bytes:
    file.seek(offset)
    return file.read(n)


def _read_head(file: io.BufferedIOBase, offset: int, size: int, n: int) -> bytes:
    return _read_at(file, offset, min(size, n))


def _runs(members: Iterable[Member]) -> Iterator[list[Member]]:
    """Gather members that lie one behind the other, to be read at once."""
    run: list[Member] = []
    for member in members:
        if run:
            gap = member.where - run[-1].where - run[-1].size
            if not 0 <= gap <= _MAX_GAP or member.where + member.size - run[0].where > _MAX_RUN:
                yield run
                run = []
        run.append(member)
    if run:
        yield run


def _offset(member: Member) -> int:
    return cast(int, member.where)
