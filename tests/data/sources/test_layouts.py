"""Which split and class a path means; test_prepare_data.py packs whole sources of every layout."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from nilr.config.commands import PrepareDataSettings
from nilr.data.sources.folders import FolderReader
from nilr.data.sources.layouts import Plan, plan_pack
from nilr.data.sources.members import Listing, Member
from nilr.data.sources.splits import RAVI_CLASSES, RAVI_SPLIT_OF
from nilr.errors import DataError


def plan(paths: Iterable[str], name: str = "mine", **settings: object) -> Plan:
    reader = FolderReader(Path(), "")
    images = [Member(path, 1, reader, Path(path)) for path in paths]
    return plan_pack(Listing(images), PrepareDataSettings(**settings), name, None)


def whole(split_of: dict[str, str] | None = None, per_class: int = 600) -> list[str]:
    """Return the paths of Mini-ImageNet, in split folders or just in class folders."""
    prefix = {c: f"s/{split_of[c]}" if split_of else "s" for c in RAVI_SPLIT_OF}
    return [f"{prefix[c]}/{c}/{i}.jpg" for c in RAVI_SPLIT_OF for i in range(per_class)]


def test_complete_mini_imagenet_is_accepted() -> None:
    made = plan(whole(), "mini-imagenet")
    assert {split: sum(n.values()) for split, n in made.counts().items()} == {
        "train": 38400,
        "val": 9600,
        "test": 12000,
    }
    assert {split: set(classes) for split, classes in made.splits.items()} == {
        k: set(v) for k, v in RAVI_CLASSES.items()
    }
    assert made.warnings == []
    assert made.kind == "class folders in folder"


def test_mini_imagenet_with_a_missing_image_is_refused() -> None:
    with pytest.raises(DataError, match="found train 64 classes, 38,399 images; val 16") as caught:
        plan(whole()[1:], "mini-imagenet")
    assert "--name" in (caught.value.hint or "")


def test_another_split_of_its_classes_is_replaced_only_under_its_name() -> None:
    split_of: dict[str, str] = dict(RAVI_SPLIT_OF)
    split_of["n01532829"], split_of["n01930112"] = "test", "train"
    made = plan(whole(split_of), "mini-imagenet")
    assert "n01532829" in made.splits["train"]
    assert made.warnings == [
        "the published split of Mini-ImageNet (Ravi and Larochelle) is used, because the folders of the sources "
        "differ from it"
    ]
    assert "n01532829" in plan(whole(split_of), "mine").splits["test"]


def test_other_classes_than_those_of_mini_imagenet_are_skipped() -> None:
    made = plan([*whole(), "s/n99999999/a.jpg"], "mini-imagenet")
    assert made.notes == ["skipped 1 class without a split: n99999999"]


def test_classes_without_ids_give_a_warning() -> None:
    names = {split: [f"{split}{i}" for i in range(len(classes))] for split, classes in RAVI_CLASSES.items()}
    paths = [f"s/{split}/{c}/{i}.jpg" for split, classes in names.items() for c in classes for i in range(600)]
    assert plan(paths, "mini-imagenet").warnings == [
        "the split of 100 classes without a Mini-ImageNet id cannot be checked"
    ]


@pytest.mark.parametrize(
    ("path", "split", "class_name"),
    [
        ("s/train/cat/1.jpg", "train", "cat"),
        ("s/Validation/cat/1.jpg", "val", "cat"),
        ("s/valid/cat/images/1.jpg", "val", "cat"),
        ("test/test/cat/1.jpg", "test", "cat"),
        ("s/test/group/cat/1.jpg", "test", "cat"),
    ],
)
def test_the_folders_of_a_path_determine_split_and_class(path: str, split: str, class_name: str) -> None:
    assert plan([path]).counts() == {split: {class_name: 1}}


def test_file_names_determine_the_class_if_folders_do_not() -> None:
    made = plan(["s/images/n01532829_1.JPEG", "s/images/n0185567200000001.jpg"])
    assert made.counts() == {"train": {"n01532829": 1}, "val": {"n01855672": 1}}
    assert made.kind == "flat images in folder"


def test_images_outside_the_split_folders_are_skipped_with_a_warning() -> None:
    made = plan(["s/train/cat/1.jpg", "s/test/dog/1.jpg", "s/more/cat/2.jpg"])
    assert made.counts() == {"train": {"cat": 1}, "test": {"dog": 1}}
    assert made.warnings == ["skipped 1 image outside the split folders"]


def test_a_requested_draw_takes_precedence_over_split_folders() -> None:
    made = plan(["s/train/cat/1.jpg", "s/test/cat/2.jpg", "s/train/dog/1.jpg"], split_classes="1/0/1")
    assert {split: len(classes) for split, classes in made.splits.items()} == {"train": 1, "test": 1}
    assert sum(sum(classes.values()) for classes in made.counts().values()) == 3
    assert made.warnings == ["the split folders of the sources are ignored: --split-classes draws another split"]
