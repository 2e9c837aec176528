"""The published splits, against the rules and counts that their authors state; and how a set is recognised."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from csv import DictReader
from importlib import resources
from typing import Any, get_args

import pytest

from nilr.config.base import SPLITS, CubSplit, DatasetName
from nilr.data.sources.datasets import DATASETS, Published, published, recognise
from nilr.errors import DataError, UsageError
from tests.data.sources.test_layouts import plan

MINI, TIERED, CUB, CUB_140 = (
    published("mini-imagenet"),
    published("tiered-imagenet"),
    published("cub"),
    published("cub", "140/30/30"),
)


def rows(file: str) -> list[dict[str, str]]:
    text = resources.files("nilr.data").joinpath("published", f"{file}.csv").read_text()
    return list(DictReader(text.splitlines()))


def groups(file: str) -> dict[str, set[str]]:
    found = defaultdict(set)
    for row in rows(file):
        found[row["split"]].add(row["group"])
    return dict(found)


@pytest.mark.parametrize(
    ("name", "split", "file"),
    [(name, split, file) for name, row in DATASETS.items() for split, file in row.splits.items()],
)
def test_every_split_has_the_published_numbers_of_classes(name: str, split: str, file: str) -> None:
    data = published(name, split)
    assert data.file == file
    assert "/".join(str(len(data.classes[part])) for part in SPLITS) == split
    listed = [row["class"] for row in rows(file)]
    assert len({re.sub(r"\W|_", "", name).lower() for name in listed}) == len(listed)


def test_the_table_has_the_names_of_the_settings() -> None:
    assert tuple(DATASETS) == get_args(DatasetName)
    assert tuple(DATASETS["cub"].splits) == get_args(CubSplit)


def test_groups_of_classes_lie_in_one_split() -> None:
    """tieredImageNet has 20, 6 and 8 super-categories, FC100 12, 4 and 4 super-classes of five classes each."""
    for file, numbers in {"tiered-imagenet": (20, 6, 8), "fc100": (12, 4, 4)}.items():
        found = groups(file)
        assert tuple(len(found[split]) for split in SPLITS) == numbers
        assert len(set.union(*found.values())) == sum(numbers)
    assert set(Counter(row["group"] for row in rows("fc100")).values()) == {5}
    group_of = {row["class"]: row["group"] for row in rows("fc100")}
    assert group_of == {row["class"]: row["group"] for row in rows("cifar-fs")}


def test_the_default_split_of_cub_follows_the_rule_of_its_authors() -> None:
    """Every second class is for training; the others are in turn for validation and for testing."""
    rule = {0: "train", 1: "val", 2: "train", 3: "test"}
    assert all(split == rule[(int(name[:3]) - 1) % 4] for name, split in CUB.split_of.items())
    assert [int(name[:3]) for name in CUB.split_of if CUB.split_of[name] == "val"][:3] == [2, 6, 10]


def test_the_splits_of_cub_share_few_classes() -> None:
    assert CUB.split_of.keys() == CUB_140.split_of.keys()
    shared = [len(CUB.classes[split] & CUB_140.classes[split]) for split in SPLITS]
    assert shared == [75, 5, 7]


def test_mini_imagenet_and_tiered_imagenet_contradict_each_other() -> None:
    assert len(MINI.classes["train"] & TIERED.classes["test"]) == 13
    assert len(MINI.classes["test"] & TIERED.classes["train"]) == 5


def test_the_split_of_tiny_imagenet_is_that_of_tiered_imagenet_without_the_classes_of_mini_imagenet() -> None:
    tiny = published("tiny-imagenet")
    assert len(tiny.split_of) == 200
    for name, split in tiny.split_of.items():
        assert split == (None if name in MINI.split_of else TIERED.split_of.get(name))


def test_the_test_characters_of_omniglot_are_those_of_some_alphabets() -> None:
    """The test set begins within the characters of one alphabet, Gurmukhi."""
    omniglot = published("omniglot")
    by_split = {split: {name.partition("/")[0] for name in omniglot.classes[split]} for split in SPLITS}
    assert len(set.union(*by_split.values())) == 50
    assert by_split["test"] & (by_split["train"] | by_split["val"]) == {"Gurmukhi"}


def whole(data: Published, per_class: int, at: str = "s") -> list[str]:
    return [f"{at}/{name}/{i}.png" for name in data.split_of for i in range(per_class)]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["mini-imagenet", "cifar-fs", "fc100", "omniglot", "tiny-imagenet"])
def test_a_data_set_by_name_has_its_split_size_and_channels(name: str) -> None:
    data = published(name)
    made = plan(whole(data, DATASETS[name].per_class[0]), None, dataset=name)
    assert (made.name, made.image_size, made.channels) == (name, data.row.image_size, data.row.channels)
    assert {split: set(classes) for split, classes in made.splits.items()} == data.classes
    assert made.warnings == []
    (numbers,) = data.row.splits
    with pytest.raises(DataError, match=f"this is not {data.row.title}, which has {numbers} classes with"):
        plan([path for path in whole(data, data.row.per_class[0]) if not path.endswith("/0.png")], None, dataset=name)


def test_a_data_set_of_classes_of_different_sizes_has_its_number_of_images() -> None:
    """CUB-200-2011 has 11,788 images in 200 classes."""
    images = [*whole(CUB, 58), *(f"s/001.Black_footed_Albatross/more{i}.png" for i in range(11_788 - 200 * 58))]
    made = plan(images, None, dataset="cub", cub_split="140/30/30")
    assert made.name == "cub-140"
    assert {split: set(classes) for split, classes in made.splits.items()} == CUB_140.classes
    assert plan(images, None).name == "cub"
    with pytest.raises(DataError, match="100/50/50 classes with 11,788 images: found train 100 classes, 5,987 images"):
        plan(images[:-1], None)
    assert plan(images[:-1], None, limit_per_class=20).name == "cub"


@pytest.mark.parametrize("settings", [{}, {"dataset": "omniglot"}, {"split_classes": "1/1/1"}])
def test_a_split_of_cub_is_refused_for_other_images(settings: dict[str, Any]) -> None:
    images = (
        whole(published("omniglot"), 2)
        if "split_classes" not in settings
        else [f"s/{c}/{i}.png" for c in "abc" for i in (1, 2)]
    )
    with pytest.raises(UsageError, match="--cub-split is for CUB-200-2011; these are "):
        plan(images, None, cub_split="100/50/50", limit_per_class=2, **settings)


def test_a_data_set_is_recognised_by_its_classes() -> None:
    for name in ("tiered-imagenet", "cub", "omniglot", "tiny-imagenet"):
        assert recognise(published(name).split_of, {}) == [published(name)]
    made = plan(whole(published("omniglot"), 20), None)
    assert made.notes == ["recognised Omniglot (Vinyals et al.) by its classes"]
    assert recognise({*CUB.split_of, "more"}, {}) == recognise([*CUB.split_of][1:], {}) == []


def test_names_that_are_written_a_little_differently_are_recognised() -> None:
    names = [re.sub(r"^\d+\.", "", name).replace("_", " ").lower() for name in CUB.split_of]
    assert recognise(names, {}) == [CUB]
    images = [f"s/{name}/{i}.png" for name in names for i in range(3)]
    made = plan(images, None, limit_per_class=3)
    assert set(made.splits["val"]) == CUB.classes["val"]


def test_of_two_sets_with_the_same_classes_the_folders_or_the_user_select_one() -> None:
    fc100, cifar_fs = published("fc100"), published("cifar-fs")
    with pytest.raises(DataError, match="those of CIFAR-FS and FC100, which split them differently") as caught:
        plan(whole(fc100, 600), None)
    assert caught.value.hint == "choose with --dataset cifar-fs or --dataset fc100"
    for data in (fc100, cifar_fs):
        images = [f"s/{split}/{name}/{i}.png" for name, split in data.split_of.items() for i in range(600)]
        assert plan(images, None).name == data.name


def test_the_published_split_replaces_that_of_the_sources() -> None:
    images = [*whole(published("cifar-fs"), 500, "s/train"), *whole(published("cifar-fs"), 100, "s/test")]
    made = plan(images, None, dataset="cifar-fs")
    assert made.warnings == []
    assert {split: set(classes) for split, classes in made.splits.items()} == published("cifar-fs").classes


def test_quarter_turns_are_further_classes() -> None:
    made = plan(whole(published("omniglot"), 20), None, rotations=True)
    assert {split: len(classes) for split, classes in made.splits.items()} == {"train": 4112, "val": 688, "test": 1692}
    turned = made.splits["train"]["Greek/character01@270"]
    assert {image.turns for image in turned} == {3}
    assert [image.path for image in turned] == [image.path for image in made.splits["train"]["Greek/character01"]]


def test_a_class_that_has_the_name_of_a_turned_one_is_an_error() -> None:
    with pytest.raises(DataError, match="`a` turned by --rotations would have the name of the class `a@90`"):
        plan([f"s/train/{name}/{i}.png" for name in ("a", "a@90") for i in range(2)], rotations=True)


def test_a_part_of_a_set_has_no_class_too_many() -> None:
    images = [f"s/train/train-class{c:03d}/{i}.png" for c in range(100) for i in range(2)]
    with pytest.raises(DataError, match="this is not FC100, which has 60/20/20 classes"):
        plan(images, None, dataset="fc100", limit_per_class=2)


def test_equal_numbers_in_several_splits_are_a_warning() -> None:
    images = [f"s/{split}/{split}-class00{c}/{i}.png" for split in ("train", "test") for c in (0, 1) for i in range(20)]
    warnings = plan(images).warnings
    (found,) = [text for text in warnings if "without a name" in text]
    assert found.startswith(
        "2 labels without a name, such as 0, are in the splits train and test, as different classes"
    )
    others = plan([path.replace("test-class00", "test-class01") for path in images]).warnings
    assert others == [text for text in warnings if text != found]
