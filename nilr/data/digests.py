"""The digests of a pack, all SHA-256.

The content digest depends on which pixels are in which class of which split, and on nothing else: the names of classes
and files and the layout of the source do not change it.

    image    the image's bytes (H, W, C)
    class    its sorted image digests, joined
    split    its sorted class digests, joined
    content  for train, val and test, if present: name, a zero byte, the split digest; all joined
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nilr.config.base import SPLITS

Images = npt.NDArray[np.uint8]
# Split, class and file name of an image.
Where = tuple[str, str, str]

MAX_ALL_PAIRS: Final = 20


def bytes_sha256(parts: Iterable[npt.NDArray[Any]]) -> str:
    """Return the SHA-256 of the bytes of an array in C order, given in parts, as hex."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part).view(np.uint8).data)
    return digest.hexdigest()


def image_digests(images: Iterable[Images]) -> list[bytes]:
    """Return the digest of each of the images (H, W, C)."""
    return [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in images]


def equal_pairs(images: Iterable[tuple[bytes, Where]]) -> list[tuple[Where, Where]]:
    """Return the pairs of images with the same digest, each pair once and sorted.

    If more than `MAX_ALL_PAIRS` images are equal, each is paired with the first only: 600 blank images would give
    180,000 pairs.
    """
    same: defaultdict[bytes, list[Where]] = defaultdict(list)
    for digest, image in images:
        same[digest].append(image)
    pairs: list[tuple[Where, Where]] = []
    for equal in map(sorted, same.values()):
        pairs += combinations(equal, 2) if len(equal) <= MAX_ALL_PAIRS else ((equal[0], other) for other in equal[1:])
    return sorted(pairs)


def combined_digest(digests: Iterable[bytes]) -> bytes:
    """Return the digest of a class from those of its images, or of a split from those of its classes."""
    return hashlib.sha256(b"".join(sorted(digests))).digest()


def content_digest(splits: Mapping[str, bytes]) -> str:
    """Combine the digests of the splits, by name, as hex."""
    joined = (name.encode() + b"\0" + splits[name] for name in SPLITS if name in splits)
    return hashlib.sha256(b"".join(joined)).hexdigest()
