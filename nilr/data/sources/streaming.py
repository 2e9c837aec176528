"""Decode the images of a plan into classes: read in one thread, decoded in several, bounded in memory."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from nilr.config.base import Fit, Resample
from nilr.data.digests import Images, image_digests
from nilr.data.sources.decoding import MAX_BYTES, decode_images
from nilr.data.sources.members import Member, Payload, Unreadable, fetch_all
from nilr.data.sources.splits import Splits
from nilr.limits import available_cores

_CHUNK_IMAGES: Final = 64
_CHUNK_PIXELS: Final = 2**21
_CHUNK_BYTES: Final = 8 * 2**20
_CHUNKS_PER_WORKER: Final = 16

Decoded = tuple[Images, list[bytes], list[str | None]]


@dataclass(eq=False)
class DecodedClass:
    """A class whose images arrive in any order."""

    split: str
    name: str
    members: list[Member]  # its images, as planned
    decoded: dict[int, tuple[Images, bytes]] = field(default_factory=dict)  # pixels and digest, by index in `members`
    broken: dict[str, str] = field(default_factory=dict)  # the reason for each unreadable image, by path

    @property
    def images(self) -> list[tuple[str, Images, bytes]]:
        """File name, pixels and digest of each decoded image, in the order planned."""
        return [(self.members[index].filename, *self.decoded[index]) for index in sorted(self.decoded)]


Place = tuple[DecodedClass, int]


def decode_classes(
    splits: Splits,
    *,
    image_size: int,
    resample: Resample,
    fit: Fit,
    channels: int,
    workers: int | None,
    advance: Callable[[int], None],
) -> Iterator[DecodedClass]:
    """Read and decode all images, and yield each class as soon as it is complete.

    Folders, zips and plain tars are read class by class, so that one or two classes are in memory. A compressed tar is
    read in its own order: if its classes are interleaved, they are in memory together, decoded.

    Args:
        splits: the images by split and class.
        image_size: S, height and width to return, in pixels.
        resample: filter for images of another size.
        fit: how these become squares.
        channels: 1 or 3.
        workers: decoding threads; None for one per core.
        advance: called with the number of images decoded since the last call.
    """
    workers = workers or available_cores()
    chunk_images = max(1, min(_CHUNK_IMAGES, _CHUNK_PIXELS // image_size**2))
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    running: deque[tuple[list[Place], Future[Decoded]]] = deque()
    try:
        for places, payloads in _chunks(_places(splits), chunk_images):
            turns = [owner.members[index].turns for owner, index in places]
            running.append((places, pool.submit(_decode, payloads, turns, image_size, resample, fit, channels)))
            if len(running) >= _CHUNKS_PER_WORKER * workers:
                yield from _collect(*running.popleft(), advance)
        while running:
            yield from _collect(*running.popleft(), advance)
    finally:
        # After an interruption, do not wait for running decoders.
        pool.shutdown(wait=False, cancel_futures=True)


def _places(splits: Splits) -> dict[Member, Place]:
    """Return the class and index of each image, in the order of classes."""
    places: dict[Member, Place] = {}
    for split, classes in splits.items():
        for name, images in classes.items():
            owner = DecodedClass(split, name, list(dict.fromkeys(images)))
            places.update((member, (owner, index)) for index, member in enumerate(owner.members))
    return places


def _chunks(places: dict[Member, Place], n_images: int) -> Iterator[tuple[list[Place], list[Payload]]]:
    """Read the images in chunks of at most `n_images` images and about `_CHUNK_BYTES` bytes."""
    chunk: list[Place] = []
    payloads: list[Payload] = []
    n_bytes = 0
    for member, payload in _fetch(list(places)):
        chunk.append(places.pop(member))  # so that nothing refers to a class after it is yielded
        payloads.append(payload)
        n_bytes += member.size
        if len(chunk) >= n_images or n_bytes >= _CHUNK_BYTES:
            yield chunk, payloads
            chunk, payloads, n_bytes = [], [], 0
    if chunk:
        yield chunk, payloads


def _fetch(members: list[Member]) -> Iterator[tuple[Member, Payload]]:
    for member in members:
        if member.size > MAX_BYTES:
            yield member, Unreadable(f"has {member.size:,} bytes, more than the limit of {MAX_BYTES:,}")
    yield from fetch_all(member for member in members if member.size <= MAX_BYTES)


def _decode(
    payloads: list[Payload], turns: list[int], size: int, resample: Resample, fit: Fit, channels: int
) -> Decoded:
    images, reasons = decode_images(payloads, size, resample, fit, channels)
    for image, n in zip(images, turns, strict=True):
        image[:] = np.rot90(image, n).copy() if n else image
    return images, image_digests(images), reasons


def _collect(places: list[Place], decoded: Future[Decoded], advance: Callable[[int], None]) -> Iterator[DecodedClass]:
    """Add decoded images to their classes, and yield the classes that are now complete."""
    for (owner, index), image, digest, reason in zip(places, *decoded.result(), strict=True):
        if reason is None:
            owner.decoded[index] = image, digest
        else:
            owner.broken[owner.members[index].path] = reason
    advance(len(places))
    for owner in dict.fromkeys(owner for owner, _ in places):
        if len(owner.decoded) + len(owner.broken) == len(owner.members):
            yield owner
