"""From a plan to decoded classes: read in one thread, decoded in several, bounded in memory."""

from __future__ import annotations

import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from nilr.config import Resample
from nilr.data.digests import Images, image_digests
from nilr.data.sources.decoding import MAX_BYTES, decode_images
from nilr.data.sources.members import Member, Payload, Reader, Unreadable
from nilr.data.sources.tables import Splits

_CHUNK_IMAGES: Final = 64
_CHUNK_BYTES: Final = 8 * 2**20
_PENDING_BYTES: Final = 64 * 2**20
_CHUNKS_PER_WORKER: Final = 16


@dataclass(frozen=True)
class DecodedClass:
    """A class, ready to be written.

    Attributes:
        split: the split it stands in.
        name: its name.
        images: n times uint8 (S, S, 3).
        filenames: base name of each image's file.
        digests: of each image.
        broken: path of each image that cannot be read, and why.
    """

    split: str
    name: str
    images: list[Images]
    filenames: list[str]
    digests: list[bytes]
    broken: dict[str, str]


class _Decoded(NamedTuple):
    """Decoded images, with their digests, and for each why it cannot be read, or None."""

    images: Images
    digests: list[bytes]
    reasons: list[str | None]


@dataclass(eq=False)
class _Class:
    """A class while its images come in; `images` holds what came, by slot: slot i is for member i."""

    split: str
    name: str
    members: list[Member]
    unread: int
    undecoded: int
    images: dict[int, tuple[Images, bytes]] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)

    def add(self, slots: list[int], decoded: _Decoded) -> None:
        """Take in decoded images."""
        for slot, image, digest, reason in zip(slots, *decoded, strict=True):
            if reason is None:
                self.images[slot] = image, digest
            else:
                self.broken[slot] = reason
        self.undecoded -= len(slots)

    def finished(self) -> DecodedClass:
        """Give the class away, without its broken images."""
        good = sorted(self.images)
        came = [self.images.pop(slot) for slot in good]
        return DecodedClass(
            self.split,
            self.name,
            [image for image, _ in came],
            [self.members[slot].filename for slot in good],
            [digest for _, digest in came],
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
    running: deque[tuple[_Class, list[int], Future[_Decoded]]] = deque()
    try:
        for owner, chunk in _chunks(_places(splits), max(1, min(_CHUNK_IMAGES, 2**21 // image_size**2))):
            running.append((owner, chunk.slots, pool.submit(_decode, chunk.payloads, image_size, resample)))
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


def _places(splits: Splits) -> _Places:
    """Return for each image the class and the slot it goes to, in the order of classes."""
    places: _Places = {}
    for split, classes in splits.items():
        for name, images in classes.items():
            members = list(dict.fromkeys(images))
            owner = _Class(split, name, members, len(members), len(members))
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


def _decode(payloads: list[Payload], size: int, resample: Resample) -> _Decoded:
    images, reasons = decode_images(payloads, size, resample)
    return _Decoded(images, image_digests(images), reasons)


def _finish(
    owner: _Class, slots: list[int], decoded: Future[_Decoded], advance: Callable[[int], None]
) -> Iterator[DecodedClass]:
    owner.add(slots, decoded.result())
    advance(len(slots))
    if not owner.undecoded:
        yield owner.finished()
