"""Find the class and the split of every image from the paths of a source, and so plan a pack.

To support another layout, add a row to `LAYOUTS`.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from nilr.config.base import MINI_IMAGENET, SPLITS, Split
from nilr.config.commands import PrepareDataSettings
from nilr.data.sources.members import MAX_NAME, Listing, Member
from nilr.data.sources.splits import (
    RAVI_CLASSES,
    RAVI_IMAGES_PER_CLASS,
    RAVI_SPLIT_OF,
    Matched,
    Splits,
    SplitTable,
    draw_split,
    find_split_files,
    match_split_files,
    parse_split_classes,
)
from nilr.errors import DataError
from nilr.words import counted

_SPLIT_FOLDERS: Final[Mapping[str, Split]] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_NOT_CLASSES: Final = frozenset({"images", "image", "imgs", "img", "jpeg", "jpg", "data"})
_SYNSET_FILE: Final = re.compile(r"(n\d{8})(?:_\d+|\d{8})\.")

_Classes = dict[str, dict[Split | None, list[Member]]]


class _Located(NamedTuple):
    """An image with the split and the class that its folders name, if any."""

    image: Member
    split: Split | None
    folder: str | None


class _Layout(NamedTuple):
    """How to find the class of an image."""

    name: str  # its name in the pack's attribute `source`
    matches: Callable[[Sequence[_Located]], bool]  # whether the images have this layout
    class_of: Callable[[_Located], str | None]  # returns the class of an image, or None


def _are_flat(images: Sequence[_Located]) -> bool:
    """Return whether every file name contains a class, and there are more classes than folders."""
    classes = {_class_in_name(image) for image in images}
    return None not in classes and len(classes) > len({image.folder for image in images})


def _class_in_name(image: _Located) -> str | None:
    found = _SYNSET_FILE.match(image.image.filename)
    return found[1] if found else None


# The first that matches counts. Split files, if there are any, replace all of them.
LAYOUTS: Final = (
    _Layout("flat images", _are_flat, _class_in_name),
    _Layout("class folders", lambda images: True, lambda image: image.folder),
)


@dataclass
class Plan:
    """What to pack."""

    splits: Splits  # the images of each class of each split
    kind: str  # kind of the source, such as `class folders in tar`
    warnings: list[str] = field(default_factory=list)  # what the user should know about the pack
    notes: list[str] = field(default_factory=list)  # what was skipped

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of images of each class, by split."""
        return {split: {name: len(images) for name, images in c.items()} for split, c in self.splits.items()}


def plan_pack(listing: Listing, settings: PrepareDataSettings, name: str, table: SplitTable | None) -> Plan:
    """Find the class and the split of every image.

    The split comes from the first of: split files (given, in the sources, or beside them); `--split-classes`; split
    folders in the sources; the published split of Mini-ImageNet.

    Args:
        listing: what the sources contain.
        settings: how to split, and how many images of each class to use.
        name: name of the pack; one named `mini-imagenet` must have its classes and number of images.
        table: the split files that the user gave.

    Raises:
        DataError: the split or a class is unknown, a class name is too long, or the images are not Mini-ImageNet.
    """
    plan = _plan_by_table(listing, settings, table) or _plan_by_path(listing, settings, name)
    plan.notes += _skipped(listing)
    for classes in plan.splits.values():
        for class_name, images in classes.items():
            if len(class_name) > MAX_NAME:  # every name in a pack takes as much space as the longest one
                raise DataError(
                    f"the class name that begins with {class_name[:40]!r} has {len(class_name):,} characters",
                    hint=f"rename the class; a name has at most {MAX_NAME} characters",
                )
            classes[class_name] = sorted(images, key=lambda image: image.filename)[: settings.limit_per_class]
    if name == MINI_IMAGENET and settings.limit_per_class is None:
        plan.warnings += _check_mini_imagenet(plan.splits)
    return plan


def _plan_by_table(listing: Listing, settings: PrepareDataSettings, table: SplitTable | None) -> Plan | None:
    where, given = str(settings.split_files), table is not None
    if table is None:
        found = None if settings.split_classes else find_split_files(listing, settings.sources)
        if found is None:
            return None
        table, where = found
    matched = match_split_files(table, listing.images)
    if not matched.splits:
        if not given:
            return None
        raise DataError(
            f"the sources contain none of the images in the split files of `{where}`{_lies_elsewhere(matched)}",
            hint="give the images that the split files list, or omit --split-files",
        )
    if matched.missing:
        row = next((row for row in matched.missing if row in matched.elsewhere), matched.missing[0])
        raise DataError(
            f"the sources lack {counted(len(matched.missing), 'image')} of the split files of `{where}`, such as "
            f"`{row}`{_lies_elsewhere(matched, row)}",
            hint="give all sources; for ILSVRC, give complete classes",
        )
    plan = Plan(matched.splits, _kind("ILSVRC with split files" if matched.original else "split files", listing))
    if matched.absent:
        plan.warnings.append(f"the sources lack {_classes(matched.absent)} of the split files: {_some(matched.absent)}")
    n_used = sum(sum(classes.values()) for classes in plan.counts().values())
    if n_used < len(listing.images):
        plan.notes.append(f"skipped {counted(len(listing.images) - n_used, 'image')} outside the split files")
    return plan


def _lies_elsewhere(matched: Matched, row: str | None = None) -> str:
    row = row or next(iter(matched.elsewhere), "")
    return f"; `{other}` is another image of this name" if (other := matched.elsewhere.get(row)) else ""


def _plan_by_path(listing: Listing, settings: PrepareDataSettings, name: str) -> Plan:
    images = [_locate(image) for image in listing.images]
    layout = next(layout for layout in LAYOUTS if layout.matches(images))
    plan = Plan({}, _kind(layout.name, listing))
    classes: _Classes = defaultdict(lambda: defaultdict(list))
    for located in images:
        class_name = layout.class_of(located)
        if class_name is None:
            raise DataError(
                f"`{located.image.path}` is not in a class folder",
                hint="use one folder per class, or give split files with --split-files",
            )
        classes[class_name][located.split].append(located.image)
    has_split_folders = any(split for parts in classes.values() for split in parts)
    if settings.split_classes:
        if has_split_folders:
            plan.warnings.append("the split folders of the sources are ignored: --split-classes draws another split")
        split_of = draw_split(classes, parse_split_classes(settings.split_classes), seed=settings.seed)
    elif has_split_folders:
        split_of = _split_of_folders(classes, name, plan)
    else:
        split_of = _published_split(classes, name)
    if unused := sorted(set(classes) - set(split_of)):
        plan.notes.append(f"skipped {_classes(unused)} without a split: {_some(unused)}")
    for split in SPLITS:
        chosen = [class_name for class_name in sorted(classes) if split_of.get(class_name) == split]
        if chosen:
            plan.splits[split] = {c: [image for part in classes[c].values() for image in part] for c in chosen}
    return plan


def _locate(image: Member) -> _Located:
    class_name = None
    for folder in reversed(image.path.split("/")[:-1]):
        if split := _SPLIT_FOLDERS.get(folder.lower()):
            return _Located(image, split, class_name)
        if class_name is None and folder.lower() not in _NOT_CLASSES:
            class_name = folder
    return _Located(image, None, class_name)


def _split_of_folders(classes: _Classes, name: str, plan: Plan) -> dict[str, Split]:
    """Return the split in the folders, or the published one if the folders contradict it for Mini-ImageNet."""
    if n_outside := sum(len(parts.pop(None, ())) for parts in classes.values()):
        plan.warnings.append(f"skipped {counted(n_outside, 'image')} outside the split folders")
    split_of = {c: split for c, parts in classes.items() for split in parts if split}
    shared = sorted(c for c, parts in classes.items() if len(parts) > 1)
    published = RAVI_SPLIT_OF.keys() >= split_of.keys()
    if shared and not published:
        raise DataError(
            f"several splits share {_classes(shared)}, such as {_some(shared, 3)}, "
            "but each class must belong to one split",
            hint="draw a new split of all classes with --split-classes 64/16/20",
        )
    if published and (shared or (name == MINI_IMAGENET and any(split_of[c] != RAVI_SPLIT_OF[c] for c in split_of))):
        reason = f"divide {_classes(shared)} between splits" if shared else "differ from it"
        plan.warnings.append(
            "the published split of Mini-ImageNet (Ravi and Larochelle) is used, because the folders of the sources "
            + reason
        )
        return {class_name: RAVI_SPLIT_OF[class_name] for class_name in split_of}
    return split_of


def _published_split(classes: _Classes, name: str) -> dict[str, Split]:
    known = RAVI_SPLIT_OF.keys()
    if known >= classes.keys() or (name == MINI_IMAGENET and known <= classes.keys()):
        return {class_name: RAVI_SPLIT_OF[class_name] for class_name in classes if class_name in known}
    raise DataError(
        f"the split of the {_classes(classes)} ({_some(sorted(classes), 3)}) is unknown",
        hint="use folders train, val and test, read the split with --split-files, or draw one with "
        "--split-classes 64/16/20",
    )


def _check_mini_imagenet(splits: Splits) -> list[str]:
    """Return warnings; raise DataError if the classes or the numbers of images are not those of Mini-ImageNet."""
    sizes = {split: [len(images) for images in splits.get(split, {}).values()] for split in SPLITS}
    if any(sizes[split] != [RAVI_IMAGES_PER_CLASS] * len(RAVI_CLASSES[split]) for split in SPLITS):
        found = "; ".join(f"{s} {_classes(sizes[s])}, {counted(sum(sizes[s]), 'image')}" for s in SPLITS)
        raise DataError(
            f"this is not Mini-ImageNet, which has 64/16/20 classes with 38,400/9,600/12,000 images: found {found}",
            hint="give all of its archives, or ILSVRC with --split-files; use --name for another dataset, "
            "or --limit-per-class for a part",
        )
    unlike = [c for split in SPLITS for c in splits[split] if c not in RAVI_CLASSES[split]]
    if any(c in RAVI_SPLIT_OF for c in unlike):
        raise DataError(
            f"this is not the published split of Mini-ImageNet: {_some(unlike, 3)} belong to other splits",
            hint="use --name for another split",
        )
    if unlike:
        return [f"the split of {_classes(unlike)} without a Mini-ImageNet id cannot be checked"]
    return []


def _skipped(listing: Listing) -> list[str]:
    notes = []
    if listing.others:
        some = _some([f"`{name}` ({what})" for name, what in listing.others.items()], 3)
        notes.append(f"skipped {counted(len(listing.others), 'file')} other than images: {some}")
    if listing.skipped_classes:
        notes.append(f"skipped {_classes(listing.skipped_classes)} outside the split")
    return notes


def _classes(found: Sized) -> str:
    return counted(len(found), "class")


def _kind(layout: str, listing: Listing) -> str:
    return f"{layout} in {' and '.join(sorted({image.reader.kind for image in listing.images}))}"


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
