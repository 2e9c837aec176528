"""Writing a pack: classes in any order, each straight into its place, and the final name only when all is verified."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import h5py
import numpy as np

from nilr.config import SPLITS
from nilr.data.digests import (
    Images,
    bytes_sha256,
    class_digest,
    content_digest,
    equal_pairs,
    image_digests,
    split_digest,
)
from nilr.data.pack_rows import PIECE_BYTES, ImageRows, Layout
from nilr.data.pack_structure import DATASETS, FORMAT, FORMAT_VERSION, PackInfo, read_structure
from nilr.errors import DataError, StoreError
from nilr.files import PatientFile, replacing, temporary_in

# From HDF5 1.8 on, so that HDF5's own structures carry checksums too.
_LIBVER: Final = ("v108", "v108")


class ImageRef(NamedTuple):
    """One packed image."""

    split: str
    class_name: str
    filename: str


@dataclass(frozen=True)
class _New:
    """A file that is being written."""

    file: h5py.File
    disk: PatientFile
    rows: ImageRows


@dataclass(frozen=True)
class _Class:
    """What was written of a class, in the order of its rows."""

    digests: list[bytes]
    filenames: list[str]


class PackWriter:
    """Writes a pack; a context manager that gives `path` its content on a clean exit, and leaves it alone otherwise.

    Each class is read back as soon as it is written. After the exit `info` has the content digest.

    Args:
        path: the pack; replaced if it is there.
        name: name of the dataset.
        image_size: S, height and width of every image, in pixels.
        resample: filter that brought images to that size.
        source: the kind of source.
        licence: a note on what may be done with the images.
        layout: for each split the classes with the number of images planned for each; fewer may come.

    Raises:
        DataError: at the exit, a class without images, or content that does not read back as it was written.
        StoreError: no space, or a place that cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        image_size: int,
        resample: str,
        source: str,
        licence: str,
        layout: Layout,
    ) -> None:
        created_at = datetime.now(UTC).isoformat(timespec="seconds")
        self.info = PackInfo(name, image_size, resample, source, licence, created_at, digest="")
        self._path = path
        self._planned: Layout = {
            split: {name: layout[split][name] for name in sorted(layout[split], key=_encode)}
            for split in SPLITS
            if layout.get(split)
        }
        self._written: dict[tuple[str, str], _Class] = {}
        self._context: AbstractContextManager[None, bool | None] = self._writing()

    def __enter__(self) -> Self:
        self._context.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.__exit__(kind, error, trace)

    def write_class(
        self,
        split: str,
        class_name: str,
        images: Sequence[Images] | Images,
        filenames: Sequence[str],
        digests: Sequence[bytes] | None = None,
    ) -> None:
        """Write a class, once; its rows go in the order of their pixels' SHA-256, then of their file names.

        Args:
            split: a split of the layout.
            class_name: a class of that split.
            images: n times uint8 (S, S, 3); n is at most the planned number.
            filenames: base name of each image's file.
            digests: `image_digests` of the images, where they are known.

        Raises:
            DataError: the file does not give back what was written.
            StoreError: no space, or a place that cannot be written.
        """
        planned, shape = self._planned[split][class_name], (self.info.image_size, self.info.image_size, 3)
        unfit = [f"{each.dtype} {each.shape}" for each in images if each.dtype != np.uint8 or each.shape != shape]
        if unfit or not len(filenames) == len(images) <= planned:
            raise ValueError(f"{class_name}: {len(images)} images, {len(filenames)} names, {planned} planned; {unfit}")
        if (split, class_name) in self._written:
            raise ValueError(f"{class_name} is written already")
        digests = digests or image_digests(images)
        order = sorted(range(len(images)), key=lambda i: (digests[i], filenames[i]))
        self._rows.write(split, class_name, _pieces([images[i] for i in order]))
        self._written[split, class_name] = _Class([digests[i] for i in order], [filenames[i] for i in order])

    def duplicate_pairs(self) -> list[tuple[ImageRef, ImageRef]]:
        """Return the pairs of images, of those written so far, that have exactly the same pixels; see `equal_pairs`."""
        count = Counter(digest for written in self._written.values() for digest in written.digests)
        return equal_pairs(
            (digest, ImageRef(split, class_name, filename))
            for (split, class_name), written in self._written.items()
            for digest, filename in zip(written.digests, written.filenames, strict=True)
            if count[digest] > 1
        )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with ExitStack() as held, replacing(self._path) as temporary:
            self._check_space(temporary.parent)
            with self._new(temporary, self._planned) as new:
                self._rows = new.rows
                yield
                kept = self._kept()
                if kept == self._planned:
                    self._complete(new, temporary)
                else:
                    # Held until the renaming to the final name is done, lest it be taken for stale.
                    self._compact(held.enter_context(temporary_in(temporary.parent)), kept).replace(temporary)
            read_structure(temporary)

    @contextmanager
    def _new(self, path: Path, layout: Layout) -> Iterator[_New]:
        with PatientFile(path) as disk:
            with h5py.File(disk, "w", libver=_LIBVER) as file:
                yield _New(file, disk, ImageRows(file, disk.fileno(), layout, self.info.image_size))
            disk.check()

    def _check_space(self, directory: Path) -> None:
        needed = sum(sum(classes.values()) for classes in self._planned.values()) * self.info.image_size**2 * 3
        free = shutil.disk_usage(directory).free
        if free < needed:
            raise StoreError(
                f"no space for the pack: it needs {needed / 1e6:,.1f} MB in `{directory}`, "
                f"and {free / 1e6:,.1f} MB are free",
                hint="free some space, choose another place with --home, or pack less with --limit-per-class",
            )

    def _kept(self) -> Layout:
        """Return the layout of what was really written."""
        if not self._planned:
            raise DataError("there are no classes to pack", hint="give sources with a folder of images per class")
        for split, classes in self._planned.items():
            for name in classes:
                if not self._written.get((split, name), _Class([], [])).digests:
                    raise DataError(
                        f"no image was packed for class `{name}` of split `{split}`", hint="leave the class out"
                    )
        return {
            split: {name: len(self._written[split, name].digests) for name in classes}
            for split, classes in self._planned.items()
        }

    def _compact(self, path: Path, kept: Layout) -> Path:
        """Write the pack to `path`, without the gaps that images left that did not come."""
        with self._new(path, kept) as new:
            for split, classes in kept.items():
                for name in classes:
                    new.rows.write(split, name, self._rows.read(split, name))
            self._complete(new, path)
        return path

    def _complete(self, new: _New, path: Path) -> None:
        """Add names, labels, digests and attributes, the digests from what the file gives back."""
        splits = {split: self._complete_split(new, split, path) for split in self._planned}
        self.info = replace(self.info, digest=content_digest(splits))
        for name, value in {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self.info)}.items():
            _set_attribute(new.file, name, value)

    def _complete_split(self, new: _New, split: str, path: Path) -> bytes:
        group = new.file[split]
        classes = [self._written[split, name] for name in self._planned[split]]
        sizes = [len(written.digests) for written in classes]
        group["labels"] = np.repeat(np.arange(len(sizes), dtype="<i8"), sizes)
        group["classes"] = _text_array(self._planned[split])
        group["filenames"] = _text_array(name for written in classes for name in written.filenames)
        group.file.flush()
        new.disk.check()
        digests = {name: bytes_sha256(_read_back(group[name], path)) for name in DATASETS if name != "images"}
        for name, sha256 in {"images": new.rows.sha256(split), **digests}.items():
            _set_attribute(group, f"{name}_sha256", sha256)
        digest = split_digest(class_digest(written.digests) for written in classes)
        _set_attribute(group, "digest", digest.hex())
        return digest


def _pieces(images: Sequence[Images]) -> Iterator[bytes]:
    """Give the bytes of images, some at a time, one behind the other."""
    step = max(1, PIECE_BYTES // images[0].nbytes) if images else 1
    for start in range(0, len(images), step):
        yield b"".join(np.ascontiguousarray(image).data for image in images[start : start + step])


def _read_back(dataset: h5py.Dataset, path: Path) -> np.ndarray:
    offset = dataset.id.get_offset()
    return np.memmap(path, dataset.dtype.str, "r", offset, dataset.shape)


def _encode(text: str) -> bytes:
    # File names need not be UTF-8, and HDF5's fixed strings end at a zero byte.
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace")


def _text_array(texts: Iterator[str] | Mapping[str, int]) -> np.ndarray:
    encoded = [_encode(text) for text in texts]
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", max(1, *map(len, encoded))))


def _set_attribute(target: h5py.Group, name: str, value: str | int) -> None:
    # Fixed length: HDF5 keeps strings of variable length where no checksum covers them.
    if isinstance(value, str):
        encoded = _encode(value)
        target.attrs.create(name, np.bytes_(encoded), dtype=h5py.string_dtype("utf-8", max(1, len(encoded))))
    else:
        target.attrs.create(name, value, dtype="<i8")
