"""From a plan to decoded classes: read in one thread, decoded in several, bounded in memory."""

from __future__ import annotations

import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from nilr.config import Resample
from nilr.data.digests import Images
from nilr.data.sources.decoding import MAX_BYTES, decode_images
from nilr.data.sources.members import Member, Payload, Reader, Unreadable
from nilr.data.sources.tables import Splits

_CHUNK_IMAGES: Final = 64
_CHUNK_BYTES: Final = 8 * 2**20
_PENDING_BYTES: Final = 64 * 2**20
_CHUNKS_PER_WORKER: Final = 4


@dataclass(frozen=True)
class DecodedClass:
    """A class, ready to be written.

    Attributes:
        split: the split it stands in.
        name: its name.
        images: uint8 (n, S, S, 3).
        filenames: base name of each image's file.
        broken: path of each image that cannot be read, and why.
    """

    split: str
    name: str
    images: Images
    filenames: list[str]
    broken: dict[str, str]


@dataclass(eq=False)
class _Class:
    """A class while its images come in; slot i of `images` is for member i."""

    split: str
    name: str
    members: list[Member]
    images: Images
    unread: int
    undecoded: int
    broken: dict[int, str] = field(default_factory=dict)

    def finished(self) -> DecodedClass:
        """Return the class without its broken images."""
        good = [slot for slot in range(len(self.members)) if slot not in self.broken]
        return DecodedClass(
            self.split,
            self.name,
            self.images[good] if self.broken else self.images,
            [self.members[slot].filename for slot in good],
            {self.members[slot].path: reason for slot, reason in sorted(self.broken.items())},
        )


@dataclass
class _Chunk:
    """Images of one class that are decoded together."""

    slots: list[int] = field(default_factory=list)
    payloads: list[Payload] = field(default_factory=list)
    n_bytes: int = 0

    def add(self, slot: int, payload: Payload) -> int:
        """Add an image and return its bytes."""
        self.slots.append(slot)
        self.payloads.append(payload)
        n_bytes = payload.nbytes if isinstance(payload, np.ndarray) else len(payload)
        self.n_bytes += n_bytes
        return n_bytes


_Places = dict[Member, tuple[_Class, int]]


def decode_classes(
    splits: Splits, *, image_size: int, resample: Resample, workers: int | None, advance: Callable[[int], None]
) -> Iterator[DecodedClass]:
    """Read and decode all images, and give each class when it is complete.

    A folder, zip or plain tar is read class by class, so that one or two classes are in memory; a compressed tar in its
    own order, so that classes that lie interleaved in it are in memory together, decoded.

    Args:
        splits: the images by split and class.
        image_size: S, height and width to return, in pixels.
        resample: filter for images of another size.
        workers: decoding threads; None for one per core.
        advance: is told how many more images are decoded.

    Raises:
        DataError: a source cannot be read any more.
    """
    workers = workers or n_cores()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    running: deque[tuple[_Class, list[int], Future[tuple[Images, list[str | None]]]]] = deque()
    try:
        for owner, chunk in _chunks(_places(splits, image_size), max(1, min(_CHUNK_IMAGES, 2**21 // image_size**2))):
            running.append((owner, chunk.slots, pool.submit(decode_images, chunk.payloads, image_size, resample)))
            if len(running) >= _CHUNKS_PER_WORKER * workers:
                yield from _finish(*running.popleft(), advance)
        while running:
            yield from _finish(*running.popleft(), advance)
    finally:
        # Whoever is interrupted does not wait for what is under way.
        pool.shutdown(wait=False, cancel_futures=True)


def n_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _places(splits: Splits, size: int) -> _Places:
    """Return for each image the class and the slot it goes to, in the order of classes."""
    places: _Places = {}
    for split, classes in splits.items():
        for name, images in classes.items():
            members = list(dict.fromkeys(images))
            # Memory is not touched, and so not taken, before the class's first image comes.
            pixels = np.empty((len(members), size, size, 3), np.uint8)
            owner = _Class(split, name, members, pixels, len(members), len(members))
            places.update((member, (owner, slot)) for slot, member in enumerate(members))
    return places


def _fetch(places: _Places) -> Iterator[tuple[Member, Payload]]:
    by_reader: dict[Reader, list[Member]] = defaultdict(list)
    for member in places:
        if member.size > MAX_BYTES:
            yield member, Unreadable(f"has {member.size:,} bytes, more than an image of {MAX_BYTES:,}")
        else:
            by_reader[member.reader].append(member)
    for reader, members in by_reader.items():
        yield from reader.fetch(members)


def _chunks(places: _Places, n_images: int) -> Iterator[tuple[_Class, _Chunk]]:
    """Gather images of one class into chunks of at most `n_images`."""
    pending: dict[_Class, _Chunk] = defaultdict(_Chunk)
    waiting = 0
    for member, payload in _fetch(places):
        owner, slot = places[member]
        owner.unread -= 1
        chunk = pending[owner]
        waiting += chunk.add(slot, payload)
        if not owner.unread or len(chunk.slots) >= n_images or chunk.n_bytes >= _CHUNK_BYTES:
            waiting -= chunk.n_bytes
            yield owner, pending.pop(owner)
        elif waiting >= _PENDING_BYTES:
            yield from pending.items()
            pending.clear()
            waiting = 0


def _finish(
    owner: _Class,
    slots: list[int],
    decoded: Future[tuple[Images, list[str | None]]],
    advance: Callable[[int], None],
) -> Iterator[DecodedClass]:
    images, reasons = decoded.result()
    owner.images[slots] = images
    owner.broken.update((slot, reason) for slot, reason in zip(slots, reasons, strict=True) if reason)
    owner.undecoded -= len(slots)
    advance(len(slots))
    if not owner.undecoded:
        yield owner.finished()
