"""Find the class and the split of every image, and so plan a pack."""

import re
from collections.abc import Mapping, Sequence, Set
from types import MappingProxyType

from nilr.config.base import MINI_IMAGENET, SPLITS, Split
from nilr.config.packs import PrepareDataSettings
from nilr.data.sources.datasets import DATASETS, Published, published, recognise
from nilr.data.sources.members import ARRAY_KINDS, MAX_NAME, Listing, Member, container_name, is_placeholder
from nilr.data.sources.plans import (
    Plan,
    check_names,
    check_numbers,
    check_sizes,
    check_tree,
    drawing,
    drop_excluded,
    drop_small,
    n_classes,
    name_shared,
)
from nilr.data.sources.splits import (
    Matched,
    SplitTable,
    draw_split,
    find_split_files,
    match_split_files,
    parse_split_classes,
)
from nilr.data.sources.tree import Classes, read_tree, split_named
from nilr.errors import DataError, UsageError
from nilr.words import counted, is_name, some


def plan_pack(
    listing: Listing,
    settings: PrepareDataSettings,
    table: SplitTable | None,
    excluded: Mapping[str, str] = MappingProxyType({}),
) -> Plan:
    """Find the class and the split of every image.

    The split comes from the first of: split files (given, in the sources, or beside them); `--dataset`;
    `--split-classes`; split folders in the sources; the published split of the data set that has these classes.

    Args:
        listing: what the sources contain.
        settings: how to split, and which images of each class to use. A pack named like a data set of `DATASETS`, or
            one without a given name that contains its classes, must have its classes and number of images.
        table: the split files that the user gave.
        excluded: classes to leave out, each with the pack that has it.

    Raises:
        DataError: the split or a class is unknown, a class name is too long, or the data set is not whole.
        UsageError: a split of CUB is requested for something else.
    """
    warnings: list[str] = []
    try:
        plan = _plan_by_table(listing, settings, table, warnings)
        if plan is None:
            plan = _plan_by_path(listing, settings, warnings, excluded)
        elif excluded:
            dropped = drop_excluded([name for classes in plan.splits.values() for name in classes], excluded, plan)
            left = {s: {c: v for c, v in each.items() if c not in dropped} for s, each in plan.splits.items()}
            plan.splits = {split: classes for split, classes in left.items() if classes}
        name_shared(plan)
        check_numbers(plan)
        check_sizes(plan, settings.min_images)
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
    _check_cub_split(plan, settings)
    if plan.dataset is not None:
        plan.image_size, plan.channels = plan.dataset.row.image_size, plan.dataset.row.channels
        if _is_whole(plan.dataset, settings) and not plan.excluded:
            plan.warnings += plan.dataset.check(plan.splits, part=settings.limit_per_class is not None)
    plan.image_size = settings.image_size or plan.image_size
    plan.channels = plan.channels if settings.channels == "auto" else int(settings.channels)
    if settings.rotations:
        plan.splits = {split: _with_rotations(classes) for split, classes in plan.splits.items()}
    return plan


def _check_cub_split(plan: Plan, settings: PrepareDataSettings) -> None:
    splits = plan.dataset.row.splits if plan.dataset else {}
    if "cub_split" in settings.model_fields_set and settings.cub_split not in splits:
        what = plan.dataset.title if plan.dataset else "images without a published split"
        raise UsageError(f"--cub-split is for CUB-200-2011; these are {what}", hint="omit it")


def _with_rotations(classes: Mapping[str, list[Member]]) -> dict[str, list[Member]]:
    """Return the classes and, as further classes, their images turned by 90, 180 and 270 degrees."""
    names = ((name, f"{name}@{90 * turns}") for name in classes for turns in (1, 2, 3))
    for name, turned in names:
        if turned in classes:
            raise DataError(
                f"`{name}` turned by --rotations would have the name of the class `{turned}`",
                hint="rename one of them, or omit --rotations",
            )
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
    plan = Plan(matched.splits, _pack_name(listing, settings, dataset), kind, dataset, warnings=warnings)
    if matched.absent:
        plan.warnings.append(f"the sources lack {n_classes(matched.absent)} of the split files: {some(matched.absent)}")
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


def _plan_by_path(
    listing: Listing, settings: PrepareDataSettings, warnings: list[str], excluded: Mapping[str, str]
) -> Plan:
    tree = read_tree(listing.images)
    plan = Plan({}, "", _kind("flat images" if tree.is_flat else "class folders", listing), warnings=warnings)
    classes = tree.by_name()
    in_folders = {c: split for c, parts in classes.items() for split in parts if split}
    plan.dataset, alike = _find_dataset(listing, settings, classes.keys(), in_folders)
    check_tree(tree, listing, settings, plan)
    if plan.dataset is not None:
        classes = {plan.dataset.name_of(c): parts for c, parts in classes.items()}
    dropped = drop_excluded(classes, excluded, plan) if excluded else set()
    if settings.split_classes:
        if in_folders:
            plan.warnings.append("the split folders of the sources are ignored: --split-classes draws another split")
        classes = {c: parts for c, parts in classes.items() if c not in dropped}
        for small in drop_small({c: sum(map(len, classes[c].values())) for c in classes}, settings.min_images, plan):
            del classes[small]
        split_of = draw_split(classes, parse_split_classes(settings.split_classes), seed=settings.seed)
    elif in_folders:
        split_of = _split_of_folders(classes, plan, settings, alike)
        if missing := [split for split in SPLITS if split not in split_of.values()]:
            plan.warnings.append(f"the sources have no images of the split {' and '.join(missing)}")
    else:
        split_of = _published_split(classes, plan, settings, alike)
    classes = {c: parts for c, parts in classes.items() if c not in dropped}
    split_of = {c: split for c, split in split_of.items() if c not in dropped}
    if plan.dataset is None:
        check_names(split_of, plan)
    if unused := sorted(set(classes) - set(split_of)):
        plan.notes.append(f"skipped {n_classes(unused)} without a split: {some(unused)}")
    for split in SPLITS:
        chosen = [class_name for class_name in sorted(classes) if split_of.get(class_name) == split]
        if chosen:
            plan.splits[split] = {c: [image for part in classes[c].values() for image in part] for c in chosen}
    plan.name = _pack_name(listing, settings, plan.dataset)
    if plan.dataset and settings.dataset is None and settings.name is None:
        plan.notes.append(f"recognised {plan.dataset.title} by its classes")
    return plan


def _find_dataset(
    listing: Listing, settings: PrepareDataSettings, classes: Set[str], split_of: Mapping[str, Split]
) -> tuple[Published | None, list[Published]]:
    """Return the data set that was requested or recognised, or else those with the same classes."""
    if name := settings.dataset or (settings.name if settings.name in DATASETS else None):
        dataset = published(name, settings.cub_split)
        if settings.dataset is not None:
            _check_classes(dataset, listing, classes)
        return dataset, []
    kinds = {image.reader.kind for image in listing.images}
    path = listing.images[0].path if settings.name is None and kinds <= ARRAY_KINDS else None
    found = recognise(classes, split_of, drawn=settings.split_classes is not None, path=path)
    if not found and path is not None and kinds == {"pickle"}:  # Mini-ImageNet's may have other names, and no ids
        found = [published(MINI_IMAGENET)]
    return (published(found[0].name, settings.cub_split), []) if len(found) == 1 else (None, found)


def _check_classes(dataset: Published, listing: Listing, classes: Set[str]) -> None:
    """Raise DataError if the classes are those of something else; files of arrays may have no names, or other ones."""
    named = [name for name in sorted(classes) if not is_placeholder(name)]
    others = recognise(classes, {})
    in_arrays = {image.reader.kind for image in listing.images} <= ARRAY_KINDS
    if dataset.has_any(classes) or not named or (in_arrays and dataset.is_imagenet and not others):
        return
    raise DataError(
        f"these are not the classes of {dataset.row.title} but "
        + (" or ".join(other.row.title for other in others) or f"others: {some(named, 3)}"),
        hint=f"use {' or '.join(f'--dataset {other.name}' for other in others)}"
        if others
        else f"give the files of {dataset.row.title}, or omit --dataset",
    )


def _is_whole(dataset: Published, settings: PrepareDataSettings) -> bool:
    """Return whether the pack must be the whole data set: it was requested, or the pack has its name."""
    return settings.dataset is not None or settings.name in (None, dataset.name, dataset.file)


def _pack_name(listing: Listing, settings: PrepareDataSettings, dataset: Published | None) -> str:
    """Return the pack's name: the given one, that of the data set, or that of the only source."""
    if settings.name is not None:
        return settings.name
    if dataset is not None:
        return dataset.file
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", container_name(settings.sources[0].resolve().name)).strip("._-")
    if len(settings.sources) > 1 or split_named(name) or not is_name(name):
        raise DataError("the images are not a known data set, so the pack needs a name", hint="name it with --name")
    if listing.skipped_classes and settings.split_files is None:
        outside = f"{n_classes(listing.skipped_classes)}, such as {min(listing.skipped_classes)}, outside Mini-ImageNet"
        raise DataError(f"the sources contain {outside}", hint="pack all classes under another name with --name")
    return name


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
            f"several splits share {n_classes(shared)}, such as {some(shared, 3)}, "
            "but each class must belong to one split",
            hint=f"draw a new split of all classes with {drawing(classes)}",
        )
    if dataset is None:
        return split_of
    differs = any(split_of[c] != dataset.split_of[c] for c in split_of)
    if not shared and not (differs and _is_whole(dataset, settings)):
        return split_of
    if settings.dataset is None:
        reason = f"divide {n_classes(shared)} between splits" if shared else "differ from it"
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
        f"the split of the {n_classes(classes)} ({some(sorted(classes), 3)}) is unknown",
        hint=f"use folders train, val and test, read the split with --split-files, or draw one with {drawing(classes)}",
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
        notes.append(f"skipped {n_classes(listing.skipped_classes)} outside the split")
    return notes


def _kind(layout: str, listing: Listing) -> str:
    return f"{layout} in {' and '.join(sorted({image.reader.kind for image in listing.images}))}"
