"""Read files of arrays: pickles, without unpickling, NumPy's npz and npy, as the folders of images they represent.

A file of labels or class names, such as `train_labels.pkl`, `y_train.npy` or CIFAR's `meta`, belongs to the files of
images in its folder that have the same split in their names; one without a split belongs to all of them.
"""

import contextlib
import io
import math
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import numpy as np

from nilr.config.base import SPLITS, Split
from nilr.data.sources.arrays import AnyArray, ArrayImages, find_images, malformed, not_images, text
from nilr.data.sources.folders import FolderReader
from nilr.data.sources.members import (
    ARRAY_SUFFIXES,
    ClassFolders,
    Listing,
    Member,
    Payload,
    Unreadable,
    container_name,
    damaged,
    read_error,
)
from nilr.data.sources.unpickling import PickledArray, load_plain
from nilr.errors import DataError

# Of a file in an archive, which is read into memory; the largest published pickle has 813 MB.
_MAX_BYTES: Final = 2**30
_MAX_LABEL_BYTES: Final = 64 * 2**20
_MAX_HEADER: Final = 12 + 10_000  # bytes, as NumPy's own limit
_LABEL_FILE: Final = re.compile(r"(?:^|[\W_])(?:labels?|targets?|y|meta|(?:class_?)?names)(?:[\W_]|$)", re.IGNORECASE)
_OTHER_PHASE: Final = re.compile(r"train_phase_(val|test)")
_CONTENT_ERRORS: Final = (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, ValueError, RuntimeError)


class ArrayFile(NamedTuple):
    """A file of arrays, or a Parquet file."""

    name: str  # its path in the listing
    path: Path  # only a name if it is in an archive
    inside: Member | None = None  # the member of an archive that it is

    @property
    def kind(self) -> str:
        """Kind of the file: pickle, npz or npy."""
        suffix = self.path.suffix.lower()
        return suffix[1:] if suffix in ARRAY_SUFFIXES else "pickle"

    @property
    def split(self) -> Split | None:
        """The split in its name."""
        found = re.findall("|".join(SPLITS), self.path.stem)
        return next((split for split in SPLITS if found and found[-1] == split), None)

    @property
    def has_labels(self) -> bool:
        """Whether it has labels or class names only, by its name."""
        return _LABEL_FILE.search(self.path.name) is not None

    def content(self) -> bytes | None:
        """Return its bytes if it is in an archive; DataError if it is too large or damaged there."""
        if self.inside is None:
            return None
        if self.inside.size > _MAX_BYTES:
            raise DataError(
                f"`{self.path}` has {self.inside.size:,} bytes; a {self.kind} in an archive may have {_MAX_BYTES:,}",
                hint="extract it from the archive, and give it directly",
            )
        _, content = next(iter(self.inside.reader.fetch([self.inside])))
        if not isinstance(content, bytes):
            reason = content.reason if isinstance(content, Unreadable) else "is not a file"
            raise DataError(f"`{self.path}` {reason}", hint="download the archive again")
        return content


class GivenArrayFile:
    """Lists a file of arrays that the user gave by its path."""

    kind = "file"

    def __init__(self, path: Path) -> None:
        self._path = path

    def list_into(self, listing: Listing) -> None:
        """Add the file to the listing."""
        folder = FolderReader(self._path.parent, "")
        listing.arrays.append(Member(self._path.name, self._path.stat().st_size, folder, self._path))

    def fetch(self, members: Iterable[Member]) -> Iterator[tuple[Member, Payload]]:
        """Read nothing: images are listed with an `ArrayReader`."""
        yield from ()


class ArrayReader:
    """Reads the images of a file of arrays; its image `i` of class `c` is listed as `<split>/<c>/<c>-<i>`.

    Args:
        file: the file.
        beside: files of labels or class names that belong to it.
    """

    def __init__(self, file: ArrayFile, beside: Sequence[ArrayFile] = ()) -> None:
        self._file, self._beside, self.kind = file, beside, file.kind

    def list_into(self, listing: Listing) -> None:
        """Add every image to the listing."""
        for part, images in enumerate(self._read()):
            prefix = container_name(self._file.name) + (f"/{images.split}" if images.split else "")
            folders = ClassFolders(self._file.path)
            for name, indices in images.classes.items():
                folder = folders.find(name)
                for number, index in enumerate(indices.tolist()):
                    path = f"{prefix}/{folder}/{folder}-{number:05d}"
                    listing.images.append(Member(path, images.rows.n_bytes, self, (part, index, name)))

    def fetch(self, members: Iterable[Member]) -> Iterator[tuple[Member, Payload]]:
        """Read some images: in the given order, or in the file's order if it is compressed."""
        found = self._read()
        by_part: defaultdict[int, list[Member]] = defaultdict(list)
        for member in members:
            by_part[member.where[0]].append(member)
        for part, chosen in by_part.items():
            owners = found[part].owners() if part < len(found) else {}
            if any(owners.get(member.where[1]) != member.where[2] for member in chosen):
                raise DataError(f"`{self._file.path}` was changed while it was read", hint="run the command again")
            if found[part].rows.is_sequential:
                chosen.sort(key=lambda member: member.where)
            yield from zip(chosen, found[part].rows.read(member.where[1] for member in chosen), strict=True)

    def _read(self) -> list[ArrayImages]:
        return read_images(self._file, self._beside)


def read_images(file: ArrayFile, beside: Sequence[ArrayFile] = ()) -> list[ArrayImages]:
    """Read the images of a file of arrays by split.

    Pickles are held in memory. Of npz and npy files only labels are, and images are read on demand.

    Raises:
        DataError: the file is truncated, damaged or hostile, or has no images in a known form.
        StoreError: a pickle cannot be read.
    """
    if phase := _OTHER_PHASE.search(file.path.name):
        raise DataError(
            f"`{file.path}` contains further images of the training classes, which belong to no split of Mini-ImageNet",
            hint=f"leave the {phase[0]} file out; train_phase_train is the train split",
        )
    values: dict[str, object] = {}
    for each in (*beside, file):
        values |= _values(each)
    found = find_images(file.path, values, file.split)
    if not found:
        raise not_images(file.path, values)
    return found


def _values(file: ArrayFile) -> dict[str, object]:
    """Return the values of a file by name; one without a name is called images or labels, as the file's name says."""
    unnamed = "labels" if file.has_labels else "images"
    if file.kind == "npz":
        return dict(_npz_arrays(file))
    if file.kind == "npy":
        content = file.content()
        size = file.path.stat().st_size if content is None else len(content)
        return {unnamed: NpyArray(file.path, file.path.name, size, lambda: _opened(file.path, content))}
    loaded = load_plain(file.path, file.content())
    if isinstance(loaded, dict):
        return {text(key): value for key, value in loaded.items()}
    if isinstance(loaded, list | tuple | PickledArray):
        return {unnamed: loaded}
    raise not_images(file.path, loaded)


def _npz_arrays(file: ArrayFile) -> Iterator[tuple[str, "NpyArray"]]:
    content = file.content()

    @contextlib.contextmanager
    def entry(name: str) -> Iterator[IO[bytes]]:
        with _opened(file.path, content) as source, zipfile.ZipFile(source) as archive, archive.open(name) as opened:
            yield opened

    with _checked(file.path), _opened(file.path, content) as source, zipfile.ZipFile(source) as archive:
        infos = archive.infolist()
    for info in infos:
        name, is_stored = info.filename.removesuffix(".npy"), info.compress_type == zipfile.ZIP_STORED
        opener = partial(entry, info.filename)
        yield name, NpyArray(file.path, name, info.file_size, opener, is_sequential=not is_stored)


class NpyArray:
    """An array in NumPy's format, of which nothing but the header is read at first.

    Raises:
        DataError: the header is damaged or lies about the size, or the array is of anything but numbers or text.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        size: int,
        open_file: Callable[[], AbstractContextManager[IO[bytes]]],
        *,
        is_sequential: bool = False,
    ) -> None:
        self._path, self._name, self._open, self.is_sequential = path, name, open_file, is_sequential
        with _checked(path), open_file() as file:
            head = io.BytesIO(file.read(_MAX_HEADER))
            self.shape, fortran, self.dtype = _read_header(head)
        self._offset, n_bytes = head.tell(), math.prod(self.shape) * self.dtype.itemsize
        if self.dtype.kind not in "biufSU":
            what = "Python objects, which are never unpickled" if self.dtype.hasobject else f"{self.dtype}"
            raise DataError(
                f"`{path}` contains an array of {what}: `{name}`",
                hint="save it as an array of numbers or text, without `allow_pickle`",
            )
        if min(self.shape, default=0) < 0 or n_bytes != size - self._offset:
            raise damaged(path, f"truncated or corrupt: `{name}` of shape {self.shape} needs {n_bytes:,} bytes")
        if fortran and len(self.shape) > 1:
            raise malformed(path, f"{name} is in Fortran order; save it in C order")

    def load(self) -> AnyArray:
        """Return the whole array; DataError if it has more than 64 MiB."""
        n_bytes = math.prod(self.shape) * self.dtype.itemsize
        if n_bytes > _MAX_LABEL_BYTES:
            raise malformed(self._path, f"{self._name} has {n_bytes:,} bytes, too many for labels or names")
        with _checked(self._path), self._open() as file:
            file.seek(self._offset)
            return np.frombuffer(_exactly(file, n_bytes), self.dtype).reshape(self.shape)

    def items(self, n_axes: int, indices: Iterable[int]) -> Iterator[AnyArray]:
        """Yield items."""
        shape = self.shape[n_axes:]
        size = math.prod(shape) * self.dtype.itemsize
        with _checked(self._path), self._open() as file:
            for index in indices:
                file.seek(self._offset + index * size)
                yield np.frombuffer(_exactly(file, size), self.dtype).reshape(shape)


def _read_header(head: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, whether in Fortran order, and dtype; ValueError if the header is damaged."""
    try:
        version = np.lib.format.read_magic(head)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        return readers[version](head)
    except Exception as error:  # NumPy raises nearly any exception for a broken header
        raise ValueError(f"invalid header ({first_line(error)})") from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error of another library, as a part of a message."""
    return (str(error).splitlines() or [""])[0][:200].lower().rstrip(".")


def _exactly(file: IO[bytes], n: int) -> bytes:
    content = file.read(n)
    if len(content) < n:
        raise EOFError("it ends too early")
    return content


def _opened(path: Path, content: bytes | None) -> AbstractContextManager[IO[Any]]:
    return path.open("rb") if content is None else io.BytesIO(content)


@contextlib.contextmanager
def _checked(path: Path) -> Iterator[None]:
    try:
        yield
    except _CONTENT_ERRORS as error:
        raise damaged(path, f"truncated or corrupt: {first_line(error)}") from error
    except OSError as error:
        raise read_error(path, error) from error
