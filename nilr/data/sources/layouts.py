"""Find the class and the split of every image, and so plan a pack."""

import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set, Sized
from dataclasses import dataclass, field
from typing import Final

from nilr.config.base import MINI_IMAGENET, SPLITS, Split, is_name
from nilr.config.commands import PrepareDataSettings
from nilr.data.sources.datasets import DATASETS, Published, published, recognise
from nilr.data.sources.members import MAX_NAME, Listing, Member, container_name
from nilr.data.sources.splits import (
    Matched,
    Splits,
    SplitTable,
    draw_split,
    find_split_files,
    match_split_files,
    parse_split_classes,
)
from nilr.data.sources.tree import Classes, Tree, read_tree, split_named
from nilr.errors import DataError
from nilr.words import counted, some

# An episode of the usual size: 1 support and 15 query images per class.
_EPISODE_IMAGES: Final = 16
_FAR_SMALLER: Final = 5  # times smaller than the median class
_IMAGE_SIZE: Final = 84  # px, of images outside `DATASETS`
_CHANNELS: Final = 3


@dataclass
class Plan:
    """What to pack."""

    splits: Splits  # the images of each class of each split
    name: str  # of the pack
    kind: str  # kind of the source, such as `class folders in tar`
    dataset: Published | None = None  # the standard data set that this is, or whose classes these are
    image_size: int = _IMAGE_SIZE
    channels: int = _CHANNELS
    warnings: list[str] = field(default_factory=list)  # what the user should know about the pack
    notes: list[str] = field(default_factory=list)  # what was skipped
    broken: dict[str, str] = field(default_factory=dict)  # why files of the sources are unreadable

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of images of each class, by split."""
        return {split: {name: len(images) for name, images in c.items()} for split, c in self.splits.items()}


def plan_pack(listing: Listing, settings: PrepareDataSettings, table: SplitTable | None) -> Plan:
    """Find the class and the split of every image.

    The split comes from the first of: split files (given, in the sources, or beside them); `--dataset`;
    `--split-classes`; split folders in the sources; the published split of the data set that has these classes.

    Args:
        listing: what the sources contain.
        settings: how to split, and which images of each class to use. A pack named like a data set of `DATASETS`, or
            one without a given name that contains its classes, must have its classes and number of images.
        table: the split files that the user gave.

    Raises:
        DataError: the split or a class is unknown, a class name is too long, or the data set is not whole.
    """
    warnings: list[str] = []
    try:
        plan = _plan_by_table(listing, settings, table, warnings) or _plan_by_path(listing, settings, warnings)
        _check_sizes(plan, settings.min_images)
    except DataError as error:
        raise DataError("; ".join([error.message, *warnings]), hint=error.hint) from error
    plan.notes += _skipped(listing)
    for classes in plan.splits.values():
        for class_name, images in classes.items():
            if len(class_name) > MAX_NAME:  # every name in a pack takes as much space as the longest one
                raise DataError(
                    f"the class name that begins with {class_name[:40]!r} has {len(class_name):,} characters",
                    hint=f"rename the class; a name has at most {MAX_NAME} characters",
                )
            classes[class_name] = sorted(images, key=lambda image: image.filename)[: settings.limit_per_class]
    if plan.dataset is not None:
        plan.image_size, plan.channels = plan.dataset.row.image_size, plan.dataset.row.channels
        if _is_whole(plan.dataset, settings) and settings.limit_per_class is None:
            plan.warnings += plan.dataset.check(plan.splits)
    plan.image_size = settings.image_size or plan.image_size
    plan.channels = plan.channels if settings.channels == "auto" else int(settings.channels)
    if settings.rotations:
        plan.splits = {split: _with_rotations(classes) for split, classes in plan.splits.items()}
    return plan


def _with_rotations(classes: Mapping[str, list[Member]]) -> dict[str, list[Member]]:
    """Return the classes and, as further classes, their images turned by 90, 180 and 270 degrees."""
    return {
        f"{name}@{90 * turns}" if turns else name: [image._replace(turns=turns) for image in images]
        for name, images in classes.items()
        for turns in range(4)
    }


def _plan_by_table(
    listing: Listing, settings: PrepareDataSettings, table: SplitTable | None, warnings: list[str]
) -> Plan | None:
    """Return the plan of the split files; None if there are none, or if they do not fit, with a warning."""
    where, given = str(settings.split_files), table is not None
    if table is None:
        if settings.split_classes and listing.split_files:
            warnings.append("the split files of the sources are ignored: --split-classes draws another split")
        found = None if settings.split_classes else find_split_files(listing, settings.sources, warnings)
        if found is None:
            return None
        table, where = found
    matched = match_split_files(table, listing.images)
    if not matched.splits:
        reason = f"the sources contain none of the images in the split files of `{where}`{_lies_elsewhere(matched)}"
        if given:
            raise DataError(reason, hint="give the images that the split files list, or omit --split-files")
        warnings.append(f"{reason}, which are ignored")
        return None
    if matched.missing:
        row = next((row for row in matched.missing if row in matched.elsewhere), matched.missing[0])
        raise DataError(
            f"the sources lack {counted(len(matched.missing), 'image')} of the split files of `{where}`, such as "
            f"`{row}`{_lies_elsewhere(matched, row)}",
            hint="give all sources, or correct the split files; for ILSVRC, give complete classes",
        )
    kind = _kind("ILSVRC with split files" if matched.original else "split files", listing)
    labels = {label for classes in table.values() for label in classes}
    dataset, _ = _find_dataset(listing, settings, labels, {})
    plan = Plan(matched.splits, _pack_name(listing, settings, labels, dataset), kind, dataset, warnings=warnings)
    if matched.absent:
        plan.warnings.append(f"the sources lack {_classes(matched.absent)} of the split files: {some(matched.absent)}")
    if matched.relabelled:
        path, (label, folder) = next(iter(matched.relabelled.items()))
        plan.warnings.append(
            f"the split files give {counted(len(matched.relabelled), 'image')} another class than that of the folder, "
            f"such as `{path}`: `{label}`, not `{folder}`"
        )
    n_used = sum(sum(classes.values()) for classes in plan.counts().values())
    if n_used < len(listing.images):
        plan.notes.append(f"skipped {counted(len(listing.images) - n_used, 'image')} outside the split files")
    return plan


def _lies_elsewhere(matched: Matched, row: str | None = None) -> str:
    first = row or next(iter(matched.elsewhere), "")
    if (other := matched.elsewhere.get(first)) is None:
        return ""
    same = first.rpartition("/")[2] in (name := other.rpartition("/")[2], name.rpartition(".")[0])
    example = "" if row else f", such as `{first}`"
    return f"{example}; `{other}` is {'another image of this name' if same else 'there'}"


def _plan_by_path(listing: Listing, settings: PrepareDataSettings, warnings: list[str]) -> Plan:
    tree = read_tree(listing.images)
    plan = Plan({}, "", _kind("flat images" if tree.is_flat else "class folders", listing), warnings=warnings)
    classes = tree.by_name()
    in_folders = {c: split for c, parts in classes.items() for split in parts if split}
    plan.dataset, alike = _find_dataset(listing, settings, classes.keys(), in_folders)
    _check_tree(tree, listing, settings, plan)
    if plan.dataset is not None:
        classes = {plan.dataset.name_of(c): parts for c, parts in classes.items()}
    if settings.split_classes:
        if in_folders:
            plan.warnings.append("the split folders of the sources are ignored: --split-classes draws another split")
        for small in _too_small({c: sum(map(len, classes[c].values())) for c in classes}, settings.min_images, plan):
            del classes[small]
        split_of = draw_split(classes, parse_split_classes(settings.split_classes), seed=settings.seed)
    elif in_folders:
        split_of = _split_of_folders(classes, plan, settings, alike)
        if missing := [split for split in SPLITS if split not in split_of.values()]:
            plan.warnings.append(f"the sources have no images of the split {' and '.join(missing)}")
    else:
        split_of = _published_split(classes, plan, settings, alike)
    if plan.dataset is None:
        _check_names(split_of, plan)
    if unused := sorted(set(classes) - set(split_of)):
        plan.notes.append(f"skipped {_classes(unused)} without a split: {some(unused)}")
    for split in SPLITS:
        chosen = [class_name for class_name in sorted(classes) if split_of.get(class_name) == split]
        if chosen:
            plan.splits[split] = {c: [image for part in classes[c].values() for image in part] for c in chosen}
    plan.name = _pack_name(listing, settings, classes.keys(), plan.dataset)
    if plan.dataset and settings.dataset is None and settings.name is None:
        plan.notes.append(f"recognised {plan.dataset.title} by its classes")
    return plan


def _find_dataset(
    listing: Listing, settings: PrepareDataSettings, classes: Set[str], split_of: Mapping[str, Split]
) -> tuple[Published | None, list[Published]]:
    """Return the data set that was requested or recognised, or else those with the same classes."""
    if name := settings.dataset or (settings.name if settings.name in DATASETS else None):
        return published(name, settings.cub_split), []
    kinds = {image.reader.kind for image in listing.images}
    path = listing.images[0].path if settings.name is None and kinds <= {"pickle", "npz", "npy"} else None
    found = recognise(classes, split_of, drawn=settings.split_classes is not None, path=path)
    if not found and path is not None and kinds == {"pickle"}:  # Mini-ImageNet's may have other names, and no ids
        found = [published(MINI_IMAGENET)]
    return (published(found[0].name, settings.cub_split), []) if len(found) == 1 else (None, found)


def _is_whole(dataset: Published, settings: PrepareDataSettings) -> bool:
    """Return whether the pack must be the whole data set: it was requested, or the pack has its name."""
    return settings.dataset is not None or settings.name in (None, dataset.name, dataset.file)


def _check_names(split_of: Mapping[str, Split], plan: Plan) -> None:
    """Add a note of classes whose folders have equal names, and warnings if they may be one class."""
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(split_of):
        alike[name.rpartition("/")[2].casefold()].append(name)
    same, apart, case = [], [], []
    for names in alike.values():
        folders = [name.rpartition("/")[2] for name in names]
        equal = [name for name, folder in zip(names, folders, strict=True) if folders.count(folder) > 1]
        same += equal
        apart += equal if len({split_of[name] for name in equal}) > 1 else []
        case += names if len(set(folders)) > 1 else []
    if same:
        plan.notes.append(f"classes of equal names in different folders are different classes: {some(same, 3)}")
    for names, what in (
        (apart, "of equal names are in different splits"),
        (case, "have names that differ only in case"),
    ):
        if names:
            listed = some([f"`{name}` ({split_of[name]})" for name in names])
            plan.warnings.append(f"{_classes(names)} {what}: {listed}")


def _pack_name(listing: Listing, settings: PrepareDataSettings, classes: Set[str], dataset: Published | None) -> str:
    """Return the pack's name: the given one, that of the data set, or that of the only source."""
    if settings.name is not None:
        return settings.name
    if dataset is not None:
        return dataset.file
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", container_name(settings.sources[0].resolve().name)).strip("._-")
    if len(settings.sources) > 1 or split_named(name) or not is_name(name):
        raise DataError("the images are no known data set, so the pack needs a name", hint="name it with --name")
    if listing.skipped_classes and settings.split_files is None:
        outside = f"{_classes(listing.skipped_classes)}, such as {min(listing.skipped_classes)}, outside Mini-ImageNet"
        raise DataError(f"the sources contain {outside}", hint="pack all classes under another name with --name")
    return name


def _check_tree(tree: Tree, listing: Listing, settings: PrepareDataSettings, plan: Plan) -> None:
    """Add warnings of what is left out; raise DataError if images have no class, or only some have a split."""
    plan.notes += [f"read the folder `{path}` as {split}" for path, split in tree.read_as.items()]
    if tree.strays:
        strays = some([f"`{image.path}`" for image in tree.strays], 3)
        plan.warnings.append(f"skipped {counted(len(tree.strays), 'image')} beside class folders: {strays}")
    draw = _draw({folder.key for folder in tree.classes})
    if tree.unsorted:
        n_images = counted(sum(tree.unsorted.values()), "image")
        found = f"{n_images} without class folders: {some([f'`{path}`' for path in tree.unsorted])}"
        if not (settings.split_classes or plan.dataset) or not tree.classes:
            lists = [f", as `{other}` lists them" for other in listing.others if other.endswith("_annotations.txt")]
            hint = f"sort them into one folder per class{next(iter(lists), '')}, or give split files with --split-files"
            hint += f"; {draw} skips them, and draws a split of the classes that have folders" if tree.classes else ""
            raise DataError(found, hint=hint)
        plan.warnings.append(f"skipped {found}")
    with_split, without = tree.sides()
    if with_split and without and not (settings.split_classes or plan.dataset):
        raise DataError(
            f"some folders belong to a split and others do not: {some(list(map(_quoted, with_split)))} do, "
            f"{some(list(map(_quoted, without)))} do not",
            hint=f"name each of them train, val or test, or leave it out; or draw a new split with {draw}",
        )


def _quoted(path: str) -> str:
    """Quote a path so that a space at the end of a folder's name is seen."""
    has_space = any(name != name.strip() for name in path.split("/"))
    return f"`{path}` (with a space at the start or end of a name)" if has_space else f"`{path}`"


def _draw(classes: Sized) -> str:
    """Return the flag that draws a split of all classes in the proportions of Mini-ImageNet, 5 at least if possible."""
    if (n := len(classes)) < len(SPLITS):
        return "--split-classes (which needs at least 3 classes, one for each split)"
    val, test = (max(share, min(5, n // 3)) for share in (n * 16 // 100, n // 5))
    return f"--split-classes {n - val - test}/{val}/{test}"


def _check_sizes(plan: Plan, least: int | None) -> None:
    """Leave out classes with fewer than `least` images, and warn of the small ones that remain."""
    sizes = {name: len(images) for classes in plan.splits.values() for name, images in classes.items()}
    for name in _too_small(sizes, least, plan):
        del sizes[name]
    for split, classes in plan.splits.items():
        plan.splits[split] = {name: images for name, images in classes.items() if name in sizes}
        if not plan.splits[split]:
            raise DataError(f"no class of the split `{split}` has {least} images", hint="lower --min-images")
    if few := sorted(name for name, size in sizes.items() if size < _EPISODE_IMAGES):
        way_out = f"; --min-images {_EPISODE_IMAGES} leaves out such classes" if len(few) < len(sizes) else ""
        plan.warnings.append(
            f"{_classes(few)} with fewer than {_EPISODE_IMAGES} images, too few for an episode of 1 support and 15 "
            f"query images per class: {_with_sizes(few, sizes)}{way_out}"
        )
    usual = statistics.median_low(sizes.values()) if sizes else 0
    if small := sorted(name for name, size in sizes.items() if _EPISODE_IMAGES <= size < usual / _FAR_SMALLER):
        plan.warnings.append(
            f"{_classes(small)} far smaller than the others, whose median is {usual:,} images: "
            f"{_with_sizes(small, sizes)}"
        )


def _too_small(sizes: Mapping[str, int], least: int | None, plan: Plan) -> list[str]:
    """Return the classes with fewer than `least` images, and add a warning that they are left out."""
    small = sorted(name for name, size in sizes.items() if size < (least or 0))
    if small:
        plan.warnings.append(
            f"skipped {_classes(small)} with fewer than {least} images (--min-images): {_with_sizes(small, sizes)}"
        )
    return small


def _with_sizes(names: Sequence[str], sizes: Mapping[str, int]) -> str:
    return some([f"`{name}` ({sizes[name]:,})" for name in names])


def _split_of_folders(
    classes: Classes, plan: Plan, settings: PrepareDataSettings, alike: Sequence[Published]
) -> dict[str, Split]:
    """Return the split in the folders, or the published one if the folders contradict it for a known data set."""
    split_of = {c: split for c, parts in classes.items() for split in parts if split}
    shared = sorted(c for c, parts in classes.items() if len(parts) > 1)
    dataset = plan.dataset if plan.dataset and plan.dataset.has_all(split_of) else None
    if shared and alike:
        raise _undecided(alike)
    if shared and dataset is None:
        raise DataError(
            f"several splits share {_classes(shared)}, such as {some(shared, 3)}, "
            "but each class must belong to one split",
            hint=f"draw a new split of all classes with {_draw(classes)}",
        )
    if dataset is None:
        return split_of
    differs = any(split_of[c] != dataset.split_of[c] for c in split_of)
    if not shared and not (differs and _is_whole(dataset, settings)):
        return split_of
    if settings.dataset is None:
        reason = f"divide {_classes(shared)} between splits" if shared else "differ from it"
        plan.warnings.append(
            f"the published split of {dataset.title} is used, because the folders of the sources {reason}"
        )
    return _split_in(dataset, classes)


def _split_in(dataset: Published, classes: Classes) -> dict[str, Split]:
    return {name: split for name in classes if (split := dataset.split_of.get(name))}


def _published_split(
    classes: Classes, plan: Plan, settings: PrepareDataSettings, alike: Sequence[Published]
) -> dict[str, Split]:
    dataset = plan.dataset
    if dataset and (dataset.has_all(classes) or (_is_whole(dataset, settings) and dataset.is_within(classes))):
        return _split_in(dataset, classes)
    if alike:
        raise _undecided(alike)
    raise DataError(
        f"the split of the {_classes(classes)} ({some(sorted(classes), 3)}) is unknown",
        hint=f"use folders train, val and test, read the split with --split-files, or draw one with {_draw(classes)}",
    )


def _undecided(alike: Sequence[Published]) -> DataError:
    return DataError(
        f"the classes are those of {' and '.join(data.row.title for data in alike)}, which split them differently",
        hint=f"choose with {' or '.join(f'--dataset {data.name}' for data in alike)}",
    )


def _skipped(listing: Listing) -> list[str]:
    notes = []
    if listing.others:
        listed = some([f"`{name}` ({what})" for name, what in listing.others.items()], 3)
        notes.append(f"skipped {counted(len(listing.others), 'file')} other than images: {listed}")
    if listing.skipped_classes:
        notes.append(f"skipped {_classes(listing.skipped_classes)} outside the split")
    return notes


def _classes(found: Sized) -> str:
    return counted(len(found), "class")


def _kind(layout: str, listing: Listing) -> str:
    return f"{layout} in {' and '.join(sorted({image.reader.kind for image in listing.images}))}"
