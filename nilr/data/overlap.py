"""What packs share: classes of the same name, such as a WordNet id, and images with identical pixels."""

from collections import defaultdict
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import product

from nilr.data.digests import Where, image_digests
from nilr.data.pack import PackedSplit
from nilr.data.sources.members import is_placeholder


@dataclass(frozen=True)
class SharedSplit:
    """What a split of one pack shares with a split of another."""

    a: str  # name of the split in the first pack
    b: str  # in the second pack
    classes: tuple[str, ...]
    images: tuple[tuple[Where, Where], ...]  # a pair for each picture that both have, however often they have it


def compare_splits(a: Sequence[PackedSplit], b: Sequence[PackedSplit]) -> list[SharedSplit]:
    """Return what every split of one pack shares with every split of another one.

    Of almost all images only a few bytes are read. Images of different sizes or channels are never equal. A class that
    has only a number for its name is not compared.
    """
    pictures_a, pictures_b = _common_pictures(a, b)
    shared = []
    for one, other in product(a, b):
        classes = {name for name in one.class_names if not is_placeholder(name)} & {*other.class_names}
        in_one, in_other = pictures_a[one.name], pictures_b[other.name]
        pairs = sorted((in_one[digest], in_other[digest]) for digest in in_one.keys() & in_other.keys())
        shared.append(SharedSplit(one.name, other.name, tuple(sorted(classes)), tuple(pairs)))
    return shared


_Pictures = dict[str, dict[bytes, Where]]  # by split, then by digest: the first image with these pixels


def _common_pictures(a: Sequence[PackedSplit], b: Sequence[PackedSplit]) -> tuple[_Pictures, _Pictures]:
    """Return the pictures of each split that may be in the other pack too, which contain all that are."""
    if not a or not b or a[0].images.shape[1:] != b[0].images.shape[1:]:
        return {split.name: {} for split in a}, {split.name: {} for split in b}
    middles_a = {middle for split in a for middle in split.images.middles()}
    rows_b = {split.name: _rows(split, middles_a) for split in b}
    middles_b = {middle for rows in rows_b.values() for middle in rows}
    rows_a = {split.name: _rows(split, middles_b) for split in a}
    return _pictures(a, rows_a), _pictures(b, rows_b)


def _rows(split: PackedSplit, middles: Set[bytes]) -> dict[bytes, list[int]]:
    """Return the images of a split, as rows, whose middle is among these, by middle."""
    rows: defaultdict[bytes, list[int]] = defaultdict(list)
    for row, middle in enumerate(split.images.middles() if middles else ()):
        if middle in middles:
            rows[middle].append(row)
    return rows


def _pictures(splits: Sequence[PackedSplit], rows: dict[str, dict[bytes, list[int]]]) -> _Pictures:
    return {split.name: dict(_digested(split, rows[split.name])) for split in splits}


def _digested(split: PackedSplit, rows: dict[bytes, list[int]]) -> Iterator[tuple[bytes, Where]]:
    """Yield the digest and the place of images, the first of equal ones last."""
    filenames, labels = split.filenames(), split.arrays["labels"]
    for row in sorted((row for of_middle in rows.values() for row in of_middle), reverse=True):
        (digest,) = image_digests(split.images.read([row]))
        yield digest, (split.name, split.class_names[labels[row]], filenames[row])
