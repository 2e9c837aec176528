"""The images of a pack while it is written: each class straight into its place, read back, and hashed in order."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import h5py

from nilr.errors import DataError

PIECE_BYTES: Final = 2**20

Layout = Mapping[str, Mapping[str, int]]


class ImageRows:
    """Places for images in an HDF5 file: of each split one run of bytes, of which each class has its share.

    HDF5 only reserves the places; the bytes go to the file, and come back from it, without passing through HDF5.

    Args:
        file: where to reserve them.
        descriptor: of the same file, to read and write.
        layout: for each split its classes, in order, with the number of images to reserve places for.
        image_size: S, height and width of every image, in pixels.
    """

    def __init__(self, file: h5py.File, descriptor: int, layout: Layout, image_size: int) -> None:
        self._descriptor = descriptor
        self._begins: dict[tuple[str, str], int] = {}
        self._written: dict[tuple[str, str], range] = {}
        self._unhashed = {split: deque(classes) for split, classes in layout.items()}
        self._hashes = {split: hashlib.sha256() for split in layout}
        for split, classes in layout.items():
            begin = _reserve(file.create_group(split), (sum(classes.values()), image_size, image_size, 3))
            starts = itertools.accumulate(classes.values(), initial=0)
            for name, start in zip(classes, starts, strict=False):
                self._begins[split, name] = begin + start * image_size**2 * 3

    def write(self, split: str, class_name: str, content: Iterable[bytes]) -> None:
        """Write a class, once, and read it back.

        Args:
            split: a split of the layout.
            class_name: a class of that split.
            content: its images, some at a time, one behind the other; no more than there are places.

        Raises:
            DataError: the file gives back something else.
            OSError: it cannot be written.
        """
        begin = end = self._begins[split, class_name]
        for piece in content:
            _write_at(self._descriptor, piece, end)
            if os.pread(self._descriptor, len(piece), end) != piece:
                raise DataError(
                    f"class `{class_name}` of split `{split}` does not read back as it was written",
                    hint="the disk may be failing",
                )
            end += len(piece)
        self._written[split, class_name] = range(begin, end, PIECE_BYTES)
        self._hash_in_order(split)
        # Have it on its way to the disk, so that flushing the whole file does not take long.
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, begin, end - begin, os.POSIX_FADV_DONTNEED)

    def read(self, split: str, class_name: str) -> Iterator[bytes]:
        """Give a class's images, some at a time, one behind the other."""
        places = self._written[split, class_name]
        for offset in places:
            yield os.pread(self._descriptor, min(PIECE_BYTES, places.stop - offset), offset)

    def sha256(self, split: str) -> str:
        """Return the SHA-256 of a split's images as they stand in the file, one behind the other, as hex."""
        return self._hashes[split].hexdigest()

    def _hash_in_order(self, split: str) -> None:
        """Hash those classes, of all that are written, that no unwritten one stands before."""
        waiting = self._unhashed[split]
        while waiting and (split, waiting[0]) in self._written:
            for content in self.read(split, waiting.popleft()):
                self._hashes[split].update(content)


def _reserve(group: h5py.Group, shape: tuple[int, ...]) -> int:
    """Reserve one run of bytes for the dataset `images`, and return where in the file it begins."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space = h5py.h5s.create_simple(shape)
    dataset = h5py.h5d.create(group.id, b"images", h5py.h5t.STD_U8LE, space, properties)
    return int(dataset.get_offset())


def _write_at(descriptor: int, content: bytes, offset: int) -> None:
    rest = memoryview(content)
    while rest:
        n = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[n:], offset + n
