"""A plan of a pack, and what the user should know about it: names, sizes, images without a class or a split."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Final

from nilr.config.base import SPLITS, Split
from nilr.config.packs import PrepareDataSettings
from nilr.data.sources.datasets import Published
from nilr.data.sources.members import Listing, is_placeholder
from nilr.data.sources.splits import Splits
from nilr.data.sources.tree import Tree
from nilr.errors import DataError
from nilr.words import counted, some

# An episode of the usual size: 1 support and 15 query images per class.
_EPISODE_IMAGES: Final = 16
_MOST_EXCLUDED: Final = 20  # classes that are named
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
    excluded: list[str] = field(default_factory=list)  # classes that are left out, because another pack has them
    shared_classes: dict[str, list[str]] = field(default_factory=dict)  # sources of each class that is in several
    broken: dict[str, str] = field(default_factory=dict)  # why files of the sources are unreadable

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of images of each class, by split."""
        return {split: {name: len(images) for name, images in c.items()} for split, c in self.splits.items()}


def check_names(split_of: Mapping[str, Split], plan: Plan) -> None:
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
            plan.warnings.append(f"{n_classes(names)} {what}: {listed}")


def check_tree(tree: Tree, listing: Listing, settings: PrepareDataSettings, plan: Plan) -> None:
    """Add warnings of what is left out; raise DataError if images have no class, or only some have a split."""
    plan.notes += [f"read the folder `{path}` as {split}" for path, split in tree.read_as.items()]
    if tree.strays:
        strays = some([f"`{image.path}`" for image in tree.strays], 3)
        plan.warnings.append(f"skipped {counted(len(tree.strays), 'image')} beside class folders: {strays}")
    draw = drawing({folder.key for folder in tree.classes})
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


def drawing(classes: Sized) -> str:
    """Return the flag that draws a split of all classes in the proportions of Mini-ImageNet, 5 at least if possible."""
    if (n := len(classes)) < len(SPLITS):
        return "--split-classes (which needs at least 3 classes, one for each split)"
    val, test = (max(share, min(5, n // 3)) for share in (n * 16 // 100, n // 5))
    return f"--split-classes {n - val - test}/{val}/{test}"


def name_shared(plan: Plan) -> None:
    """Add a warning of classes whose images are in several sources."""
    for classes in plan.splits.values():
        for name, images in classes.items():
            if len(sources := {image.source for image in images}) > 1:
                plan.shared_classes[name] = sorted(sources)
    if plan.shared_classes:
        listed = some([f"`{name}` ({', '.join(sources)})" for name, sources in plan.shared_classes.items()])
        plan.warnings.append(
            f"{n_classes(plan.shared_classes)} {_have(plan.shared_classes)} images in several sources: {listed}"
        )


def drop_excluded(class_names: Iterable[str], excluded: Mapping[str, str], plan: Plan) -> set[str]:
    """Return the classes that other packs have too, and add a note that they are left out.

    Raises:
        DataError: there is no other class.
    """
    given = set(class_names)
    for pack in dict.fromkeys(excluded.values()):
        dropped = sorted(name for name in given if excluded.get(name) == pack)
        plan.excluded += dropped
        names = f": {some(dropped, _MOST_EXCLUDED)}" if dropped else ""
        plan.notes.append(f"left out {n_classes(dropped)} of `{pack}` (--exclude-classes-of){names}")
    if given and given <= excluded.keys():
        packs = " or ".join(f"`{pack}`" for pack in dict.fromkeys(excluded.values()))
        raise DataError(
            f"all {n_classes(given)} of the sources are classes of {packs}", hint="omit --exclude-classes-of"
        )
    return given & excluded.keys()


def check_numbers(plan: Plan) -> None:
    """Warn of classes in several splits whose labels are the same numbers: they may be the same classes."""
    splits_of: defaultdict[str, list[Split]] = defaultdict(list)
    for split, classes in plan.splits.items():
        for name in classes:
            if is_placeholder(name) and name.startswith(f"{split}-"):
                splits_of[name.removeprefix(f"{split}-")].append(split)
    if plan.dataset is None and (same := [name for name, splits in splits_of.items() if len(splits) > 1]):
        plan.warnings.append(
            f"{counted(len(same), 'label')} without a name, such as {int(same[0].removeprefix('class'))}, are in the "
            f"splits {' and '.join(splits_of[same[0]])}, as different classes: if they are the same ones, as in MNIST, "
            "join the arrays of these splits into one file, and draw a split of the classes with --split-classes"
        )


def check_sizes(plan: Plan, least: int | None) -> None:
    """Leave out classes with fewer than `least` images, and warn of the small ones that remain."""
    sizes = {name: len(images) for classes in plan.splits.values() for name, images in classes.items()}
    for name in drop_small(sizes, least, plan):
        del sizes[name]
    for split, classes in plan.splits.items():
        plan.splits[split] = {name: images for name, images in classes.items() if name in sizes}
        if not plan.splits[split]:
            raise DataError(f"no class of the split `{split}` has {least} images", hint="lower --min-images")
    if few := sorted(name for name, size in sizes.items() if size < _EPISODE_IMAGES):
        way_out = f"; --min-images {_EPISODE_IMAGES} leaves out such classes" if len(few) < len(sizes) else ""
        plan.warnings.append(
            f"{n_classes(few)} {_have(few)} fewer than {_EPISODE_IMAGES} images, too few for an episode of 1 support "
            f"and 15 query images per class: {_with_sizes(few, sizes)}{way_out}"
        )
    usual = statistics.median_low(sizes.values()) if sizes else 0
    if small := sorted(name for name, size in sizes.items() if _EPISODE_IMAGES <= size < usual / _FAR_SMALLER):
        are = "is" if len(small) == 1 else "are"
        plan.warnings.append(
            f"{n_classes(small)} {are} far smaller than the others, whose median is {usual:,} images: "
            f"{_with_sizes(small, sizes)}"
        )


def drop_small(sizes: Mapping[str, int], least: int | None, plan: Plan) -> list[str]:
    """Return the classes with fewer than `least` images, and add a warning that they are left out."""
    small = sorted(name for name, size in sizes.items() if size < (least or 0))
    if small:
        plan.warnings.append(
            f"skipped {n_classes(small)} with fewer than {least} images (--min-images): {_with_sizes(small, sizes)}"
        )
    return small


def _have(found: Sized) -> str:
    return "has" if len(found) == 1 else "have"


def _with_sizes(names: Sequence[str], sizes: Mapping[str, int]) -> str:
    return some([f"`{name}` ({sizes[name]:,})" for name in names])


def n_classes(found: Sized) -> str:
    """Return how many classes these are, in words."""
    return counted(len(found), "class")
