"""Where everything lies in a pack, read with suspicion: only what docs/file-formats.md describes is let through."""

from __future__ import annotations

import contextlib
import itertools
import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import numpy.typing as npt

from nilr.config import SPLITS, is_name
from nilr.data.digests import content_digest
from nilr.data.sniffing import HEAD_SIZE, describe_content
from nilr.errors import DataError
from nilr.files import storage_error

FORMAT: Final = "nilr-pack"
FORMAT_VERSION: Final = 1
DATASETS: Final = ("images", "labels", "classes", "filenames")

REMAKE: Final = "make it again with `nilr prepare-data --force`"
_PACK: Final = "pack images into one with `nilr prepare-data`"


@dataclass(frozen=True)
class PackInfo:
    """What a pack says about itself.

    Attributes:
        name: name of the dataset.
        image_size: height and width of the images, in pixels.
        resample: filter for images that were not at that size.
        source: the kind of source it was made from.
        licence: a note on what may be done with the images.
        created_at: ISO 8601, UTC.
        digest: content digest, hex.
    """

    name: str
    image_size: int
    resample: str
    source: str
    licence: str
    created_at: str
    digest: str


@dataclass(frozen=True)
class StoredArray:
    """Where an array lies in the file, within its bounds, and the SHA-256 of its bytes."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    sha256: str

    def map(self, path: Path) -> npt.NDArray[Any]:
        """Map the array into memory; what is written to it stays private."""
        # Copy-on-write because torch.from_numpy warns of a read-only array.
        return np.memmap(path, self.dtype, "c", self.offset, self.shape)


@dataclass(frozen=True)
class StoredSplit:
    """Where a split's arrays lie, and which classes it has."""

    arrays: Mapping[str, StoredArray]
    digest: str
    class_names: tuple[str, ...]
    class_sizes: tuple[int, ...]


def read_structure(path: Path) -> tuple[PackInfo, dict[str, StoredSplit]]:
    """Read what a pack says about itself and where its splits lie.

    Raises:
        DataError: not there, not a pack, of another version, truncated or corrupt.
        StoreError: it cannot be read.
    """
    _check_head(path)
    with _reading(path):
        with h5py.File(path, "r", locking=False) as file:
            _check_format(path, file)
            info = _read_info(path, file)
            located = {name: _locate_split(path, file, name, info.image_size) for name in _split_names(path, file)}
        splits = {name: _read_split(path, name, *parts) for name, parts in located.items()}
        digest = content_digest({name: bytes.fromhex(split.digest) for name, split in splits.items()})
    if digest != info.digest:
        raise damaged(path, "its content digest is not that of its splits")
    return info, splits


def damaged(path: Path, what: str) -> DataError:
    """Return the error for a pack that breaks its own rules."""
    return DataError(f"`{path}` is damaged or was not written by nilr: {what}", hint=REMAKE)


def _check_head(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_SIZE)
    except FileNotFoundError:
        raise DataError(f"there is no pack at `{path}`", hint="make one with `nilr prepare-data`") from None
    except IsADirectoryError:
        raise DataError(f"`{path}` is a directory, not a packed dataset", hint=_PACK) from None
    except OSError as error:
        raise storage_error(path, error, "read") from error
    what = describe_content(head)
    if what != "an HDF5 file":
        raise DataError(f"`{path}` is {what}, not a packed dataset", hint=_PACK)
    # A pack has version 2, whose structures carry checksums; a damaged heap of an older one can take HDF5 all memory.
    if head[8:9] != b"\x02":
        raise _foreign(path)


def _foreign(path: Path) -> DataError:
    return DataError(f"`{path}` is an HDF5 file, but not one that nilr packed", hint=_PACK)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what h5py raises over a broken file into an error that says so."""
    try:
        yield
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, OverflowError) as error:
        if "truncated file" in str(error):
            raise DataError(
                f"`{path}` is truncated: it is shorter than what was written", hint=f"copy it again, or {REMAKE}"
            ) from error
        raise damaged(path, "its structure cannot be read") from error


def _check_format(path: Path, file: h5py.File) -> None:
    version = file.attrs.get("format_version")
    if _text(file.attrs.get("format")) != FORMAT or not isinstance(version, np.integer):
        raise _foreign(path)
    if version != FORMAT_VERSION:
        raise DataError(
            f"`{path}` has pack format {version}, and this nilr reads {FORMAT_VERSION}",
            hint="upgrade nilr" if version > FORMAT_VERSION else REMAKE,
        )


def _read_info(path: Path, file: h5py.File) -> PackInfo:
    texts = {name: _text(file.attrs[name]) for name in PackInfo.__annotations__ if name != "image_size"}
    if not is_name(texts["name"]):
        raise damaged(path, f"a dataset cannot be named {texts['name'][:60]!r}")
    return PackInfo(image_size=operator.index(file.attrs["image_size"]), **texts)


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else ""


def _split_names(path: Path, file: h5py.File) -> list[str]:
    names: list[str] = [name for name in SPLITS if name in file]
    if not names or len(names) != len(file):
        raise damaged(path, f"it holds {sorted(file)}, and train, val and test belong there")
    return names


def _locate_split(path: Path, file: h5py.File, split: str, image_size: int) -> tuple[dict[str, StoredArray], str]:
    """Return where the split's arrays lie, and its digest."""
    group = _member(path, file, split, h5py.Group)
    if set(group) != set(DATASETS):
        raise damaged(path, f"split `{split}` holds {sorted(group)}")
    arrays = {name: _locate(path, group, name) for name in DATASETS}
    n_images = arrays["images"].shape[0]
    shapes = {"images": (n_images, image_size, image_size, 3), "labels": (n_images,), "filenames": (n_images,)}
    dtypes = {"images": "|u1", "labels": "<i8"}
    for name, array in arrays.items():
        text = f"|S{array.dtype.itemsize}"
        if array.shape != shapes.get(name, array.shape[:1]) or array.dtype.str != dtypes.get(name, text):
            raise damaged(path, f"`{split}/{name}` is {array.dtype} of shape {array.shape}")
    return arrays, _text(group.attrs["digest"])


def _locate(path: Path, group: h5py.Group, name: str) -> StoredArray:
    dataset = _member(path, group, name, h5py.Dataset)
    properties, offset = dataset.id.get_create_plist(), dataset.id.get_offset()
    if properties.get_layout() != h5py.h5d.CONTIGUOUS or properties.get_external_count() or offset is None:
        raise damaged(path, f"`{dataset.name}` is not one run of bytes in this file")
    n_bytes = math.prod(dataset.shape) * dataset.dtype.itemsize
    if not n_bytes or offset + n_bytes > path.stat().st_size:
        raise damaged(path, f"`{dataset.name}` is empty or reaches beyond the end of the file")
    return StoredArray(np.dtype(dataset.dtype.str), dataset.shape, offset, _text(group.attrs[f"{name}_sha256"]))


def _member(path: Path, group: h5py.Group, name: str, kind: type[Any]) -> Any:  # noqa: ANN401 - h5py is untyped
    # A soft or external link leads to another place or another file.
    if not isinstance(group.get(name, getlink=True), h5py.HardLink) or group.get(name, getclass=True) is not kind:
        raise damaged(path, f"`{group.name.rstrip('/')}/{name}` is not a {kind.__name__.lower()}")
    return group[name]


def _read_split(path: Path, name: str, arrays: dict[str, StoredArray], digest: str) -> StoredSplit:
    labels = arrays["labels"].map(path)
    classes = tuple(value.decode() for value in arrays["classes"].map(path).tolist())
    in_order = np.all(labels[1:] >= labels[:-1]) and labels[0] >= 0 and labels[-1] < len(classes)
    sizes: list[int] = np.bincount(labels, minlength=len(classes)).tolist() if in_order else [0]
    if not all(sizes) or any(a >= b for a, b in itertools.pairwise(classes)):
        raise damaged(path, f"the classes of split `{name}` are not in order")
    return StoredSplit(arrays, digest, classes, tuple(sizes))
