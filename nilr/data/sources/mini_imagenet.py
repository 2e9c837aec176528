"""The classes of Mini-ImageNet and their published split."""

from collections.abc import Mapping, Sequence, Set
from typing import Final

from nilr.config.base import MINI_IMAGENET, SPLITS, Split
from nilr.config.commands import PrepareDataSettings
from nilr.data.sources.members import Listing
from nilr.errors import DataError
from nilr.words import counted

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


def is_mini_imagenet(listing: Listing, settings: PrepareDataSettings, classes: Set[str]) -> bool:
    """Return whether the pack is Mini-ImageNet by the name given, or else by its classes or its published form."""
    if settings.name is not None:
        return settings.name == MINI_IMAGENET
    known = RAVI_SPLIT_OF.keys()
    in_pickles = all(image.reader.kind == "pickle" for image in listing.images)
    return in_pickles or known >= classes or (known <= classes and settings.split_classes is None)


def check_mini_imagenet(splits: Mapping[Split, Mapping[str, Sequence[object]]]) -> list[str]:
    """Return warnings; raise DataError if the classes or the numbers of images are not those of Mini-ImageNet."""
    sizes = {split: [len(images) for images in splits.get(split, {}).values()] for split in SPLITS}
    if any(sizes[split] != [RAVI_IMAGES_PER_CLASS] * len(RAVI_CLASSES[split]) for split in SPLITS):
        found = "; ".join(f"{s} {counted(len(sizes[s]), 'class')}, {counted(sum(sizes[s]), 'image')}" for s in SPLITS)
        raise DataError(
            f"this is not Mini-ImageNet, which has 64/16/20 classes with 38,400/9,600/12,000 images: found {found}",
            hint="give all of its archives, or ILSVRC with --split-files; use --name for another dataset, "
            "or --limit-per-class for a part",
        )
    unlike = [c for split in SPLITS for c in splits[split] if c not in RAVI_CLASSES[split]]
    if any(c in RAVI_SPLIT_OF for c in unlike):
        raise DataError(
            f"this is not the published split of Mini-ImageNet: {', '.join(unlike[:3])} belong to other splits",
            hint="use --name for another split",
        )
    if unlike:
        return [f"the split of {counted(len(unlike), 'class')} without a Mini-ImageNet id cannot be checked"]
    return []
