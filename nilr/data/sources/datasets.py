"""The standard data sets of few-shot learning: one table, and their published splits in `nilr/data/published`.

A file of a split has a row per class: its split (empty for a class of the set that no split uses), its name as in the
published files and, where the split was made of groups of classes, its group.
"""

import csv
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from typing import Final, NamedTuple

from nilr.config.base import MINI_IMAGENET, SPLITS, Split
from nilr.errors import DataError
from nilr.words import counted

IMAGENET_TERMS: Final = "ImageNet's terms: non-commercial research and education; do not redistribute"


class Dataset(NamedTuple):
    """A standard data set."""

    title: str
    splits: Mapping[str, str]  # file of each published split, by its numbers of classes; the first is the default
    image_size: int  # the usual one, in pixels
    channels: int
    per_class: tuple[int, ...]  # the possible numbers of images of a class; empty if they differ
    n_images: int  # of all classes together, if they differ
    origin: str  # publication of the split
    terms: str  # on the use of the images


DATASETS: Final[Mapping[str, Dataset]] = {
    "mini-imagenet": Dataset(
        "Mini-ImageNet", {"64/16/20": "mini-imagenet"}, 84, 3, (600,), 0, "Ravi and Larochelle", IMAGENET_TERMS
    ),
    "tiered-imagenet": Dataset(
        "tieredImageNet", {"351/97/160": "tiered-imagenet"}, 84, 3, (), 779_165, "Ren et al.", IMAGENET_TERMS
    ),
    "cifar-fs": Dataset(
        "CIFAR-FS", {"64/16/20": "cifar-fs"}, 32, 3, (600,), 0, "Bertinetto et al.", "none stated by its authors"
    ),
    "fc100": Dataset(
        "FC100", {"60/20/20": "fc100"}, 32, 3, (600,), 0, "Oreshkin et al.", "none stated by its authors"
    ),
    "cub": Dataset(
        "CUB-200-2011", {"100/50/50": "cub", "140/30/30": "cub-140"}, 84, 3, (), 11_788,
        "Chen et al. for 100/50/50, Triantafillou et al. for 140/30/30",
        "its authors' terms: non-commercial research and education",
    ),
    "omniglot": Dataset("Omniglot", {"1028/172/423": "omniglot"}, 28, 1, (20,), 0, "Vinyals et al.", "MIT"),
    "tiny-imagenet": Dataset(
        "Tiny-ImageNet", {"52/15/39": "tiny-imagenet"}, 64, 3, (500, 550), 0,
        "tieredImageNet, without Mini-ImageNet's classes", IMAGENET_TERMS,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Published:
    """A data set with one of its published splits."""

    name: str  # in `DATASETS`
    file: str  # of the split
    split_of: Mapping[str, Split | None]  # the split of every class of the set, None for classes of no split

    @property
    def row(self) -> Dataset:
        """The data set."""
        return DATASETS[self.name]

    @property
    def title(self) -> str:
        """The data set's title, with the publication of the split."""
        return f"{self.row.title} ({self.row.origin})"

    @cached_property
    def classes(self) -> Mapping[Split, frozenset[str]]:
        """The classes of each split."""
        return {split: frozenset(c for c, s in self.split_of.items() if s == split) for split in SPLITS}

    def name_of(self, class_name: str) -> str:
        """Return the published name of a class that is written a little differently; other names unchanged."""
        return self._names.get(_plain(class_name), class_name)

    def has_all(self, class_names: Iterable[str]) -> bool:
        """Return whether all these are classes of the set."""
        return all(_plain(name) in self._names for name in class_names)

    def has_any(self, class_names: Iterable[str]) -> bool:
        """Return whether one of these is a class of the set."""
        return any(_plain(name) in self._names for name in class_names)

    @property
    def is_imagenet(self) -> bool:
        """Whether its classes have WordNet ids as names."""
        return self.row.terms == IMAGENET_TERMS

    def is_within(self, class_names: Iterable[str]) -> bool:
        """Return whether these contain all classes of the set."""
        return self._names.keys() <= set(map(_plain, class_names))

    def check(self, splits: Mapping[Split, Mapping[str, Sequence[object]]], *, part: bool = False) -> list[str]:
        """Return warnings; raise DataError if the classes or the numbers of images are not those of the set.

        A `part` of a set may have fewer of both.
        """
        sizes = {split: [len(images) for images in splits.get(split, {}).values()] for split in SPLITS}
        together = [size for split in SPLITS for size in sizes[split]]
        row = self.row
        fits = all(size in row.per_class for size in together) if row.per_class else sum(together) == row.n_images
        many = any(len(sizes[split]) > len(self.classes[split]) for split in SPLITS)
        few = any(len(sizes[split]) < len(self.classes[split]) for split in SPLITS)
        if many or (not part and (few or not fits)):
            found = "; ".join(
                f"{s} {counted(len(sizes[s]), 'class')}, {counted(sum(sizes[s]), 'image')}" for s in SPLITS
            )
            imagenet = ", or ImageNet's with --split-files" if self.name == "mini-imagenet" else ""
            raise DataError(
                f"this is not {row.title}, which has {self._counts()}: found {found}",
                hint=f"give all of its files{imagenet}; use --name for another data set"
                + ("" if part else ", or --limit-per-class for a part"),
            )
        if part:
            return []
        unlike = [c for split in SPLITS for c in splits[split] if c not in self.classes[split]]
        if any(self.split_of.get(c) for c in unlike):
            raise DataError(
                f"this is not the published split of {row.title}: {', '.join(unlike[:3])} belong to other splits",
                hint="use --name for another split",
            )
        if unlike:
            return [f"the split of {counted(len(unlike), 'class')} without a {row.title} id cannot be checked"]
        return []

    def _counts(self) -> str:
        classes = [len(self.classes[split]) for split in SPLITS]
        if len(self.row.per_class) == 1:
            images = "/".join(f"{n * self.row.per_class[0]:,}" for n in classes) + " images"
        elif self.row.per_class:
            images = f"{' or '.join(map(str, self.row.per_class))} images each"
        else:
            images = f"{self.row.n_images:,} images"
        return f"{'/'.join(map(str, classes))} classes with {images}"

    @cached_property
    def _names(self) -> Mapping[str, str]:
        return {_plain(name): name for name in self.split_of}


@cache
def published(name: str, split: str | None = None) -> Published:
    """Return a data set of the table, with one of its splits by numbers of classes, or else with its default split."""
    splits = DATASETS[name].splits
    file = splits.get(split or "") or next(iter(splits.values()))
    text = resources.files("nilr.data").joinpath("published", f"{file}.csv").read_text(encoding="utf-8")
    known: dict[str, Split] = {split: split for split in SPLITS}
    return Published(name, file, {row["class"]: known.get(row["split"]) for row in csv.DictReader(text.splitlines())})


def recognise(
    class_names: Collection[str], split_of: Mapping[str, Split], *, drawn: bool = False, path: str | None = None
) -> list[Published]:
    """Return the data set whose classes these are, or several if they have the same classes.

    Mini-ImageNet is also recognised by some of its classes, and among other classes of ImageNet.

    Args:
        class_names: all classes of the sources.
        split_of: their splits, as far as the sources have any; it selects between sets of the same classes.
        drawn: whether another split is to be drawn from all classes.
        path: the path of an image of sources that may have no class names, such as pickles, but names of files that
            name the set; None for others.
    """
    everything = [published(name) for name in DATASETS]
    exact = [data for data in everything if data.has_all(class_names) and data.is_within(class_names)]
    if split_of:
        agreeing = [d for d in exact if all(d.split_of[d.name_of(c)] == split for c, split in split_of.items())]
        exact = agreeing[:1] or exact
    mini = published(MINI_IMAGENET)
    if exact:
        return exact
    if mini.has_all(class_names) or (mini.is_within(class_names) and not drawn):
        return [mini]
    return [data for data in everything if path and _plain(data.name) in _plain(path)][:1]


def _plain(name: str) -> str:
    """Return a class name without what its copies write differently: case, punctuation, and a number before it."""
    return re.sub(r"^\d+\.|[\W_]+", "", name).casefold()
