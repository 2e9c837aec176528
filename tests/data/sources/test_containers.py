from __future__ import annotations

import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from nilr.data.sources import members
from nilr.data.sources.containers import list_sources
from nilr.errors import DataError, UsageError

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("name", "content", "message", "hint"),
    [
        ("x.tar", b"<!DOCTYPE html><html>", "is an HTML page, not a folder, tar, zip or pickle", "saved a web page"),
        ("x.pkl", b"<!DOCTYPE html><html>", "is an HTML page", "get the file itself"),
        ("x.zip", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer", "git lfs pull"),
        ("x.parquet", b"PAR1xxxx", "is a Parquet file", "one folder per class"),
        ("x.7z", b"7z\xbc\xaf\x27\x1c", "is a 7-Zip archive", "unpack"),
        ("x.jpg", b"\xff\xd8\xff\xe0", "is a JPEG image, not a folder", "docs/datasets.md"),
        ("x.tar", b"", "is an empty file", "docs/datasets.md"),
        ("x.txt", b"hello", "is a text file", "docs/datasets.md"),
    ],
)
def test_the_error_for_an_unsupported_source_says_what_it_is(
    name: str, content: bytes, message: str, hint: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        list_sources([tmp_path / name])
    assert hint in (caught.value.hint or "")
    assert f"`{tmp_path / name}`" in caught.value.message


def test_a_missing_source_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no `.*nowhere\.tar`"):
        list_sources([tmp_path / "nowhere.tar"])


def test_the_error_for_a_source_without_images_says_what_it_contains(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it contains no file"):
        list_sources([tmp_path])
    (tmp_path / "n01").mkdir()
    (tmp_path / "n01" / "a.dat").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"`.*/n01/a\.dat` is not an image but an HTML page"):
        list_sources([tmp_path])


def test_a_source_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    with pytest.raises(UsageError, match="is given twice"):
        list_sources([tmp_path, tmp_path / "." / "x" / ".."])


def test_a_container_is_recognised_by_content_not_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    with tarfile.open(tmp_path / "really-a-tar.zip", "w:gz") as archive:
        archive.add(tmp_path / "a.png", "n01/a.png")
    assert [image.path for image in list_sources([tmp_path / "really-a-tar.zip"]).images] == ["really-a-tar/n01/a.png"]


def test_archives_beside_loose_images_are_skipped(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.png").write_bytes(PNG)
    with tarfile.open(source / "all.tar", "w") as archive:
        archive.add(source / "a.png", "n01/a.png")
    listing = list_sources([source])
    assert [image.path for image in listing.images] == ["source/a.png"]
    assert listing.others == {"source/all.tar": "a tar archive"}


def test_the_later_of_two_members_with_one_path_counts(tmp_path: Path) -> None:
    for content in (b"old", b"newer"):
        (tmp_path / "a.png").write_bytes(content)
        with tarfile.open(tmp_path / "x.tar", "a") as archive:
            archive.add(tmp_path / "a.png", "n01/a.png")
    (image,) = list_sources([tmp_path / "x.tar"]).images
    assert list(image.reader.fetch([image])) == [(image, b"newer")]


def test_links_in_a_folder_are_followed_but_not_in_cycles(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "n01").mkdir(parents=True)
    (source / "n01" / "a.png").write_bytes(PNG)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.png").write_bytes(PNG)
    (source / "n02").symlink_to(tmp_path / "elsewhere")
    (source / "n03").symlink_to(source)
    (source / "n04").symlink_to("n01")
    listing = list_sources([source])
    assert [image.path for image in listing.images] == ["source/n01/a.png", "source/n02/b.png"]
    assert listing.others == dict.fromkeys(["source/n03", "source/n04"], "a link to a folder that is already listed")


def test_a_pipe_is_reported_and_never_opened(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "n01").mkdir(parents=True)
    (source / "n01" / "a.png").write_bytes(PNG)
    pipes = [source / "n01" / "b.png", source / "n01" / "c.txt", source / "train.csv"]
    for pipe in pipes:
        os.mkfifo(pipe)
    held = [os.open(pipe, os.O_RDWR) for pipe in pipes]  # else whoever opened one would wait for ever
    try:
        for descriptor in held:
            os.write(descriptor, PNG * 100)
        listing = list_sources([source])
        with pytest.raises(DataError, match=r"train\.csv` is a pipe, a socket or a device"):
            list_sources([source / "train.csv"])
    finally:
        for descriptor in held:
            os.close(descriptor)
    assert [image.path for image in listing.images] == ["source/n01/a.png"]
    assert set(listing.others.values()) == {"a pipe, a socket or a device"}
    assert len(listing.others) == 3


@pytest.mark.parametrize("names", [("a/b", "a_b"), ("a/b_c", "a_b/c")])
def test_two_classes_of_a_pickle_are_never_merged(names: tuple[str, str], tmp_path: Path) -> None:
    content = {"image_data": np.zeros((2, 84, 84, 3), np.uint8), "class_dict": {names[0]: [0], names[1]: [1]}}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=f"has classes '{names[0]}' and '{names[1]}', which would get the same name"):
        list_sources([tmp_path / "x.pkl"])


def test_a_pickle_in_an_archive_is_not_read_beyond_a_gigabyte(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("x.pkl", b"\x80\x02N.")
        archive.filelist[0].file_size = 2**30 + 1
    with pytest.raises(
        DataError, match=r"`x/x\.pkl` has 1,073,741,825 bytes; a pickle in an archive may have 1,073,741,824"
    ):
        list_sources([tmp_path / "x.zip"])


def test_the_total_size_of_split_files_is_limited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(members, "MAX_SPLIT_FILE_BYTES", 10)
    for name in ("a.png", "train.csv", "val.csv"):
        (tmp_path / name).write_bytes(PNG)
    listing = list_sources([tmp_path])
    assert [path.rpartition("/")[2] for path in listing.split_files] == ["train.csv"]


def test_pickles_are_listed_as_folders_of_images(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 84, 84, 3), np.uint8)
    for split in ("train", "val"):
        content = {"image_data": images, "class_dict": {f"n{split}1": [0, 2], f"n{split}2": [1, 3]}}
        (tmp_path / f"mini-imagenet-cache-{split}.pkl").write_bytes(pickle.dumps(content))
    (tmp_path / "miniImageNet_category_split_train_phase_val.pickle").write_bytes(pickle.dumps({}))
    listing = list_sources([tmp_path])
    assert len(listing.images) == 8
    chosen = [image for image in listing.images if image.path.endswith("train/ntrain2/ntrain2-00001")]
    assert len(chosen) == 1
    assert chosen[0].reader.kind == "pickle"
    ((_, pixels),) = chosen[0].reader.fetch(chosen)
    assert np.array_equal(pixels, images[3])
    assert list(listing.others.values()) == ["further images of the training classes, which belong to no split"]
