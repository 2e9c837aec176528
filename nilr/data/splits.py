"""Which classes are train, val and test: the published split of Mini-ImageNet, and seeded draws for all else.

A split is a partition of classes: an episode's classes were never seen in training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Final

from nilr.config import SPLITS, Split
from nilr.errors import DataError, UsageError

# Ravi and Larochelle, Optimization as a Model for Few-Shot Learning, 2017: train.csv, val.csv, test.csv.
_TRAIN: Final = """
n01532829 n01558993 n01704323 n01749939 n01770081 n01843383 n01910747 n02074367 n02089867 n02091831
n02101006 n02105505 n02108089 n02108551 n02108915 n02111277 n02113712 n02120079 n02165456 n02457408
n02606052 n02687172 n02747177 n02795169 n02823428 n02966193 n03017168 n03047690 n03062245 n03207743
n03220513 n03337140 n03347037 n03400231 n03476684 n03527444 n03676483 n03838899 n03854065 n03888605
n03908618 n03924679 n03998194 n04067472 n04243546 n04251144 n04258138 n04275548 n04296562 n04389033
n04435653 n04443257 n04509417 n04515003 n04596742 n04604644 n04612504 n06794110 n07584110 n07697537
n07747607 n09246464 n13054560 n13133613
"""
_VAL: Final = """
n01855672 n02091244 n02114548 n02138441 n02174001 n02950826 n02971356 n02981792 n03075370 n03417042
n03535780 n03584254 n03770439 n03773504 n03980874 n09256479
"""
_TEST: Final = """
n01930112 n01981276 n02099601 n02110063 n02110341 n02116738 n02129165 n02219486 n02443484 n02871525
n03127925 n03146219 n03272010 n03544143 n03775546 n04146614 n04149813 n04418357 n04522168 n07613480
"""
RAVI_CLASSES: Final[Mapping[Split, frozenset[str]]] = {
    "train": frozenset(_TRAIN.split()),
    "val": frozenset(_VAL.split()),
    "test": frozenset(_TEST.split()),
}
RAVI_SPLIT_OF: Final[Mapping[str, Split]] = {name: split for split, names in RAVI_CLASSES.items() for name in names}
RAVI_IMAGES_PER_CLASS: Final = 600


def parse_split_classes(text: str) -> dict[Split, int]:
    """Read the numbers of train, val and test classes, such as `64/16/20`.

    Raises:
        UsageError: these are not three whole numbers, or there is no class to train on.
    """
    parts = text.split("/")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts) or int(parts[0]) == 0:
        raise UsageError(
            f"`{text}` does not say how many classes are train, val and test", hint="write --split-classes 64/16/20"
        )
    return dict(zip(SPLITS, map(int, parts), strict=True))


def draw_split(classes: Collection[str], numbers: Mapping[Split, int], *, seed: int) -> dict[str, Split]:
    """Draw the split of each class; classes beyond the numbers stand in none.

    The draw is a pure function of the seed and each class's name: the classes in the order of a hash of both.

    Raises:
        DataError: there are fewer classes than were asked for.
    """
    wanted = sum(numbers.values())
    if wanted > len(classes):
        asked = "/".join(str(numbers[split]) for split in SPLITS)
        raise DataError(
            f"--split-classes {asked} asks for {wanted} classes, and the source has {len(classes)}",
            hint="ask for fewer, or add sources",
        )
    drawn = iter(sorted(classes, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode(errors="replace")).digest()))
    return {next(drawn): split for split in SPLITS for _ in range(numbers[split])}
