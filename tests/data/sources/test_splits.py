from __future__ import annotations

import csv
from pathlib import Path

import pytest

from nilr.data.sources import splits
from nilr.data.sources.datasets import published
from nilr.data.sources.folders import FolderReader
from nilr.data.sources.members import Listing, Member
from nilr.data.sources.splits import (
    draw_split,
    find_split_files,
    match_split_files,
    parse_split_classes,
    read_split_files,
    read_split_folder,
)
from nilr.errors import DataError, UsageError

ONE_ROW = {"train.csv": b"filename,label\na.jpg,cat\n", "val.csv": b"filename,label\nb.jpg,dog\n"}
ONE_ROW["test.csv"] = b"filename,label\nc.jpg,cow\n"

MINI = published("mini-imagenet")


def members(*paths: str) -> list[Member]:
    reader = FolderReader(Path(), "")
    return [Member(path, 1, reader, Path(path)) for path in paths]


def test_the_built_in_split_has_64_16_and_20_disjoint_classes() -> None:
    assert {split: len(names) for split, names in MINI.classes.items()} == {"train": 64, "val": 16, "test": 20}
    assert len(MINI.split_of) == 100
    # Facts of the published train.csv, val.csv and test.csv: their first and last labels.
    assert {MINI.split_of[name] for name in ("n01532829", "n13133613")} == {"train"}
    assert {MINI.split_of[name] for name in ("n01855672", "n09256479")} == {"val"}
    assert {MINI.split_of[name] for name in ("n01930112", "n07613480")} == {"test"}


@pytest.mark.real_data
def test_the_built_in_split_is_that_of_the_published_files(mini_imagenet: Path) -> None:
    for split, names in MINI.classes.items():
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


def test_a_draw_matches_the_recorded_one() -> None:
    # Recorded when the draw was defined: a change would change every pack made with --split-classes.
    drawn = draw_split("abcdef", parse_split_classes("3/1/2"), seed=0)
    assert drawn == {"f": "train", "c": "train", "b": "train", "e": "val", "d": "test", "a": "test"}


def test_requesting_too_many_classes_is_refused_with_both_numbers() -> None:
    with pytest.raises(DataError, match="--split-classes 2/1/1 needs 4 classes, but the source has 3"):
        draw_split("abc", parse_split_classes("2/1/1"), seed=0)


@pytest.mark.parametrize("text", ["", "64", "64/16", "64/16/20/1", "a/b/c", "-1/1/1", "0/1/1", "1.5/1/1"])
def test_invalid_numbers_of_classes_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="invalid numbers of train, val and test classes"):
        parse_split_classes(text)


def test_split_files_are_read_whatever_their_line_ends_and_column_order() -> None:
    contents = ONE_ROW | {"train.csv": "\ufefflabel,id,filename\r\ncat,1,a.jpg\r\ncat,2,b b.jpg\r\n".encode()}
    table = read_split_files(contents, "x")
    assert table == {"train": {"cat": ["a.jpg", "b b.jpg"]}, "val": {"dog": ["b.jpg"]}, "test": {"cow": ["c.jpg"]}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html>\n<html>", r"`x/train\.csv` \(an HTML page\) is not a split file: its first line should be"),
        (b"", r"\(an empty file\) is not a split file"),
        (b"name,label\na,b\n", "its first line should be `filename,label`"),
        (b"# by me\nfilename,label\n", r"its first line should be `filename,label`, not `# by me`"),
        (b"filename,label\na.jpg,\n", "line 2 has no label: `a.jpg,`"),
        (b"filename,label\na.jpg\n", "line 2 has no label: `a.jpg`"),
        (b"filename,label\n\n,b\n", "line 3 has no file name: `,b`"),
        (b"sep=;\nfilename;label\na.jpg;\n", "line 3 has no label: `a.jpg;`"),
        (b"filename,label\na.jpg,b\nc.jpg,b\n./a.jpg,b\n", r"line 4 has the file name of line 2: `\./a\.jpg,b`"),
        (b"filename,label\na.jpg,b\n" + b"x" * 200_000 + b",b\n", r"train\.csv` .*: line 3: field larger than field"),
        (b"filename,label\na.jpg,b\n\xff,b\n", "line 3 is not UTF-8 text"),
        (b"filename,label\n", "lists no image"),
        (b"filename,label\nx.jpg,dog\n", r"class `dog` is in both train\.csv and val\.csv"),
    ],
)
def test_an_invalid_split_file_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_split_files(ONE_ROW | {"train.csv": content}, "x")


def test_the_hint_for_another_encoding_and_for_a_file_without_rows_says_what_to_do() -> None:
    for content, hint in (("a,\u00e9\n".encode("latin-1"), "save it as UTF-8"), (b"", "each of train.csv, val.csv")):
        with pytest.raises(DataError) as caught:
            read_split_files({"val.csv": b"filename,label\n" + content}, "x")
        assert (caught.value.hint or "").startswith(hint)


def test_all_three_files_must_be_in_the_folder_that_was_given(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes(ONE_ROW["train.csv"])
    with pytest.raises(DataError, match=r"cannot read `.*val\.csv`: no such file"):
        read_split_folder(tmp_path)


def test_split_files_in_the_source_take_precedence_over_those_beside_it(tmp_path: Path) -> None:
    for name, content in ONE_ROW.items():
        (tmp_path / name).write_bytes(content)
    beside = find_split_files(Listing(), [tmp_path / "images"], [])
    assert beside is not None
    assert beside[1] == str(tmp_path)
    inside = find_split_files(
        Listing(split_files={f"s/deep/{name}": c for name, c in ONE_ROW.items()}), [tmp_path / "images"], []
    )
    assert inside is not None
    assert inside[1] == "s/deep"
    warnings: list[str] = []
    alone = Listing(split_files={"s/train.csv": ONE_ROW["train.csv"]})
    assert find_split_files(alone, [tmp_path], warnings) is None
    assert warnings == ["train.csv in `s` ignored: val.csv and test.csv missing"]


def test_equal_file_names_are_resolved_by_the_class_folder() -> None:
    images = members("s/cat/1.jpg", "s/dog/1.jpg", "s/cow/1.jpg", "s/more/cow/1.jpg")
    table = read_split_files(
        {
            "train.csv": b"filename,label\n1.jpg,cat\n",
            "val.csv": b"filename,label\n1.jpg,dog\n",
            "test.csv": b"filename,label\nmore/cow/1.jpg,cow\n",
        },
        "x",
    )
    matched = match_split_files(table, images)
    found = [image.path for classes in matched.splits.values() for c in classes.values() for image in c]
    assert found == ["s/cat/1.jpg", "s/dog/1.jpg", "s/more/cow/1.jpg"]


def test_missing_images_of_an_ilsvrc_class_are_listed() -> None:
    images = members(*[f"s/n01532829/n01532829_{number}.JPEG" for number in (9, 10, 200)])
    rows = b"".join(b"n01532829%08d.jpg,n01532829\n" % index for index in (1, 3, 4))
    matched = match_split_files(read_split_files({"train.csv": b"filename,label\n" + rows}, "x"), images)
    assert [image.filename for image in matched.splits["train"]["n01532829"]] == [
        "n01532829_9.JPEG",
        "n01532829_200.JPEG",
    ]
    assert matched.missing == ["n0153282900000004.jpg"]
    assert matched.original


def test_a_split_file_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(splits, "MAX_SPLIT_FILE_BYTES", 40)
    for name, content in ONE_ROW.items():
        (tmp_path / name).write_bytes(content + b"d.jpg,ant\n" * 3)
    with pytest.raises(DataError, match=r"train\.csv` has more than 40 bytes"):
        read_split_folder(tmp_path)


def table_of(*rows: str) -> splits.SplitTable:
    """Return the table of a train.csv with these rows of file name and label."""
    content = "".join(f"{line}\n" for line in ("filename,label", *rows)).encode()
    others = {"val.csv": b"filename,label\nv.png,v\n", "test.csv": b"filename,label\nt.png,t\n"}
    return read_split_files({"train.csv": content, **others}, "x")


@pytest.mark.parametrize("missing", ["wren/wren_3.png", "a/wren/wren_3.png"])
def test_a_path_in_a_split_file_never_means_an_image_of_another_folder(missing: str) -> None:
    images = members("source/wren/wren_1.png", "source/owl/wren_3.png")
    present = missing.replace("_3", "_1")
    matched = match_split_files(table_of(f"{present},wren", f"{missing},wren"), images)
    assert [image.path for image in matched.splits["train"]["wren"]] == ["source/wren/wren_1.png"]
    assert matched.missing == [missing]
    assert matched.elsewhere == {missing: "source/owl/wren_3.png"}


def test_a_file_name_alone_is_looked_for_in_the_folder_of_its_class() -> None:
    images = members("source/wren/0001.png", "source/bear/0003.png")
    matched = match_split_files(table_of("0001.png,wren", "0003.png,wren"), images)
    assert [image.path for image in matched.splits["train"]["wren"]] == ["source/wren/0001.png"]
    assert matched.missing == ["0003.png"]


def test_a_file_name_alone_that_fits_several_images_is_an_error_that_names_both() -> None:
    images = members("one/images/0001.png", "two/images/0001.png")
    with pytest.raises(DataError) as caught:
        match_split_files(table_of("0001.png,wren"), images)
    assert "`one/images/0001.png`" in caught.value.message
    assert "`two/images/0001.png`" in caught.value.message


def test_two_rows_never_name_one_image() -> None:
    with pytest.raises(DataError, match=r"name one image: `source/images/a\.png`"):
        match_split_files(table_of("a.png,wren", "images/a.png,owl"), members("source/images/a.png"))


@pytest.mark.parametrize(
    "content",
    [
        "filename;label\nb/1.png;b\n",
        "label\tfilename\nb\tb/1.png\n",
        "b/1.png,b\n",
        "sep=;\r\nfilename;label\r\nb/1.png;b\r\n",
        "filename,label\nb\\1.png,b\n",
        "filename,label\n./b/1.png,b\n",
        "filename|label\nb/1.png|b\n",
        "image,class\nb/1.png,b\n",
        "Image Path,Class Name\nb/1.png,b\n",
        "path,label\nb/1.png,b\n",
        ",file_name,category\n0,b/1.png,b\n",
        "image,filename,class,label\n0,b/1.png,0,b\n",
        "0,b/1.png,b\n",
        "7;b;b/1.png\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_split_files_of_common_programs_are_read(content: str, encoding: str) -> None:
    others = {"val.csv": b"filename,label\nv.png,v\n", "test.csv": b"filename,label\nt.png,t\n"}
    table = read_split_files({"train.csv": content.encode(encoding), **others}, "x")
    assert table["train"] == {"b": ["b/1.png"]}


def test_file_names_without_a_suffix_match_their_images() -> None:
    matched = match_split_files(table_of("wren/1,wren", "wren/2,wren"), members("s/wren/1.jpg", "s/wren/2.png"))
    assert [image.path for image in matched.splits["train"]["wren"]] == ["s/wren/1.jpg", "s/wren/2.png"]
    assert not matched.missing


def test_names_in_composed_and_decomposed_form_are_the_same() -> None:
    decomposed, composed = "s/cafe\u0301/1.png", "s/caf\u00e9/1.png"
    images = [image.normalized() for image in members(decomposed)]
    assert [image.path for image in images] == [composed]
    matched = match_split_files(table_of("cafe\u0301/1.png,cafe\u0301"), images)
    assert [image.path for image in matched.splits["train"]["caf\u00e9"]] == [composed]


def test_a_row_may_give_an_image_another_class_than_its_folder() -> None:
    images = members("s/wren/1.png", "s/owl/1.png", "s/owl/2.png")
    matched = match_split_files(table_of("wren/1.png,owl", "owl/1.png,wren", "owl/2.png,owl"), images)
    found = {label: [image.path for image in chosen] for label, chosen in matched.splits["train"].items()}
    assert found == {"owl": ["s/wren/1.png", "s/owl/2.png"], "wren": ["s/owl/1.png"]}
    assert matched.relabelled == {"s/wren/1.png": ("owl", "wren"), "s/owl/1.png": ("wren", "owl")}


@pytest.mark.parametrize(
    ("row", "image"),
    [
        ("z/1.png", "s/wren/1.png"),
        ("wren/1.PNG", "s/wren/1.png"),
        ("wren/1.jpg", "s/wren/1.png"),
        ("Wren/1.png", "s/wren/1.png"),
        ("1.PNG", "s/wren/1.png"),
        ("1.jpg", "s/images/1.png"),
        ("images/1.jpg", "s/images/1.png"),
    ],
)
def test_a_class_whose_rows_are_all_misnamed_is_not_absent(row: str, image: str) -> None:
    matched = match_split_files(table_of(f"{row},wren", "owl/5.png,owl"), members(image, "s/owl/5.png"))
    assert (matched.missing, matched.elsewhere) == ([row], {row: image})
    assert matched.absent == ["v", "t"]


@pytest.mark.parametrize("row", ["wren/1.png", "1.png", "1.PNG"])
def test_a_class_is_absent_if_only_other_classes_have_its_file_names(row: str) -> None:
    matched = match_split_files(table_of(f"{row},wren", "owl/2.png,owl"), members("s/owl/1.png", "s/owl/2.png"))
    assert (matched.missing, matched.absent) == ([], ["wren", "v", "t"])
