"""The digests of a pack, all SHA-256.

The content digest says which pixels stand in which class of which split, and nothing else: it is the same whatever the
classes, files and layout they came from were called.

    image    the image's bytes (H, W, C)
    class    its sorted image digests, joined
    split    its sorted class digests, joined
    content  for train, val and test, where there: name, a zero byte, the split digest; all joined
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from nilr.config import SPLITS

Images = npt.NDArray[np.uint8]

MAX_ALIKE: Final = 20

Ref = TypeVar("Ref", bound=tuple[str, ...])


def bytes_sha256(array: npt.NDArray[Any]) -> str:
    """Return the SHA-256 of an array's bytes, in C order, as hex."""
    return hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).hexdigest()


def image_digests(images: Iterable[Images]) -> list[bytes]:
    """Return the digest of each of the images (H, W, C)."""
    return [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in images]


def equal_pairs(images: Iterable[tuple[bytes, Ref]]) -> list[tuple[Ref, Ref]]:
    """Return the pairs of images that have one digest, each pair once and sorted.

    Of more than `MAX_ALIKE` images that are all alike, each is paired with the first alone: 600 blank images would make
    180,000 pairs.
    """
    same: defaultdict[bytes, list[Ref]] = defaultdict(list)
    for digest, image in images:
        same[digest].append(image)
    pairs: list[tuple[Ref, Ref]] = []
    for alike in map(sorted, same.values()):
        pairs += combinations(alike, 2) if len(alike) <= MAX_ALIKE else ((alike[0], other) for other in alike[1:])
    return sorted(pairs)


def class_digest(images: Iterable[bytes]) -> bytes:
    """Combine the digests of a class's images."""
    return hashlib.sha256(b"".join(sorted(images))).digest()


def split_digest(classes: Iterable[bytes]) -> bytes:
    """Combine the digests of a split's classes."""
    return hashlib.sha256(b"".join(sorted(classes))).digest()


def content_digest(splits: Mapping[str, bytes]) -> str:
    """Combine the digests of the splits, by name, as hex."""
    joined = (name.encode() + b"\0" + splits[name] for name in SPLITS if name in splits)
    return hashlib.sha256(b"".join(joined)).hexdigest()
