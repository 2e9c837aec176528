"""Read tar archives, plain or compressed, and tars inside them, without unpacking them to the disk."""

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
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import IO, Final, cast

from nilr.data.file_types import describe_content
from nilr.data.sources.members import (
    SPECIAL_FILE,
    Listing,
    Member,
    Opener,
    Payload,
    container_name,
    damaged,
    is_junk,
    is_unwanted_class,
    plain_path,
    read_error,
    safe_path,
)
from nilr.errors import DataError

BLOCK: Final = tarfile.BLOCKSIZE
_MAX_OFFSET: Final = 2**62
# Of an extended header, such as a long name.
_MAX_HEADER: Final = 2**20
_MAX_DEPTH: Final = 8
# With small images, the next header is usually in the buffer.
_BUFFER: Final = 2**16

# Name, size, checksum, type, magic and prefix.
_HEADER: Final = struct.Struct("100s24x12s12x8sc100x8s80x155s12x")
_OCTAL: Final = re.compile(rb"([0-7]+)[\0 ]*")
_MAGICS: Final = (tarfile.POSIX_MAGIC, tarfile.GNU_MAGIC)

_OPENERS: Final[Mapping[bytes, Callable[[IO[bytes]], io.BufferedIOBase]]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}
_CONTENT_ERRORS: Final = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)
_CONTINUED: Final = b"M"  # the type of GNU tar for the rest of a file that began in another volume
_SPARSE: Final = "a sparse file"
_SPECIAL: Final = {
    tarfile.LNKTYPE: "a hard link to a missing file",
    **dict.fromkeys((tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE), SPECIAL_FILE),
}


def is_compressed(head: bytes) -> bool:
    """Return whether a file begins like a gzip, bzip2 or xz file."""
    return head.startswith(tuple(_OPENERS))


def is_tar(head: bytes) -> bool:
    """Return whether a file's first block is a tar header of any dialect, or the zero block of an empty tar."""
    try:
        tarfile.TarInfo.frombuf(head[:BLOCK], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return len(head) >= BLOCK and not any(head[:BLOCK])
    return True


class TarReader:
    """Reads a tar; `only` applies to the tars inside it.

    `opened` opens it if it is inside another archive, and `path` is then only its name.
    """

    kind = "tar"

    def __init__(
        self, path: Path, prefix: str, only: frozenset[str] | None = None, opened: Opener | None = None
    ) -> None:
        self._path, self._prefix, self._only, self._opened = path, prefix, only, opened

    def list_into(self, listing: Listing) -> None:
        """Add every file to the listing, including those of tars inside the tar."""
        with self._open() as file:
            head = file.read(BLOCK)
            if not is_tar(head):
                raise DataError(
                    f"`{self._path}` does not contain a tar but {describe_content(head)}",
                    hint="only compressed tars are read; decompress any other file first",
                )
            file.seek(0)
            self._list(file, 0, self._prefix, listing)
            self._read_to_end(file, listing)

    def fetch(self, members: Iterable[Member]) -> Iterator[tuple[Member, Payload]]:
        """Read some members: in the given order, or in archive order if it is compressed."""
        with self._open() as file:
            where, content = -1, b""
            for member in sorted(members, key=lambda member: member.where) if self._is_compressed() else members:
                if member.where != where:  # hard links have the place of one file
                    where, content = member.where, _read_at(file, member.where, member.size)
                if len(content) < member.size:
                    raise self._truncated()
                yield member, content

    def _raw(self) -> AbstractContextManager[IO[bytes]]:
        return self._opened() if self._opened else io.FileIO(self._path)

    def _head(self) -> bytes:
        with self._raw() as file:
            return file.read(8)

    def _is_compressed(self) -> bool:
        return self._opened is not None or is_compressed(self._head())

    @contextlib.contextmanager
    def _open(self) -> Iterator[io.BufferedIOBase]:
        try:
            head = self._head()
            opener = next((opener for magic, opener in _OPENERS.items() if head.startswith(magic)), None)
            with (
                self._raw() as raw,
                opener(raw) if opener else io.BufferedReader(cast(io.RawIOBase, raw), _BUFFER) as file,
            ):
                yield file
        except _CONTENT_ERRORS as error:
            raise damaged(self._path, f"truncated or corrupt: {error}") from error
        except OSError as error:
            raise read_error(self._path, error) from error

    def _list(self, file: io.BufferedIOBase, start: int, prefix: str, listing: Listing, depth: int = 0) -> None:
        if depth > _MAX_DEPTH:
            raise DataError(
                f"`{self._path}` has tars nested more than {_MAX_DEPTH} levels deep",
                hint="unpack it, and give the folder",
            )
        for name, place in self._headers(file, start):
            if is_junk(name):
                continue
            if isinstance(place, tarfile.TarInfo):
                if place.issym():
                    listing.add_link(f"{prefix}/{name}", place.linkname)
                else:
                    listing.leave_out(f"{prefix}/{name}", _SPECIAL.get(place.type, _SPARSE))
                continue
            offset, size = place
            member = Member(f"{prefix}/{name}", size, self, offset)
            read = partial(_read_head, file, offset, size)
            stem = container_name(member.filename) if name.lower().endswith(".tar") else None
            if stem and is_unwanted_class(stem, self._only):
                listing.skipped_classes.add(stem)
            elif stem and is_tar(read(BLOCK)):
                self._list(file, offset, f"{member.path.rpartition('/')[0]}/{stem}", listing, depth + 1)
            else:
                listing.add(member, read)

    def _read_to_end(self, file: io.BufferedIOBase, listing: Listing) -> None:
        """Read the checksum at the end of a compressed file; like `tar` and `gunzip`, ignore data behind the end."""
        container = None
        try:
            while chunk := file.read(2**20):
                container = "tar" if chunk.strip(b"\0") else container
        except gzip.BadGzipFile as error:
            if "Not a gzipped file" not in str(error):
                raise
            container = "gzip file"
        if container:
            listing.warnings.append(f"ignored data after the end of the {container} `{self._path}`")

    def _headers(self, file: io.BufferedIOBase, start: int) -> Iterator[tuple[str, tuple[int, int] | tarfile.TarInfo]]:
        """Yield the name and place (offset, size) of each file of the tar at `start`; of a special file, its header."""
        files: dict[str, tuple[int, int]] = {}
        # TarFile's own iteration treats a damaged header as the end of the archive.
        with tarfile.TarFile(fileobj=io.BytesIO(bytes(BLOCK)), mode="r") as archive:
            archive.fileobj, archive.offset = cast(io.BytesIO, _Headers(file)), start
            while True:
                file.seek(at := archive.offset)
                if not any(block := file.read(BLOCK)) and len(block) == BLOCK:
                    return
                if not archive.pax_headers and (plain := _plain_file(block)):
                    name, size = plain
                    archive.offset = at + BLOCK + -(-size // BLOCK) * BLOCK
                    name = safe_path(name, self._path)
                    files[name] = at + BLOCK, size
                    yield name, files[name]
                    continue
                info = self._header(archive, file, at)
                name = safe_path(info.name, self._path)
                is_file = info.isreg() and not info.issparse()
                place = (info.offset_data, info.size) if is_file else files.get(plain_path(info.linkname))
                if place and (is_file or info.islnk()):
                    files[name] = place
                    yield name, place
                elif info.issym() or info.issparse() or info.type in _SPECIAL:
                    yield name, info

    def _header(self, archive: tarfile.TarFile, file: io.BufferedIOBase, at: int) -> tarfile.TarInfo:
        file.seek(at)
        try:
            info = tarfile.TarInfo.fromtarfile(archive)
        except (tarfile.TarError, MemoryError, OverflowError, RecursionError, ValueError) as error:
            if not file.read(1):
                raise self._truncated() from error
            raise damaged(self._path, f"corrupt: invalid header at byte {at} ({error})") from error
        if info.type == _CONTINUED or "GNU.volume.offset" in info.pax_headers:
            raise DataError(
                f"`{self._path}` is a volume of a multi-volume tar: it begins inside {info.name!r}",
                hint="unpack all volumes with `tar --multi-volume`, and give the folder",
            )
        if not at < archive.offset < _MAX_OFFSET:
            raise damaged(self._path, f"corrupt: invalid size of {info.name!r}")
        return info

    def _truncated(self) -> DataError:
        return damaged(self._path, "truncated, or one volume of several: it ends before the end of its last member")


class _Headers:
    """The file as `tarfile` reads it, with a limit on the size of a header: `tarfile` has none."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, n: int) -> bytes:
        if n > _MAX_HEADER:
            raise ValueError(f"it has {n:,} bytes")
        return self._file.read(n)


def _plain_file(block: bytes) -> tuple[str, int] | None:
    """Return the path and size in the header of a plain file; None for any other header, which `tarfile` parses.

    `tarfile` takes 20 microseconds per header; decoding an image takes about 100.
    """
    if len(block) < BLOCK:
        return None
    name, size, checksum, kind, magic, prefix = _HEADER.unpack(block)
    digits, expected = _OCTAL.fullmatch(size), _OCTAL.fullmatch(checksum)
    if kind != tarfile.REGTYPE or magic not in _MAGICS or not digits or not expected:
        return None
    # The checksum is the sum of all bytes, with spaces for its own field. The low half of an Adler-32 is the sum of all
    # bytes plus one, modulo 65521, and is ten times as fast.
    if int(expected[1], 8) + sum(checksum) - 8 * ord(" ") != (zlib.adler32(block) & 0xFFFF) - 1:
        return None
    path = name.partition(b"\0")[0]
    if magic == tarfile.POSIX_MAGIC and prefix[0]:
        path = prefix.partition(b"\0")[0] + b"/" + path
    return (path.decode("utf-8", "surrogateescape"), int(digits[1], 8)) if path[-1:] not in (b"", b"/") else None


def _read_head(file: io.BufferedIOBase, offset: int, size: int, n: int) -> bytes:
    return _read_at(file, offset, min(size, n))


def _read_at(file: io.BufferedIOBase, offset: int, n: int) -> bytes:
    file.seek(offset)
    return file.read(n)
