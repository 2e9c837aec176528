"""The packed dataset: one HDF5 file that is checked when it is opened and memory-mapped when it is used.

Every array in it is one run of bytes, so images are served from the file's pages (a third of a millisecond an episode,
where HDF5's own selections take 8 to 190). The layout stands in docs/file-formats.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nilr.data.digests import Images, bytes_sha256, class_digest, image_digests, split_digest
from nilr.data.pack_structure import REMAKE, PackInfo, StoredSplit, damaged, read_structure
from nilr.data.pack_writer import ImageRef, PackWriter
from nilr.errors import DataError

__all__ = ["Counts", "ImageRef", "Pack", "PackInfo", "PackWriter", "PackedSplit", "open_pack", "verify_pack"]


class Counts(NamedTuple):
    """What a split holds."""

    classes: int
    images: int


@dataclass(frozen=True)
class PackedSplit:
    """One split, mapped into memory.

    Attributes:
        name: train, val or test.
        class_names: the classes, in name order.
        class_sizes: images per class, in class order.
        images: uint8 (n, S, S, 3), grouped by class; read from the file when touched, and writes stay private.
        digest: digest of the split's pixels by class, hex.
    """

    name: str
    class_names: tuple[str, ...]
    class_sizes: tuple[int, ...]
    images: Images
    digest: str
    _filenames: npt.NDArray[np.bytes_]

    @property
    def image_size(self) -> int:
        """Height and width of the images, in pixels."""
        return int(self.images.shape[1])

    def filenames(self) -> list[str]:
        """Return the base name of each image's file, in the order of `images`."""
        return [name.decode(errors="replace") for name in self._filenames.tolist()]


@dataclass(frozen=True)
class Pack:
    """A pack whose format and structure have been checked; the content of a split is checked by `open_split`."""

    path: Path
    info: PackInfo
    _splits: Mapping[str, StoredSplit]

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that are there, in the order train, val, test."""
        return tuple(self._splits)

    def counts(self) -> dict[str, Counts]:
        """Return the number of classes and images of each split."""
        return {name: Counts(len(split.class_sizes), sum(split.class_sizes)) for name, split in self._splits.items()}

    def open_split(self, split: str, *, verify: bool = True) -> PackedSplit:
        """Map a split into memory.

        Args:
            split: train, val or test.
            verify: read it once and check its four digests (about half a second per gigabyte; it warms the cache).

        Raises:
            DataError: there is no such split, or its content is not what was written.
        """
        if split not in self._splits:
            raise DataError(
                f"`{self.path}` has no split `{split}`; it has {', '.join(self.splits)}",
                hint="take a split that is there, or pack the data with another one",
            )
        stored = self._splits[split]
        arrays = {name: array.map(self.path) for name, array in stored.arrays.items()}
        for name, array in arrays.items():
            if verify and bytes_sha256(array) != stored.arrays[name].sha256:
                raise DataError(
                    f"the {name} of split `{split}` in `{self.path}` are not what was written: SHA-256 differs",
                    hint=f"the file is damaged; {REMAKE}",
                )
        return PackedSplit(
            split, stored.class_names, stored.class_sizes, arrays["images"], stored.digest, arrays["filenames"]
        )


def open_pack(path: Path) -> Pack:
    """Open a pack and check its format, version and structure, but not yet the content of its splits.

    Raises:
        DataError: not there, not a pack, of another version, truncated or corrupt.
        StoreError: it cannot be read.
    """
    return Pack(path, *read_structure(path))


def verify_pack(path: Path) -> PackInfo:
    """Read the whole pack and check every digest, down to the pixels of each image.

    Raises:
        DataError: see `open_pack`, or naming what is not as it was written.
        StoreError: it cannot be read.
    """
    pack = open_pack(path)
    for name in pack.splits:
        split = pack.open_split(name)
        classes = np.split(split.images, np.cumsum(split.class_sizes)[:-1])
        if split_digest(class_digest(image_digests(images)) for images in classes).hex() != split.digest:
            raise damaged(path, f"the digest of split `{name}` is not that of its images")
    return pack.info
