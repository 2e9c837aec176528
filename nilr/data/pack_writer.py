"""Write a pack: classes in any order, each straight to its place; the final name only when all is verified."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import shutil
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple, Self

import h5py
import numpy as np

from nilr.config.base import SPLITS
from nilr.data.digests import Images, Where, bytes_sha256, combined_digest, content_digest, equal_pairs, image_digests
from nilr.data.pack import ARRAYS, FORMAT, FORMAT_VERSION, PackInfo, open_pack
from nilr.errors import DataError, StoreError
from nilr.files import PatientFile, replacing, temporary_in

Layout = Mapping[str, Mapping[str, int]]

_PIECE_BYTES: Final = 2**20


class _WrittenClass(NamedTuple):
    """Digests and file names of a class, in the order of its rows."""

    digests: list[bytes]
    filenames: list[str]


class PackWriter:
    """Write a pack, as `create` yields it. Each class is read back as soon as it is written."""

    _file: _PackFile

    def __init__(self, info: PackInfo, layout: Layout) -> None:
        self.info = replace(info, created_at=datetime.now(UTC).isoformat(timespec="milliseconds"))
        self._planned: Layout = {
            split: {name: layout[split][name] for name in sorted(layout[split], key=_encode)}
            for split in SPLITS
            if layout.get(split)
        }
        self._written: dict[tuple[str, str], _WrittenClass] = {}

    @classmethod
    @contextmanager
    def create(cls, path: Path, info: PackInfo, layout: Layout) -> Iterator[Self]:
        """Yield a writer; replace `path` by its pack on a clean exit, and leave `path` unchanged otherwise.

        Args:
            path: the pack.
            info: its attributes; the writer sets `created_at` and, at the exit, `digest`.
            layout: for each split its classes and the planned number of images of each; fewer may be written.

        Raises:
            DataError: at the exit, a class without images, or content that reads back differently.
            StoreError: no space, or the place cannot be written.
        """
        writer = cls(info, layout)
        with ExitStack() as stack, replacing(path) as temporary:
            writer._check_space(temporary.parent)
            with _opened(temporary, writer._planned, info) as writer._file:
                yield writer
                written = writer._written_layout()
                if written == writer._planned:
                    writer._complete(writer._file, temporary)
                else:
                    # Keep the second file locked until the final rename: another process may remove stale files.
                    second = stack.enter_context(temporary_in(temporary.parent))
                    writer._compact(second, written)
                    second.replace(temporary)
            open_pack(temporary)

    def write_class(
        self,
        split: str,
        class_name: str,
        images: Sequence[Images] | Images,
        filenames: Sequence[str],
        digests: Sequence[bytes] | None = None,
    ) -> None:
        """Write a class, once; its rows are sorted by the SHA-256 of their pixels, then by file name.

        Args:
            split: a split of the layout.
            class_name: a class of that split.
            images: n times uint8 (S, S, C); n is at most the planned number.
            filenames: base name of each image's file.
            digests: `image_digests(images)`, if already computed.
        """
        planned, shape = self._planned[split][class_name], self.info.image_shape
        unfit = [f"{image.dtype} {image.shape}" for image in images if image.dtype != np.uint8 or image.shape != shape]
        if unfit or not len(filenames) == len(images) <= planned:
            raise ValueError(f"{class_name}: {len(images)} images, {len(filenames)} names, {planned} planned; {unfit}")
        if (split, class_name) in self._written:
            raise ValueError(f"{class_name} has already been written")
        digests = digests or image_digests(images)
        order = sorted(range(len(images)), key=lambda i: (digests[i], filenames[i]))
        self._file.write_images(split, class_name, _pieces([images[i] for i in order]))
        self._written[split, class_name] = _WrittenClass([digests[i] for i in order], [filenames[i] for i in order])

    def duplicate_pairs(self) -> list[tuple[Where, Where]]:
        """Return the pairs of images with the same pixels among those written so far, as `equal_pairs` does."""
        count = Counter(digest for written in self._written.values() for digest in written.digests)
        return equal_pairs(
            (digest, (split, class_name, filename))
            for (split, class_name), written in self._written.items()
            for digest, filename in zip(written.digests, written.filenames, strict=True)
            if count[digest] > 1
        )

    def _check_space(self, directory: Path) -> None:
        needed = sum(sum(classes.values()) for classes in self._planned.values()) * math.prod(self.info.image_shape)
        free = shutil.disk_usage(directory).free
        if free < needed:
            raise StoreError(
                f"not enough disk space for the pack: it needs {needed / 1e6:,.1f} MB in `{directory}`, "
                f"but {free / 1e6:,.1f} MB are free",
                hint="free some space, choose another --home, or pack fewer images with --limit-per-class",
            )

    def _written_layout(self) -> Layout:
        """Return the layout of the images written, which may be fewer than planned."""
        if not self._planned:
            raise DataError("there are no classes to pack", hint="give sources with one folder of images per class")
        layout: dict[str, dict[str, int]] = {split: {} for split in self._planned}
        for split, name in ((split, name) for split, classes in self._planned.items() for name in classes):
            written = self._written.get((split, name))
            if written is None or not written.digests:
                hint = "remove the class from the source"
                raise DataError(f"class `{name}` of split `{split}` has no usable image", hint=hint)
            layout[split][name] = len(written.digests)
        return layout

    def _compact(self, path: Path, layout: Layout) -> None:
        """Write the pack to `path`, without the gaps of images that were planned but not written."""
        with _opened(path, layout, self.info) as file:
            for split, classes in layout.items():
                for name in classes:
                    file.write_images(split, name, self._file.read_images(split, name))
            self._complete(file, path)

    def _complete(self, file: _PackFile, path: Path) -> None:
        """Add names, labels, digests and attributes; the digests are computed from what the file reads back."""
        splits = {split: self._complete_split(file, split, path) for split in self._planned}
        self.info = replace(self.info, digest=content_digest(splits))
        for name, value in {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self.info)}.items():
            _set_attribute(file.hdf5, name, value)

    def _complete_split(self, file: _PackFile, split: str, path: Path) -> bytes:
        group = file.hdf5[split]
        classes = [self._written[split, name] for name in self._planned[split]]
        sizes = [len(written.digests) for written in classes]
        group["labels"] = np.repeat(np.arange(len(sizes), dtype="<i8"), sizes)
        group["classes"] = _text_array(self._planned[split])
        group["filenames"] = _text_array(name for written in classes for name in written.filenames)
        file.hdf5.flush()
        file.disk.check()
        _set_attribute(group, "images_sha256", file.images_sha256(split))
        for name in ARRAYS[1:]:
            read_back = np.memmap(path, group[name].dtype.str, "r", group[name].id.get_offset(), group[name].shape)
            _set_attribute(group, f"{name}_sha256", bytes_sha256([read_back]))
        digest = combined_digest(combined_digest(written.digests) for written in classes)
        _set_attribute(group, "digest", digest.hex())
        return digest


class _PackFile:
    """An HDF5 file with reserved places for images: one run of bytes per split, in which each class has its share.

    HDF5 only reserves the places. The bytes are written and read without HDF5.
    """

    def __init__(self, hdf5: h5py.File, disk: PatientFile, layout: Layout, image_shape: tuple[int, int, int]) -> None:
        self.hdf5, self.disk = hdf5, disk
        self._starts: dict[tuple[str, str], int] = {}
        self._written: dict[tuple[str, str], range] = {}
        self._unhashed = {split: deque(classes) for split, classes in layout.items()}
        self._hashes = {split: hashlib.sha256() for split in layout}
        for split, classes in layout.items():
            start = _reserve(hdf5.create_group(split), (sum(classes.values()), *image_shape))
            for name, n_before in zip(classes, itertools.accumulate(classes.values(), initial=0), strict=False):
                self._starts[split, name] = start + n_before * math.prod(image_shape)

    def write_images(self, split: str, class_name: str, pieces: Iterable[bytes]) -> None:
        """Write the images of a class, once, and read them back."""
        descriptor = self.disk.fileno()
        start = end = self._starts[split, class_name]
        for piece in pieces:
            n_done = 0
            while n_done < len(piece):
                n_done += os.pwrite(descriptor, memoryview(piece)[n_done:], end + n_done)
            if os.pread(descriptor, len(piece), end) != piece:
                raise DataError(
                    f"class `{class_name}` of split `{split}` reads back differently from what was written",
                    hint="check the disk: it may be failing",
                )
            end += len(piece)
        self._written[split, class_name] = range(start, end, _PIECE_BYTES)
        self._hash_in_order(split)
        # Start writing to the disk now, so that the final flush is short.
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, start, end - start, os.POSIX_FADV_DONTNEED)

    def read_images(self, split: str, class_name: str) -> Iterator[bytes]:
        """Yield the images of a class in pieces."""
        places = self._written[split, class_name]
        for offset in places:
            yield os.pread(self.disk.fileno(), min(_PIECE_BYTES, places.stop - offset), offset)

    def images_sha256(self, split: str) -> str:
        """Return the SHA-256 of all images of a split, in file order, as hex."""
        return self._hashes[split].hexdigest()

    def _hash_in_order(self, split: str) -> None:
        """Hash the written classes up to the first one that is not written yet."""
        waiting = self._unhashed[split]
        while waiting and (split, waiting[0]) in self._written:
            for piece in self.read_images(split, waiting.popleft()):
                self._hashes[split].update(piece)


@contextmanager
def _opened(path: Path, layout: Layout, info: PackInfo) -> Iterator[_PackFile]:
    with PatientFile(path) as disk:
        with h5py.File(disk, "w", libver=("v108", "v108")) as hdf5:  # structures of HDF5 1.8 carry checksums
            yield _PackFile(hdf5, disk, layout, info.image_shape)
        disk.check()


def _reserve(group: h5py.Group, shape: tuple[int, ...]) -> int:
    """Reserve one run of bytes for the dataset `images`, and return its offset in the file."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space = h5py.h5s.create_simple(shape)
    dataset = h5py.h5d.create(group.id, b"images", h5py.h5t.STD_U8LE, space, properties)
    return int(dataset.get_offset())


def _pieces(images: Sequence[Images]) -> Iterator[bytes]:
    """Yield the bytes of images in pieces of about `_PIECE_BYTES`."""
    step = max(1, _PIECE_BYTES // images[0].nbytes) if images else 1
    for start in range(0, len(images), step):
        yield b"".join(np.ascontiguousarray(image).data for image in images[start : start + step])


def _encode(text: str) -> bytes:
    # File names may not be UTF-8, and HDF5's fixed-length strings end at a zero byte.
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace")


def _text_array(texts: Iterable[str]) -> np.ndarray:
    encoded = [_encode(text) for text in texts]
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", max(1, *map(len, encoded))))


def _set_attribute(target: h5py.Group, name: str, value: str | int) -> None:
    # Fixed length, because HDF5 keeps strings of variable length where no checksum covers them.
    if isinstance(value, str):
        encoded = _encode(value)
        target.attrs.create(name, np.bytes_(encoded), dtype=h5py.string_dtype("utf-8", max(1, len(encoded))))
    else:
        target.attrs.create(name, value, dtype="<i8")
