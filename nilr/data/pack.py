"""Open, check and serve a pack: one HDF5 file.

Each array is one contiguous run of bytes, so images are read at their offsets: less than a millisecond per episode,
where HDF5's own selections take 8 to 190. They are not mapped into memory, because a mapped file that is truncated, or
on a failing disk, kills the process. Only the structure in docs/file-formats.md is accepted, and every offset and
length is checked against the file.
"""

import hashlib
import itertools
import math
import operator
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args

import h5py
import numpy as np
import numpy.typing as npt

from nilr.config.base import SPLITS, Fit, Resample
from nilr.data.digests import Images, bytes_sha256, combined_digest, content_digest, image_digests
from nilr.data.file_types import HEAD_SIZE, describe_content
from nilr.errors import DataError
from nilr.files import storage_error
from nilr.words import is_name

FORMAT: Final = "nilr-pack"
FORMAT_VERSION: Final = 1
ARRAYS: Final = ("images", "labels", "classes", "filenames")

_CHUNK_BYTES: Final = 2**22  # that are read at once
_PARTS: Final = 8  # of these, in threads
_MIDDLE: Final = 64  # bytes of an image that are compared first
_REPACK: Final = "pack the data again, with `prepare-data` and --force"
GENERATED: Final = "generated"  # the `source` of a pack of generated images
_PACK: Final = "create a pack with `prepare-data`"
# What h5py and the conversions below raise for a broken file.
_BROKEN: Final = (OSError, RuntimeError, LookupError, ValueError, TypeError, OverflowError)


class Counts(NamedTuple):
    """Number of classes and images of a split."""

    classes: int
    images: int


@dataclass(frozen=True)
class PackInfo:
    """The attributes of a pack."""

    name: str  # name of the pack
    image_size: int  # height and width of the images, in pixels
    resample: str  # filter for images of another size
    source: str  # kind of source, such as `class folders in tar`
    licence: str  # note on the permitted use of the images
    created_at: str = ""  # ISO 8601, UTC
    digest: str = ""  # content digest, hex
    fit: str = "stretch"  # how images of another size became squares
    channels: int = 3  # 3: RGB; 1: grey

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image, (S, S, C)."""
        return self.image_size, self.image_size, self.channels

    @property
    def generated(self) -> bool:
        """Whether nilr generated the images."""
        return self.source == GENERATED


class ImageFile:
    """The images of a split in a pack's file, which stays open: uint8 (n, S, S, C), grouped by class.

    Args:
        path: the pack.
        offset: position of the first image, in bytes.
        shape: (n, S, S, C).
    """

    def __init__(self, path: Path, offset: int, shape: tuple[int, ...]) -> None:
        self._path, self._offset, self.shape = path, offset, shape
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def read(self, rows: Iterable[int]) -> Images:
        """Return the images at the given positions, (len(rows), S, S, C).

        Raises:
            DataError: the file was truncated after it was opened.
            StoreError: it cannot be read.
        """
        rows = list(rows)
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)
        size = math.prod(self.shape[1:])
        if rows:
            content = images.data.cast("B")
            for i, row in enumerate(rows):
                self._fill(content[i * size : (i + 1) * size], row * size)
        return images

    def chunks(self) -> Iterator[Images]:
        """Read all images in order, some megabytes at a time, each (n, S, S, C); see `read`."""
        size = math.prod(self.shape[1:])
        step = max(1, _CHUNK_BYTES // size)
        for start in range(0, self.shape[0], step):
            chunk = np.empty((min(step, self.shape[0] - start), *self.shape[1:]), np.uint8)
            self._fill(chunk.data.cast("B"), start * size)
            yield chunk

    def __iter__(self) -> Iterator[Images]:
        """Read all images one after another, each (S, S, C); see `read`."""
        for chunk in self.chunks():
            yield from chunk

    def middles(self) -> Iterator[bytes]:
        """Read the bytes in the middle of each image: almost all images differ in them."""
        size = math.prod(self.shape[1:])
        n = min(size, _MIDDLE)
        for row in range(self.shape[0]):
            middle = bytearray(n)
            self._fill(memoryview(middle), row * size + (size - n) // 2)
            yield bytes(middle)

    def _fill(self, rest: memoryview, position: int) -> None:
        position += self._offset
        while rest:
            try:
                piece = os.pread(self._file, len(rest), position)
            except OSError as error:
                raise storage_error(self._path, error, "read") from error
            if not piece:
                raise DataError(
                    f"`{self._path}` was truncated while it was in use: there is nothing at byte {position:,}",
                    hint=f"copy it again, or {_REPACK}",
                )
            rest[: len(piece)] = piece
            rest, position = rest[len(piece) :], position + len(piece)


@dataclass(frozen=True)
class PackedSplit:
    """One split: its images in the file, all else in memory."""

    name: str  # train, val or test
    class_names: tuple[str, ...]  # the classes, in name order
    class_sizes: tuple[int, ...]  # images per class, in class order
    digest: str  # digest of the split's pixels by class, hex
    images: ImageFile
    arrays: Mapping[str, npt.NDArray[Any]]  # the other arrays by name
    sha256: Mapping[str, str]  # the recorded SHA-256 of each array, hex

    def filenames(self) -> list[str]:
        """Return the base name of each image's file, in the order of `images`."""
        return [name.decode(errors="replace") for name in self.arrays["filenames"].tolist()]


@dataclass(frozen=True)
class Pack:
    """A pack with a valid format and structure; `open_split` checks the content of a split."""

    path: Path
    info: PackInfo
    _splits: Mapping[str, PackedSplit]

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits of this pack, in the order train, val, test."""
        return tuple(self._splits)

    def counts(self) -> dict[str, Counts]:
        """Return the number of classes and images of each split."""
        return {name: Counts(len(split.class_sizes), sum(split.class_sizes)) for name, split in self._splits.items()}

    def open_split(self, name: str, *, verify: bool = True) -> PackedSplit:
        """Return a split.

        Args:
            name: train, val or test.
            verify: read it once and check its four digests (half a second per gigabyte; this fills the file cache).

        Raises:
            DataError: the split is missing, or its content has changed since it was written.
        """
        if name not in self._splits:
            raise DataError(
                f"`{self.path}` has no split `{name}`; it has {', '.join(self.splits)}",
                hint="choose one of these splits, or pack the data again with another split",
            )
        split = self._splits[name]
        if verify:
            _check_arrays(self.path, split, bytes_sha256(split.images.chunks()))
        return split


def open_pack(path: Path) -> Pack:
    """Open a pack and check its format, version and structure, but not the content of its splits.

    Raises:
        DataError: the file is missing, not a pack, of another version, truncated or damaged.
        StoreError: the file cannot be read.
    """
    _check_head(path)
    try:
        with h5py.File(path, "r", locking=False) as file:
            _check_format(path, file)
            info = _read_info(path, file)
            splits = {name: _read_split(path, file, name, info) for name in _split_names(path, file)}
        digest = content_digest({name: bytes.fromhex(split.digest) for name, split in splits.items()})
    except _BROKEN as error:
        if "truncated file" in str(error):
            raise DataError(
                f"`{path}` is truncated: it is shorter than it was when written", hint=f"copy it again, or {_REPACK}"
            ) from error
        raise _damaged(path, "its structure cannot be read") from error
    if digest != info.digest:
        raise _damaged(path, "its content digest does not match its splits")
    return Pack(path, info, splits)


def verify_pack(path: Path, advance: Callable[[int], None] = lambda n: None) -> Pack:
    """Open a pack, read all of it once and check every digest; DataError if the content has changed.

    `advance` gets the number of images that have been read since the last call.
    """
    pack = open_pack(path)
    for name in pack.splits:
        split = pack.open_split(name, verify=False)
        images_sha256, digests = _read_digests(split.images, advance)
        _check_arrays(path, split, images_sha256)
        of_images = iter(digests)
        classes = (combined_digest(itertools.islice(of_images, size)) for size in split.class_sizes)
        if combined_digest(classes).hex() != split.digest:
            raise _damaged(path, f"the digest of split `{name}` does not match its images")
    return pack


def _read_digests(images: ImageFile, advance: Callable[[int], None]) -> tuple[str, list[bytes]]:
    """Return the SHA-256 of all images as hex, and the digest of each, computed in several threads."""
    whole, digests = hashlib.sha256(), []
    with ThreadPoolExecutor() as pool:
        for chunk in images.chunks():
            parts = [pool.submit(image_digests, part) for part in np.array_split(chunk, min(len(chunk), _PARTS))]
            whole.update(chunk.data)
            digests += [digest for part in parts for digest in part.result()]
            advance(len(chunk))
    return whole.hexdigest(), digests


def _check_arrays(path: Path, split: PackedSplit, images_sha256: str) -> None:
    """Check the digest of every array of a split; DataError if one has changed."""
    found = {name: bytes_sha256([array]) for name, array in split.arrays.items()} | {"images": images_sha256}
    for name in ARRAYS:
        if found[name] != split.sha256[name]:
            raise DataError(
                f"the {name} of split `{split.name}` in `{path}` have changed since they were written: SHA-256 differs",
                hint=f"the file is damaged; {_REPACK}",
            )


def _check_head(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_SIZE)
    except FileNotFoundError:
        raise DataError(f"there is no pack at `{path}`", hint=_PACK) from None
    except IsADirectoryError:
        raise DataError(f"`{path}` is a directory, not a pack", hint=_PACK) from None
    except OSError as error:
        raise storage_error(path, error, "read") from error
    what = describe_content(head)
    if what != "an HDF5 file":
        raise DataError(f"`{path}` is {what}, not a pack", hint=_PACK)
    # Superblock version 2 puts checksums on HDF5's structures. A damaged heap of an older version can exhaust memory.
    if head[8:9] != b"\x02":
        raise _foreign(path)


def _foreign(path: Path) -> DataError:
    return DataError(f"`{path}` is an HDF5 file, but not a pack written by nilr", hint=_PACK)


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"`{path}` is damaged or was not written by nilr: {what}", hint=_REPACK)


def _check_format(path: Path, file: h5py.File) -> None:
    version = file.attrs.get("format_version")
    if _text(file.attrs.get("format")) != FORMAT or not isinstance(version, np.integer):
        raise _foreign(path)
    if version != FORMAT_VERSION:
        raise DataError(
            f"`{path}` has pack format {version}, but this version of nilr reads format {FORMAT_VERSION}",
            hint="upgrade nilr" if version > FORMAT_VERSION else _REPACK,
        )


def _read_info(path: Path, file: h5py.File) -> PackInfo:
    newer = ("fit", "channels")  # packs of earlier versions lack these
    texts = {name: _text(file.attrs[name]) for name in PackInfo.__annotations__ if name not in ("image_size", *newer)}
    fit = _text(file.attrs.get("fit", b"stretch"))
    resamples = (*get_args(Resample), "none")
    channels = operator.index(file.attrs.get("channels", 3))
    if texts["resample"] not in resamples or fit not in get_args(Fit) or channels not in (1, 3):
        raise _damaged(path, "its images were prepared in an unknown way")
    if not is_name(texts["name"]):
        raise _damaged(path, f"invalid name {texts['name'][:60]!r}")
    return PackInfo(image_size=operator.index(file.attrs["image_size"]), fit=fit, channels=channels, **texts)


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else ""


def _split_names(path: Path, file: h5py.File) -> list[str]:
    names: list[str] = [name for name in SPLITS if name in file]
    if not names or len(names) != len(file):
        raise _damaged(path, f"it contains {sorted(file)} instead of train, val and test")
    return names


def _read_split(path: Path, file: h5py.File, name: str, info: PackInfo) -> PackedSplit:
    group = _member(path, file, name, h5py.Group)
    if set(group) != set(ARRAYS):
        raise _damaged(path, f"split `{name}` contains {sorted(group)}")
    datasets = {array_name: _member(path, group, array_name, h5py.Dataset) for array_name in ARRAYS}
    offsets = {array_name: _offset(path, dataset) for array_name, dataset in datasets.items()}
    n_images = len(datasets["images"])
    shapes = {"images": (n_images, *info.image_shape), "labels": (n_images,), "filenames": (n_images,)}
    dtypes = {"images": "|u1", "labels": "<i8"}
    for array_name, dataset in datasets.items():
        dtype, text = np.dtype(dataset.dtype.str), f"|S{dataset.dtype.itemsize}"
        if dataset.shape != shapes.get(array_name, (dataset.size,)) or dtype.str != dtypes.get(array_name, text):
            raise _damaged(path, f"`{name}/{array_name}` is {dtype} of shape {dataset.shape}")
    images = ImageFile(path, offsets.pop("images"), datasets["images"].shape)
    arrays = {
        # h5py would take apart the strings of a fixed length
        array_name: np.fromfile(path, datasets[array_name].dtype.str, datasets[array_name].size, offset=offset)
        for array_name, offset in offsets.items()
    }
    labels, classes = arrays["labels"], tuple(value.decode() for value in arrays["classes"].tolist())
    in_order = np.all(labels[1:] >= labels[:-1]) and labels[0] >= 0 and labels[-1] < len(classes)
    sizes: list[int] = np.bincount(labels, minlength=len(classes)).tolist() if in_order else [0]
    if not all(sizes) or any(a >= b for a, b in itertools.pairwise(classes)):
        raise _damaged(path, f"the classes of split `{name}` are not in order")
    sha256 = {array_name: _text(group.attrs[f"{array_name}_sha256"]) for array_name in ARRAYS}
    return PackedSplit(name, classes, tuple(sizes), _text(group.attrs["digest"]), images, arrays, sha256)


def _offset(path: Path, dataset: h5py.Dataset) -> int:
    """Return the position of a dataset in the file, in bytes; DataError if it is not one run of bytes there."""
    properties, offset = dataset.id.get_create_plist(), dataset.id.get_offset()
    if properties.get_layout() != h5py.h5d.CONTIGUOUS or properties.get_external_count() or offset is None:
        raise _damaged(path, f"`{dataset.name}` is not one run of bytes in this file")
    n_bytes = math.prod(dataset.shape) * dataset.dtype.itemsize
    if not n_bytes or offset + n_bytes > path.stat().st_size:
        raise _damaged(path, f"`{dataset.name}` is empty or extends beyond the end of the file")
    return int(offset)


def _member(path: Path, group: h5py.Group, name: str, kind: type[Any]) -> Any:  # noqa: ANN401 - h5py is untyped
    # A soft or external link leads to another place or another file.
    if not isinstance(group.get(name, getlink=True), h5py.HardLink) or group.get(name, getclass=True) is not kind:
        raise _damaged(path, f"`{group.name.rstrip('/')}/{name}` is not a {kind.__name__.lower()}")
    return group[name]
