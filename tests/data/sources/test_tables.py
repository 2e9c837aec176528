from __future__ import annotations

from pathlib import Path

import pytest

from nilr.data.sources import tables
from nilr.data.sources.folders import FolderReader
from nilr.data.sources.members import Listing, Member
from nilr.data.sources.tables import find_tables, match_tables, read_table_folder, read_tables
from nilr.errors import DataError

ONE_ROW = {"train.csv": b"filename,label\na.jpg,cat\n", "val.csv": b"filename,label\nb.jpg,dog\n"}
ONE_ROW["test.csv"] = b"filename,label\nc.jpg,cow\n"


def members(*paths: str) -> list[Member]:
    reader = FolderReader(Path(), "")
    return [Member(path, 1, reader, Path(path)) for path in paths]


def test_split_files_are_read_whatever_their_line_ends_and_column_order() -> None:
    contents = ONE_ROW | {"train.csv": "\ufefflabel,id,filename\r\ncat,1,a.jpg\r\ncat,2,b b.jpg\r\n".encode()}
    table = read_tables(contents, "x")
    assert table == {"train": {"cat": ["a.jpg", "b b.jpg"]}, "val": {"dog": ["b.jpg"]}, "test": {"cow": ["c.jpg"]}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html>\n<html>", r"`x/train\.csv` \(an HTML page\) is not a split file: its first line should be"),
        (b"", r"\(an empty file\) is not a split file"),
        (b"name,label\na,b\n", "its first line should be `filename,label`"),
        (b"filename,label\na.jpg,\n", "line 2 lacks a name or a label"),
        (b"filename,label\na.jpg\n", "line 2 lacks a name or a label"),
        (b"filename,label\na.jpg,b\na.jpg,b\n", "line 3 lacks a name or a label, or repeats a name"),
        (b"filename,label\n\xff,b\n", "it is not UTF-8 text"),
        (b"filename,label\n", "names no image"),
        (b"filename,label\nx.jpg,dog\n", r"class `dog` stands in both train\.csv and val\.csv"),
    ],
)
def test_what_is_not_a_split_file_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_tables(ONE_ROW | {"train.csv": content}, "x")


def test_all_three_files_must_be_in_the_folder_that_was_given(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes(ONE_ROW["train.csv"])
    with pytest.raises(DataError, match=r"cannot read `.*val\.csv`: no such file"):
        read_table_folder(tmp_path)


def test_split_files_in_the_source_go_before_those_beside_it(tmp_path: Path) -> None:
    for name, content in ONE_ROW.items():
        (tmp_path / name).write_bytes(content)
    beside = find_tables(Listing(), [tmp_path / "images"])
    assert beside is not None
    assert beside[1] == str(tmp_path)
    inside = find_tables(Listing(tables={f"s/deep/{name}": c for name, c in ONE_ROW.items()}), [tmp_path / "images"])
    assert inside is not None
    assert inside[1] == "s/deep"
    assert find_tables(Listing(tables={"s/train.csv": ONE_ROW["train.csv"]}), [tmp_path]) is None


def test_equal_names_are_told_apart_by_the_folder_of_the_class() -> None:
    images = members("s/cat/1.jpg", "s/dog/1.jpg", "s/cow/1.jpg", "s/more/cow/1.jpg")
    table = read_tables(
        {
            "train.csv": b"filename,label\n1.jpg,cat\n",
            "val.csv": b"filename,label\n1.jpg,dog\n",
            "test.csv": b"filename,label\nmore/cow/1.jpg,cow\n",
        },
        "x",
    )
    matched = match_tables(table, images)
    found = [image.path for classes in matched.splits.values() for c in classes.values() for image in c]
    assert found == ["s/cat/1.jpg", "s/dog/1.jpg", "s/more/cow/1.jpg"]


def test_a_class_of_ilsvrc_that_has_too_few_images_lacks_them() -> None:
    images = members(*[f"s/n01532829/n01532829_{number}.JPEG" for number in (9, 10, 200)])
    rows = b"".join(b"n01532829%08d.jpg,n01532829\n" % index for index in (1, 3, 4))
    matched = match_tables(read_tables({"train.csv": b"filename,label\n" + rows}, "x"), images)
    assert [image.filename for image in matched.splits["train"]["n01532829"]] == [
        "n01532829_9.JPEG",
        "n01532829_200.JPEG",
    ]
    assert matched.missing == ["n0153282900000004.jpg"]
    assert matched.original


def test_a_table_is_not_cut_where_it_becomes_too_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tables, "MAX_TABLE_BYTES", 40)
    for name, content in ONE_ROW.items():
        (tmp_path / name).write_bytes(content + b"d.jpg,ant\n" * 3)
    with pytest.raises(DataError, match=r"train\.csv` has more than 40 bytes"):
        read_table_folder(tmp_path)
