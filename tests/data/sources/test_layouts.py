"""Which split and class a path means; test_prepare_data.py packs whole sources of every layout."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from nilr.config.packs import PrepareDataSettings
from nilr.data.sources.datasets import published
from nilr.data.sources.folders import FolderReader
from nilr.data.sources.layouts import plan_pack
from nilr.data.sources.members import Listing, Member
from nilr.data.sources.plans import Plan
from nilr.data.sources.splits import read_split_files
from nilr.errors import DataError

MINI = published("mini-imagenet")


def plan(paths: Iterable[str], name: str | None = "mine", **settings: object) -> Plan:
    reader = FolderReader(Path(), "")
    images = [Member(path, 1, reader, Path(path)) for path in paths]
    return plan_pack(Listing(images), PrepareDataSettings(name=name, sources=(Path("s"),), **settings), None)


def whole(split_of: dict[str, str] | None = None, per_class: int = 600) -> list[str]:
    """Return the paths of Mini-ImageNet, in split folders or just in class folders."""
    prefix = {c: f"s/{split_of[c]}" if split_of else "s" for c in MINI.split_of}
    return [f"{prefix[c]}/{c}/{i}.jpg" for c in MINI.split_of for i in range(per_class)]


def test_complete_mini_imagenet_is_accepted() -> None:
    made = plan(whole(), "mini-imagenet")
    assert {split: sum(n.values()) for split, n in made.counts().items()} == {
        "train": 38400,
        "val": 9600,
        "test": 12000,
    }
    assert {split: set(classes) for split, classes in made.splits.items()} == {
        k: set(v) for k, v in MINI.classes.items()
    }
    assert made.warnings == []
    assert made.kind == "class folders in folder"


def test_mini_imagenet_with_a_missing_image_is_refused() -> None:
    with pytest.raises(DataError, match="found train 64 classes, 38,399 images; val 16") as caught:
        plan(whole()[1:], "mini-imagenet")
    assert "--name" in (caught.value.hint or "")


def test_another_split_of_its_classes_is_replaced_only_under_its_name() -> None:
    split_of: dict[str, str] = dict(MINI.split_of)
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
    names = {split: [f"{split}{i}" for i in range(len(classes))] for split, classes in MINI.classes.items()}
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


def test_a_requested_draw_takes_precedence_over_split_folders() -> None:
    made = plan(
        ["s/train/cat/1.jpg", "s/test/cat/2.jpg", "s/train/dog/1.jpg", "s/more/cat/3.jpg"], split_classes="1/0/1"
    )
    assert {split: len(classes) for split, classes in made.splits.items()} == {"train": 1, "test": 1}
    assert sum(sum(classes.values()) for classes in made.counts().values()) == 4
    assert made.warnings[0] == "the split folders of the sources are ignored: --split-classes draws another split"


def folders(names: str, n: int = 20) -> list[str]:
    """Return the paths of n images in each folder."""
    return [f"{name}/{i}.png" for name in names.split(", ") for i in range(n)]


@pytest.mark.parametrize(
    ("names", "train", "val", "test"),
    [
        # A class may have the name of a split or of a collection of images.
        ("train/apple, train/train, val/bear, test/bee", "apple, train", "bear", "bee"),
        ("s/train/apple, s/val/test, s/test/train", "apple", "test", "train"),
        ("s/train/apple, s/train/images, s/val/val, s/test/bee", "apple, images", "val", "bee"),
        ("s/train/train/images, s/train/apple/images, s/val/bear/images", "apple, train", "bear", ""),
        ("s/train/x/apple, s/train/x/train, s/val/x/bear", "apple, train", "bear", ""),
        # Other names are splits only beside splits.
        ("s/base/a, s/val/b, s/novel/c", "a", "b", "c"),
        ("s/base/a, s/novel/c", "a", "", "c"),
        ("s/metatrain/a, s/metaval/b, s/meta-test/c", "a", "b", "c"),
        ("s/train/a, s/dev/b, s/test/c", "a", "b", "c"),
        ("s/Train/a, s/VALID/b, s/testing/c", "a", "b", "c"),
        ("train (1)/a, val/b, test/c", "a", "b", "c"),
        ("train(2)/train/a, val - Copy/b, test/c", "a", "b", "c"),
        ("birds_train/a, birds_val/b, birds-test/c", "a", "b", "c"),
        ("train_images/a, val_images/b, test_images/c", "a", "b", "c"),
        ("train2017/a, val2017/b", "a", "b", ""),
        ("birds/train/a, birds/val/b, test/c", "a", "b", "c"),
        ("train/train/a, val/val/b, test/test/c", "a", "b", "c"),
        # A class with a folder for its split.
        ("s/crow/train, s/owl/test", "crow", "", "owl"),
    ],
)
def test_the_whole_tree_determines_splits_and_classes(names: str, train: str, val: str, test: str) -> None:
    made = plan(folders(names))
    found = {split: ", ".join(classes) for split, classes in made.splits.items()}
    assert found == {split: names for split, names in (("train", train), ("val", val), ("test", test)) if names}
    assert made.counts() == {split: dict.fromkeys(names.split(", "), 20) for split, names in found.items()}


@pytest.mark.parametrize(
    ("names", "named"),
    [
        ("s/train/a, s/val/b, s/more/c, s/more/d", "`s/train`, `s/val` do, `s/more` do not"),
        ("train/a, val/b, birds/c", "`train`, `val` do, `birds` do not"),
        ("birds/train/a, birds/val/b, more/c", "`birds` do, `more` do not"),
        ("s/train/a, s/val/b, s/trainval/c", "`s/train`, `s/val` do, `s/trainval` do not"),
        ("s/crow/train, s/owl/test, s/wren", "`s/crow`, `s/owl` do, `s/wren` do not"),
    ],
)
def test_folders_without_a_split_beside_splits_are_an_error_that_names_them(names: str, named: str) -> None:
    with pytest.raises(DataError) as caught:
        plan(folders(names))
    assert named in caught.value.message
    draw = re.search(r"--split-classes (\S+)", caught.value.hint or "")
    assert draw
    assert plan(folders(names), split_classes=draw[1]).splits


@pytest.mark.parametrize(
    ("names", "named"),
    [
        ("photos", "`photos`"),
        ("photos/photos", "`photos`"),
        ("s/photos/images", "`s/photos`"),
        ("s/train, s/val, s/test", "`s/train`, `s/val`, `s/test`"),
        ("train, test", "`train`, `test`"),
        ("train/train, val/val, test/test", "`train`, `val`, `test`"),
        ("s/train/train, s/val/val", "`s/train/train`, `s/val/val`"),
        (
            "tiny/train/n01532829/images, tiny/train/apple/images, tiny/val/images, tiny/test/images",
            "`tiny/val`, `tiny/test`",
        ),
    ],
)
def test_images_without_class_folders_are_named(names: str, named: str) -> None:
    paths = folders(names, n=3)
    with pytest.raises(DataError, match=f"(?m)images without class folders: {named}$") as caught:
        plan(paths)
    assert "one folder per class" in (caught.value.hint or "")


def test_the_list_of_the_classes_of_such_images_is_named_and_a_draw_leaves_them_out() -> None:
    paths = folders("tiny/train/a/images, tiny/train/b/images, tiny/train/c/images, tiny/val/images")
    reader = FolderReader(Path(), "")
    listing = Listing([Member(path, 1, reader, Path(path)) for path in paths])
    listing.others["tiny/val/val_annotations.txt"] = "a text file"
    with pytest.raises(DataError) as caught:
        plan_pack(listing, PrepareDataSettings(name="mine"), None)
    assert "`tiny/val/val_annotations.txt`" in (caught.value.hint or "")
    assert "--split-classes 1/1/1" in (caught.value.hint or "")
    made = plan(paths, split_classes="1/1/1")
    assert made.counts() == {split: {c: 20} for split, classes in made.splits.items() for c in classes}
    assert "skipped 20 images without class folders: `tiny/val`" in made.warnings


def test_classes_divided_into_splits_share_them() -> None:
    paths = folders("s/crow/train, s/crow/test, s/owl/train, s/owl/test, s/wren/train, s/wren/test")
    with pytest.raises(DataError, match="several splits share 3 classes, such as crow, owl, wren"):
        plan(paths)
    made = plan(paths, split_classes="1/1/1")
    assert sorted(n for classes in made.counts().values() for n in classes.values()) == [40, 40, 40]


def test_images_beside_class_folders_are_named_and_left_out() -> None:
    paths = [*folders("s/a, s/b, s/c, s/d, s/e"), "s/cover.jpg"]
    made = plan(paths, split_classes="3/1/1")
    assert sorted(c for classes in made.splits.values() for c in classes) == ["a", "b", "c", "d", "e"]
    assert made.warnings == ["skipped 1 image beside class folders: `s/cover.jpg`"]
    with pytest.raises(DataError, match="needs 6 classes, but the source has 5; skipped 1 image beside"):
        plan(paths, split_classes="3/1/2")
    made = plan([*folders("s/train/a, s/val/b, s/test/c"), "s/x.png", "s/train/y.png"])
    assert made.counts() == {"train": {"a": 20}, "val": {"b": 20}, "test": {"c": 20}}
    assert made.warnings == ["skipped 2 images beside class folders: `s/x.png`, `s/train/y.png`"]


def test_a_subfolder_of_a_class_belongs_to_it_if_most_images_lie_in_the_class() -> None:
    made = plan([*folders("s/a, s/b"), *folders("s/a/more", n=5)], split_classes="1/1/0")
    assert sorted(n for classes in made.counts().values() for n in classes.values()) == [20, 25]


@pytest.mark.parametrize(
    "paths",
    [
        folders("s/train/a/part1, s/train/a/part2, s/train/b, s/val/c, s/test/d"),
        folders("s/train/a, s/train/a/part1, s/train/b, s/val/c", n=3),
        [*folders("s/train/a", n=4), *folders("s/train/a/part1", n=3), *folders("s/val/c")],
        [*folders("s/train/a", n=3), *folders("s/train/a/part1", n=4), *folders("s/train/b, s/val/c")],
        ["s/train/a/stray.png", *folders("s/train/a/part1, s/train/b, s/val/c")],
    ],
)
def test_a_folder_that_may_be_a_class_or_contain_classes_is_an_error(paths: list[str]) -> None:
    with pytest.raises(DataError, match=r"unclear whether `s/train/a` is a class .*: `s/train/a/part1`"):
        plan(paths)


def test_class_names_that_may_mean_one_class_give_a_warning() -> None:
    made = plan(folders("s/train/owl, s/val/Owl, s/test/c"))
    assert made.warnings == ["2 classes have names that differ only in case: `Owl` (val), `owl` (train)"]
    made = plan(folders("s/train/x/a, s/val/y/a, s/test/c"))
    assert made.warnings == ["2 classes of equal names are in different splits: `x/a` (train), `y/a` (val)"]
    made = plan(folders("s/train/x/a, s/train/y/a, s/val/z/b, s/test/c"))
    assert made.warnings == []
    assert made.notes == ["classes of equal names in different folders are different classes: x/a, y/a"]


def test_a_space_at_the_end_of_a_folder_name_is_named() -> None:
    with pytest.raises(DataError, match=r"`s/train ` \(with a space at the start or end of a name\) do not"):
        plan(folders("s/train /a, s/val/b, s/test/c"))


def test_equal_names_in_different_folders_are_different_classes() -> None:
    made = plan(folders("s/train/Latin/c01, s/train/Greek/c01, s/train/Greek/c02, s/test/Tibetan/c01"))
    assert {split: list(classes) for split, classes in made.splits.items()} == {
        "train": ["Greek/c01", "Greek/c02", "Latin/c01"],
        "test": ["Tibetan/c01"],
    }
    equal = "classes of equal names in different folders are different classes: Greek/c01, Latin/c01, Tibetan/c01"
    assert made.notes[0] == equal
    merged = plan(folders("s/a/n01532829, s/b/n01532829, s/b/n01855672"))  # an id of ImageNet means one class
    assert merged.counts() == {"train": {"n01532829": 40}, "val": {"n01855672": 20}}


@pytest.mark.parametrize(
    "names",
    [
        "one/cat, one/dog, two/cat",
        "s/train/cat, s/train_2/cat, s/val/dog",
        "s/a/images, s/a/masks, s/b/images, s/b/masks",
    ],
)
def test_folders_that_may_be_one_class_or_two_are_an_error(names: str) -> None:
    with pytest.raises(DataError, match="it is unclear w"):
        plan(folders(names), split_classes="1/1/0")


def test_a_class_in_two_sources_of_one_name_is_an_error() -> None:
    images = [Member(f"photos/cat/{i}.png", 1, FolderReader(Path(), ""), Path()) for i in range(2)]
    with pytest.raises(DataError, match="`photos/cat` and `photos/cat` of another source are one class"):
        plan_pack(
            Listing([*images, images[0]._replace(path="photos/dog/0.png")]), PrepareDataSettings(name="mine"), None
        )


def test_small_classes_are_named() -> None:
    paths = [*folders("s/a, s/b, s/c", n=100), *folders("s/d", n=15), *folders("s/e", n=19)]
    made = plan(paths, split_classes="3/1/1")
    assert made.warnings == [
        "1 class has fewer than 16 images, too few for an episode of 1 support and 15 query images per class: "
        "`d` (15); --min-images 16 leaves out such classes",
        "1 class is far smaller than the others, whose median is 100 images: `e` (19)",
    ]
    assert plan(paths[:300], split_classes="1/1/1", limit_per_class=10).warnings == []


def test_min_images_leaves_out_smaller_classes_before_a_split_is_drawn() -> None:
    paths = [*folders("s/a, s/b", n=100), *folders("s/d", n=15), *folders("s/e", n=16)]
    made = plan(paths, split_classes="1/1/1", min_images=16)
    assert sorted(c for classes in made.splits.values() for c in classes) == ["a", "b", "e"]
    assert made.warnings[0] == "skipped 1 class with fewer than 16 images (--min-images): `d` (15)"
    with pytest.raises(DataError, match=r"needs 4 classes, but the source has 3; skipped 1 class .* `d` \(15\)"):
        plan(paths, split_classes="2/1/1", min_images=16)
    with pytest.raises(DataError, match="no class of the split `val` has 21 images"):
        plan([*folders("s/train/a", n=21), *folders("s/val/b")], min_images=21)


def test_a_missing_split_is_named() -> None:
    assert plan(folders("test/a, test/b")).warnings == ["the sources have no images of the split train and val"]


def test_folders_are_nested_at_most_100_deep() -> None:
    with pytest.raises(DataError, match="lies in more than 100 folders"):
        plan(["s/" + "a/" * 2000 + "1.png"])


def test_unused_split_files_are_named() -> None:
    reader, paths = FolderReader(Path(), ""), folders("s/train/a, s/val/b, s/test/c")
    rows = {f"s/{split}.csv": b"filename,label\nnone.png,x%d\n" % i for i, split in enumerate(("train", "val", "test"))}

    def warned(split_files: dict[str, bytes], **settings: object) -> list[str]:
        listing = Listing([Member(path, 1, reader, Path(path)) for path in paths], split_files)
        return plan_pack(listing, PrepareDataSettings(name="mine", **settings), None).warnings

    assert warned({name: rows[name] for name in ("s/train.csv", "s/test.csv")}) == [
        "train.csv and test.csv in `s` ignored: val.csv missing"
    ]
    assert warned(rows) == ["the sources contain none of the images in the split files of `s`, which are ignored"]
    assert warned(rows, split_classes="1/1/1")[0] == (
        "the split files of the sources are ignored: --split-classes draws another split"
    )
    with pytest.raises(DataError, match="the split files in `s` and `t` differ"):
        warned(rows | {name.replace("s/", "t/"): content + b"more.png,y\n" for name, content in rows.items()})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("z/0.png,b\nz/1.png,b\n", "lack 2 images .* `z/0.png`; `s/b/0.png` is another image of this name"),
        ("b/0.PNG,b\nb/1.PNG,b\n", "lack 2 images .* `b/0.PNG`; `s/b/0.png` is there"),
        ("b/0.png,b\nb/1.jpg,b\n", "lack 1 image .* `b/1.jpg`; `s/b/1.png` is there"),
    ],
)
def test_rows_that_name_no_image_are_an_error_with_the_nearest_one(rows: str, message: str) -> None:
    contents = {"train.csv": "a/0.png,a\n", "val.csv": rows, "test.csv": "c/0.png,c\n"}
    table = read_split_files({name: content.encode() for name, content in contents.items()}, "x")
    images = [Member(path, 1, FolderReader(Path(), ""), Path()) for path in folders("s/a, s/b, s/c", n=2)]
    with pytest.raises(DataError, match=message):
        plan_pack(Listing(images), PrepareDataSettings(name="mine"), table)


def test_split_files_of_another_image_type_are_an_error_with_an_image_that_is_there() -> None:
    rows = {f"{split}.csv": f"{c}/0.jpg,{c}\n".encode() for split, c in (("train", "a"), ("val", "b"), ("test", "c"))}
    images = [Member(path, 1, FolderReader(Path(), ""), Path()) for path in folders("s/a, s/b, s/c", n=1)]
    with pytest.raises(DataError, match=r"contain none of .*, such as `a/0\.jpg`; `s/a/0\.png` is there"):
        plan_pack(Listing(images), PrepareDataSettings(name="mine"), read_split_files(rows, "x"))


def test_images_in_the_folder_of_another_class_are_packed_with_a_warning() -> None:
    contents = {"train.csv": b"a/0.png,b\nb/0.png,a\n", "val.csv": b"c/0.png,c\n", "test.csv": b"d/0.png,d\n"}
    images = [Member(path, 1, FolderReader(Path(), ""), Path()) for path in folders("s/a, s/b, s/c, s/d", n=1)]
    made = plan_pack(Listing(images), PrepareDataSettings(name="mine"), read_split_files(contents, "x"))
    assert [image.path for image in made.splits["train"]["b"]] == ["s/a/0.png"]
    assert made.warnings[0] == (
        "the split files give 2 images another class than that of the folder, such as `s/a/0.png`: `b`, not `a`"
    )


def test_a_draw_is_offered_for_three_classes_only() -> None:
    with pytest.raises(DataError) as caught:
        plan(folders("s/a, s/b"))
    assert "--split-classes (which needs at least 3 classes" in (caught.value.hint or "")
    with pytest.raises(DataError) as caught:
        plan(folders("s/a, s/b, s/c"))
    assert (caught.value.hint or "").endswith("--split-classes 1/1/1")
