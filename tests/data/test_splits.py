from __future__ import annotations

import csv
from pathlib import Path

import pytest

from nilr.data.splits import RAVI_CLASSES, RAVI_SPLIT_OF, draw_split, parse_split_classes
from nilr.errors import DataError, UsageError


def test_the_built_in_split_has_64_16_and_20_disjoint_classes() -> None:
    assert {split: len(names) for split, names in RAVI_CLASSES.items()} == {"train": 64, "val": 16, "test": 20}
    assert len(RAVI_SPLIT_OF) == 100
    # Facts of the published train.csv, val.csv and test.csv: their first and last labels.
    assert {RAVI_SPLIT_OF[name] for name in ("n01532829", "n13133613")} == {"train"}
    assert {RAVI_SPLIT_OF[name] for name in ("n01855672", "n09256479")} == {"val"}
    assert {RAVI_SPLIT_OF[name] for name in ("n01930112", "n07613480")} == {"test"}


@pytest.mark.real_data
def test_the_built_in_split_is_that_of_the_published_files(mini_imagenet: Path) -> None:
    for split, names in RAVI_CLASSES.items():
        with (mini_imagenet / "splits" / f"{split}.csv").open(newline="") as file:
            assert {row["label"] for row in csv.DictReader(file)} == names


def test_a_draw_depends_on_the_seed_and_the_names_alone() -> None:
    numbers = parse_split_classes("64/16/20")
    names = [f"class-{i}" for i in range(110)]
    drawn = draw_split(names, numbers, seed=7)
    assert drawn == draw_split(names[::-1], numbers, seed=7)
    assert drawn != draw_split(names, numbers, seed=8)
    assert [list(drawn.values()).count(split) for split in ("train", "val", "test")] == [64, 16, 20]
    assert drawn.keys() < set(names)


def test_a_draw_stays_what_it_was() -> None:
    # Recorded when the draw was defined: a change would change every pack made with --split-classes.
    drawn = draw_split("abcdef", parse_split_classes("3/1/2"), seed=0)
    assert drawn == {"f": "train", "c": "train", "b": "train", "e": "val", "d": "test", "a": "test"}


def test_too_many_classes_are_refused_with_both_numbers() -> None:
    with pytest.raises(DataError, match="--split-classes 2/1/1 asks for 4 classes, and the source has 3"):
        draw_split("abc", parse_split_classes("2/1/1"), seed=0)


@pytest.mark.parametrize("text", ["", "64", "64/16", "64/16/20/1", "a/b/c", "-1/1/1", "0/1/1", "1.5/1/1"])
def test_numbers_that_make_no_split_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="does not say how many classes"):
        parse_split_classes(text)
