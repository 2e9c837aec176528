"""Which image belongs to which class of which split, told from what the sources hold."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from nilr.config import MINI_IMAGENET, SPLITS, PrepareDataSettings, Split
from nilr.data.sources.members import MAX_NAME, Listing, Member
from nilr.data.sources.tables import Splits, Table, find_tables, match_tables
from nilr.data.splits import RAVI_CLASSES, RAVI_IMAGES_PER_CLASS, RAVI_SPLIT_OF, draw_split, parse_split_classes
from nilr.errors import DataError

_SPLIT_FOLDERS: Final[Mapping[str, Split]] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_NO_CLASS: Final = frozenset({"images", "image", "imgs", "img", "jpeg", "jpg", "data"})
_SYNSET_FILE: Final = re.compile(r"(n\d{8})(?:_\d+|\d{8})\.")

_Classes = dict[str, dict[Split | None, list[Member]]]


@dataclass
class Plan:
    """What will be packed.

    Attributes:
        splits: the images of each class of each split.
        kind: the kind of source, in words.
        warnings: what the user should know of the pack.
        notes: what was passed over.
    """

    splits: Splits
    kind: str
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of images of each class, by split."""
        return {split: {name: len(images) for name, images in c.items()} for split, c in self.splits.items()}


def plan_pack(listing: Listing, settings: PrepareDataSettings, name: str, table: Table | None) -> Plan:
    """Decide the split and class of every image.

    In this order: split files (given, in the sources, beside them); `--split-classes`; the sources' own split folders;
    the built-in split of Mini-ImageNet's classes.

    Args:
        listing: what the sources hold.
        settings: how to split, and how many images of each class to take.
        name: name of the pack; `mini-imagenet` is held to be what it says.
        table: the split files that the user gave.

    Raises:
        DataError: there is no way to tell, a class's name is too long, or it is not the Mini-ImageNet that its name
            says.
    """
    plan = _plan_by_table(listing, settings, table) or _plan_by_path(listing, settings, name)
    plan.notes += _passed_over(listing)
    for classes in plan.splits.values():
        for class_name, images in classes.items():
            if len(class_name) > MAX_NAME:  # every name of a pack takes as much room as the longest
                raise DataError(
                    f"the name of a class begins with {class_name[:40]!r} and has {len(class_name):,} characters",
                    hint=f"give it a name of at most {MAX_NAME}",
                )
            classes[class_name] = sorted(images, key=lambda image: image.filename)[: settings.limit_per_class]
    if name == MINI_IMAGENET and settings.limit_per_class is None:
        plan.warnings += _check_mini_imagenet(plan.splits)
    return plan


def _plan_by_table(listing: Listing, settings: PrepareDataSettings, table: Table | None) -> Plan | None:
    where, given = str(settings.split_files), table is not None
    if table is None:
        found = None if settings.split_classes else find_tables(listing, settings.sources)
        if found is None:
            return None
        table, where = found
    matched = match_tables(table, listing.images)
    if not matched.splits:
        if not given:
            return None
        raise DataError(
            f"none of the images that the split files in `{where}` name is in the sources",
            hint="give the images that they name, or leave --split-files out",
        )
    if matched.missing:
        raise DataError(
            f"{len(matched.missing):,} images that the split files in `{where}` name are not in the sources, "
            f"such as `{matched.missing[0]}`",
            hint="give every source, and of ILSVRC whole classes",
        )
    plan = Plan(matched.splits, _kind("ILSVRC with split files" if matched.original else "split files", listing))
    if matched.absent:
        plan.warnings.append(
            f"{len(matched.absent)} classes of the split files are not in the sources: {_some(matched.absent)}"
        )
    taken = sum(sum(classes.values()) for classes in plan.counts().values())
    if taken < len(listing.images):
        plan.notes.append(f"{len(listing.images) - taken:,} images that no split file names are left out")
    return plan


def _plan_by_path(listing: Listing, settings: PrepareDataSettings, name: str) -> Plan:
    kind, classes = _classes_by_path(listing.images)
    plan = Plan({}, _kind(kind, listing))
    own = any(split for members in classes.values() for split in members)
    if settings.split_classes:
        if own:
            plan.warnings.append("the sources' own split is not used: --split-classes draws another")
        split_of = draw_split(classes, parse_split_classes(settings.split_classes), seed=settings.seed)
    elif own:
        split_of = _own_split(classes, name, plan)
    else:
        split_of = _built_in_split(classes, name)
    if left_out := sorted(set(classes) - set(split_of)):
        plan.notes.append(f"{len(left_out)} classes stand in no split and are left out: {_some(left_out)}")
    for split in SPLITS:
        chosen = [class_name for class_name in sorted(classes) if split_of.get(class_name) == split]
        if chosen:
            plan.splits[split] = {c: [image for part in classes[c].values() for image in part] for c in chosen}
    return plan


def _classes_by_path(images: Iterable[Member]) -> tuple[str, _Classes]:
    """Return the kind of layout, and the images by class and by the split folder they lie in."""
    labelled = [(image, *_label(image.path)) for image in images]
    synsets = [found[1] if (found := _SYNSET_FILE.match(image.filename)) else "" for image, _, _ in labelled]
    flat = all(synsets) and len(set(synsets)) > len({folder for _, _, folder in labelled})
    classes: _Classes = defaultdict(lambda: defaultdict(list))
    for (image, split, folder), synset in zip(labelled, synsets, strict=True):
        class_name = synset if flat else folder
        if class_name is None:
            raise DataError(
                f"`{image.path}` lies in no class's folder",
                hint="give a folder per class, or split files with --split-files",
            )
        classes[class_name][split].append(image)
    return "flat images" if flat else "class folders", classes


def _label(path: str) -> tuple[Split | None, str | None]:
    """Return the split and the class that the folders of a path name."""
    class_name = None
    for folder in reversed(path.split("/")[:-1]):
        if split := _SPLIT_FOLDERS.get(folder.lower()):
            return split, class_name
        if class_name is None and folder.lower() not in _NO_CLASS:
            class_name = folder
    return None, class_name


def _own_split(classes: _Classes, name: str, plan: Plan) -> dict[str, Split]:
    """Return the split of the folders, or the built-in one where they cut through Mini-ImageNet's classes."""
    if strays := sum(len(members.pop(None, ())) for members in classes.values()):
        plan.warnings.append(f"{strays:,} images that lie in no split's folder are left out")
    split_of = {c: split for c, members in classes.items() for split in members if split}
    shared = sorted(c for c, members in classes.items() if len(members) > 1)
    known = RAVI_SPLIT_OF.keys() >= split_of.keys()
    if shared and not known:
        raise DataError(
            f"{len(shared)} classes stand in several splits, such as {_some(shared, 3)}, "
            "and a split is a partition of classes",
            hint="--split-classes 64/16/20 draws the split anew from all classes",
        )
    if known and (shared or (name == MINI_IMAGENET and any(split_of[c] != RAVI_SPLIT_OF[c] for c in split_of))):
        plan.warnings.append(
            f"the sources' own folders cut {len(shared)} classes across train, val and test"
            if shared
            else "the sources' own folders do not follow the published split of Mini-ImageNet"
        )
        plan.warnings[-1] += "; the published split of classes (Ravi and Larochelle) is used instead"
        return {class_name: RAVI_SPLIT_OF[class_name] for class_name in split_of}
    return split_of


def _built_in_split(classes: _Classes, name: str) -> dict[str, Split]:
    known = RAVI_SPLIT_OF.keys()
    if known >= classes.keys() or (name == MINI_IMAGENET and known <= classes.keys()):
        return {class_name: RAVI_SPLIT_OF[class_name] for class_name in classes if class_name in known}
    raise DataError(
        f"nothing says which of the {len(classes)} classes ({_some(sorted(classes), 3)}) are train, val and test",
        hint="--split-classes 64/16/20 draws that by seed, --split-files reads it, and folders train, val, test say it",
    )


def _check_mini_imagenet(splits: Splits) -> list[str]:
    """Return warnings; what calls itself Mini-ImageNet has its classes and its number of images."""
    expected = {split: len(RAVI_CLASSES[split]) for split in SPLITS}
    sizes = {split: [len(images) for images in splits.get(split, {}).values()] for split in SPLITS}
    counts_right = all(sizes[split] == [RAVI_IMAGES_PER_CLASS] * expected[split] for split in SPLITS)
    if not counts_right:
        found = "; ".join(f"{split} {len(sizes[split])} classes, {sum(sizes[split]):,} images" for split in SPLITS)
        raise DataError(
            f"this is not Mini-ImageNet, which has 64/16/20 classes with 38,400/9,600/12,000 images: here are {found}",
            hint="give all of its archives, or ILSVRC with --split-files; --name packs any other dataset, "
            "--limit-per-class a part",
        )
    unlike = [c for split in SPLITS for c in splits[split] if c not in RAVI_CLASSES[split]]
    if any(c in RAVI_SPLIT_OF for c in unlike):
        raise DataError(
            f"this is not the published split of Mini-ImageNet: {_some(unlike, 3)} stand elsewhere in it",
            hint="--name packs another split",
        )
    if unlike:
        return [f"{len(unlike)} classes have no ids of Mini-ImageNet, so that their split cannot be checked"]
    return []


def _passed_over(listing: Listing) -> list[str]:
    notes = []
    if listing.others:
        some = _some([f"`{name}` ({what})" for name, what in listing.others.items()], 3)
        notes.append(f"{len(listing.others):,} files that are not images are left out: {some}")
    if listing.left_out:
        notes.append(f"{len(listing.left_out)} classes that are not of the split were not looked into")
    return notes


def _kind(layout: str, listing: Listing) -> str:
    return f"{layout} in {' and '.join(sorted({image.reader.kind for image in listing.images}))}"


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
