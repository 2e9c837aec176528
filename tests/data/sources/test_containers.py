from __future__ import annotations

import errno
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nilr.data.sources import members
from nilr.data.sources.containers import list_sources
from nilr.errors import DataError, UsageError

PNG = b"\x89PNG\r\n\x1a\n"
SEVEN_ZIP = b"7z\xbc\xaf\x27\x1c"


@pytest.mark.parametrize(
    ("name", "content", "message", "hint"),
    [
        (
            "x.tar",
            b"<!DOCTYPE html><html>",
            "is an HTML page, not a folder, tar, zip, array or Parquet file",
            "saved a web page",
        ),
        ("x.pkl", b"<!DOCTYPE html><html>", "is an HTML page", "get the file itself"),
        ("x.zip", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer", "git lfs pull"),
        ("x.parquet", b"PAR1xxxx", "is truncated or corrupt: parquet magic", "SHA-256"),
        ("x.7z", SEVEN_ZIP, "is a 7-Zip archive", "unpack"),
        ("x.tar.zst", b"\x28\xb5\x2f\xfd", "is a Zstandard file", "unzstd"),
        ("x.tar.lz4", b"\x04\x22\x4d\x18", "is an LZ4 file", "unlz4"),
        ("x.rar", b"Rar!\x1a\x07\x01\x00", "is a RAR archive", "unpack"),
        ("x.tfrecord", b"\x18\0\0\0\0\0\0\0\xa3\x7f\x4b\x22", "is a TFRecord file", "one folder per class"),
        ("x.mat", b"MATLAB 5.0 MAT-file", "is a MATLAB file", "one folder per class"),
        ("train_data.hdf5", b"\x89HDF\r\n\x1a\n", "is an HDF5 file", "torchmeta"),
        ("x.h5", b"\x89HDF\r\n\x1a\n", "is an HDF5 file", "--data"),
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


def test_a_link_to_itself_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DataError, match=r"cannot read `.*loop`: too many levels of symbolic links"):
        list_sources([tmp_path / "loop"])


FORBIDDEN = """
import os, sys
from pathlib import Path
from nilr.data.sources.containers import list_sources
from nilr.errors import DataError

os.seteuid(65534)
for skip_broken in (False, True):
    for path in sys.argv[1:]:
        try:
            print(sorted(list_sources([Path(path)], skip_broken=skip_broken).unread))
        except DataError as error:
            print(error.message)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_what_the_user_may_not_read_is_an_error_or_left_out(tmp_path: Path) -> None:
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        for name in ("readable", "closed", "unlisted"):
            (place / name).mkdir()
            tarred(place / name / "x.tar", "n01/a.png")
        for path, mode in ((place, 0o755), (place / "readable" / "x.tar", 0o644), (place / "closed", 0o600)):
            path.chmod(mode)
        tarred(place / "readable" / "y.tar", "n01/a.png").chmod(0)
        (place / "unlisted").chmod(0o644)
        sources = [place / "readable", place / "unlisted", place / "closed", place / "closed" / "x.tar"]
        done = subprocess.run([sys.executable, "-c", FORBIDDEN, *sources], capture_output=True, text=True, check=True)
    finally:
        shutil.rmtree(place)
    closed = [f"cannot read `{path}`: permission denied" for path in sources[2:]]
    lost = "cannot be read (permission denied)"
    assert done.stdout.splitlines() == [
        f"not all images can be read: `readable/y.tar` {lost}",
        f"there is no image in `{sources[1]}`: `unlisted/x.tar` {lost}",
        *closed,
        "['readable/y.tar']",
        f"there is no image in `{sources[1]}`: `unlisted/x.tar` {lost}",
        *closed,
    ]


@pytest.mark.parametrize("url", ["https://example.org/train.tar", "http://example.org", "s3://bucket/train.tar"])
def test_a_url_is_not_taken_for_a_path(url: str) -> None:
    with pytest.raises(DataError, match=f"`{url}` is a URL: nilr downloads nothing"):
        list_sources([Path(url)])


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


def tarred(at: Path, *names: str, content: bytes = PNG) -> Path:
    with tarfile.open(at, "w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return at


def test_whatever_hides_images_is_an_error_or_left_out(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name, content in {
        "a.png": PNG, "b.7z": SEVEN_ZIP, "c.7z": SEVEN_ZIP, "photo.HEIC": b"?", "b.png.gz": b"\x1f\x8b\x08",
        "x.zip.001": b"PK\3\4", "cut.tar": b"<html>", "val.pkl": b"\x80\x02N.",
        "train.tfrecord": b"\x18\0\0\0\0\0\0\0\xa3\x7f\x4b\x22",
    }.items():  # fmt: skip
        (source / name).write_bytes(content)
    tarred(source / "all.tar", "n01/a.png")
    (source / "gone.png").symlink_to("nowhere")
    (source / "loop").symlink_to("loop")
    harmless = {
        "labels.csv.gz": "a gzip file", "model.pt": "a zip archive", "words.pickle": "a Python pickle",
        "setid.mat": "a MATLAB file", "notes.docx": "a zip archive",
    }  # fmt: skip
    heads = {
        "a gzip file": b"\x1f\x8b\x08",
        "a zip archive": b"PK\3\4",
        "a Python pickle": b"\x80\x02N.",
        "a MATLAB file": b"MATLAB ",
    }
    for name, what in harmless.items():
        (source / name).write_bytes(heads[what])
    with pytest.raises(DataError, match="not all images can be read: ") as caught:
        list_sources([source])
    assert "`source/b.7z` is a 7-Zip archive (and 1 more file); " in caught.value.message
    assert "--skip-broken" in (caught.value.hint or "")
    listing = list_sources([source], skip_broken=True)
    assert [image.path for image in listing.images] == ["source/a.png"]
    assert listing.unread == {
        "source/all.tar": "is a tar archive beside other images",
        "source/b.7z": "is a 7-Zip archive",
        "source/b.png.gz": "is a compressed image",
        "source/c.7z": "is a 7-Zip archive",
        "source/cut.tar": "is an HTML page",
        "source/gone.png": "is a link to a missing file",
        "source/loop": "is a link to a missing file",
        "source/photo.HEIC": "is an image of type HEIC",
        "source/train.tfrecord": "is a TFRecord file",
        "source/val.pkl": "is a Python pickle beside other images",
        "source/x.zip.001": "is a zip archive beside other images",
    }
    assert listing.others == {f"source/{name}": what for name, what in harmless.items()}


def test_an_unsupported_archive_beside_readable_ones_is_an_error(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    tarred(source / "train.tar", "n01/a.png")
    (source / "val.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd")
    (source / "labels.csv.gz").write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(DataError, match=r"`source/val\.tar\.zst` is a Zstandard file") as caught:
        list_sources([source])
    assert "unzstd" in (caught.value.hint or "")
    listing = list_sources([source], skip_broken=True)
    assert [image.path for image in listing.images] == ["source/train/n01/a.png"]
    assert listing.others == {"source/labels.csv.gz": "a gzip file"}


@pytest.mark.parametrize("name", ["inner.zip", "inner"])
def test_a_zip_in_a_tar_is_called_that(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "inner", "w") as archive:
        archive.writestr("n01/a.png", PNG)
    path = tarred(tmp_path / "x.tar", name, content=(tmp_path / "inner").read_bytes())
    with pytest.raises(
        DataError, match=f"there is no image in `.*`: `x/{name}` is a zip archive inside a tar"
    ) as caught:
        list_sources([path])
    assert caught.value.hint == "unpack the outer archive, and give the folder"


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_symbolic_link_in_an_archive_is_never_followed(kind: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "n01").mkdir(parents=True)
    (source / "n01" / "a.png").write_bytes(PNG)
    (source / "README.txt").write_bytes(b"text")
    links = {"n01/b.png": "a.png", "n02.png": "./n01/b.png", "README": "README.txt", "latest": "n01"}
    lost = {"n01/c.png": "../../secret.png", "n01/d.png": "/etc/passwd", "old.tar": "n01/a.tar"}
    (tmp_path / "secret.png").write_bytes(PNG)
    for name, target in (links | lost).items():
        (source / name).symlink_to(target)
    archive = tmp_path / f"x.{kind}"
    command = ["tar", "-cf", archive, "."] if kind == "tar" else ["zip", "-qry", archive, "."]
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} is not installed")
    subprocess.run(command, cwd=source, check=True)
    with pytest.raises(DataError, match=r"`x/.*` is a symbolic link \(and 2 more files\)"):
        list_sources([archive])
    listing = list_sources([archive], skip_broken=True)
    assert [image.path for image in listing.images] == ["x/n01/a.png"]
    assert listing.unread == {f"x/{name}": "is a symbolic link" for name in lost}
    assert listing.others == {f"x/{name}": "a symbolic link" for name in links} | {"x/README.txt": "a text file"}


def test_a_pickle_twice_in_an_archive_is_listed_once(tmp_path: Path) -> None:
    content = {"image_data": np.zeros((2, 84, 84, 3), np.uint8), "class_dict": {"a": [0], "b": [1]}}
    path = tarred(tmp_path / "x.tar", "train.pkl", "train.pkl", content=pickle.dumps(content))
    assert [image.path for image in list_sources([path]).images] == [
        "x/train/train/a/a-00000",
        "x/train/train/b/b-00000",
    ]


def test_a_folder_that_cannot_be_opened_is_an_error_or_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("n01", "n02"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(PNG)
    scandir = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("n02"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"`.*/n02` cannot be read \(permission denied\)"):
        list_sources([tmp_path])
    assert len(list_sources([tmp_path], skip_broken=True).images) == 1


def test_the_file_without_images_that_has_a_way_out_is_named(tmp_path: Path) -> None:
    for name in ("README.md", "train_data.hdf5", "train_labels.json"):
        (tmp_path / name).write_bytes(b"\x89HDF\r\n\x1a\n" if name.endswith("hdf5") else b"text")
    with pytest.raises(DataError, match=r"train_data\.hdf5` is not an image but an HDF5 file") as caught:
        list_sources([tmp_path])
    assert "torchmeta" in (caught.value.hint or "")


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


def parquet_file(path: Path, names: list[str], labels: list[int]) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    image = io.BytesIO()
    Image.new("RGB", (4, 4)).save(image, "png")
    table = pyarrow.table({"image": [image.getvalue()] * len(labels), "label": labels})
    described = json.dumps({"info": {"features": {"label": {"names": names}}}})
    path.parent.mkdir(exist_ok=True)
    parquet.write_table(table.replace_schema_metadata({"huggingface": described}), path)


def test_two_labels_with_one_name_in_a_parquet_file_are_two_classes(tmp_path: Path) -> None:
    parquet_file(tmp_path / "x" / "train.parquet", ["crane", "crane", "dog"], [0, 1, 2])
    listing = list_sources([tmp_path / "x"])
    assert [image.path.split("/")[-2] for image in listing.images] == ["crane (0)", "crane (1)", "dog"]


@pytest.mark.parametrize("names", [("a/b", "a_b"), (".", ".."), ("caf\u00e9", "cafe\u0301")], ids=ascii)
@pytest.mark.parametrize("n_files", [1, 2])
def test_two_classes_of_parquet_files_are_never_merged(names: tuple[str, str], n_files: int, tmp_path: Path) -> None:
    for number, labels in enumerate(([0, 1],) if n_files == 1 else ([0], [1])):
        parquet_file(tmp_path / "x" / f"train-{number}.parquet", [*names], labels)
    with pytest.raises(DataError, match="would get the same name"):
        list_sources([tmp_path / "x"])


def test_class_names_that_differ_in_the_form_of_an_accent_are_never_merged(tmp_path: Path) -> None:
    names = "caf\u00e9", "cafe\u0301"
    np.savez(tmp_path / "x.npz", data=np.zeros((2, 8, 8, 3), np.uint8), labels=np.array(names))
    with pytest.raises(DataError, match="would get the same name"):
        list_sources([tmp_path / "x.npz"])
    for name in names:
        (tmp_path / "tree" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "tree" / name / "0.png")
    with pytest.raises(DataError, match=r"the folders 'tree/caf.*' and 'tree/caf.*' differ only in the form"):
        list_sources([tmp_path / "tree"])
