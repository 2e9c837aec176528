from __future__ import annotations

import random
import shutil
import stat
import subprocess
import zipfile
from pathlib import Path

import pytest

from nilr.data.sources.containers import list_sources
from nilr.data.sources.members import Listing, Unreadable
from nilr.data.sources.zips import ZipReader
from nilr.errors import DataError

FILES = {"train/n01/a.jpg": b"a" * 700, "train/n01/b.jpg": bytes(range(256)), "__MACOSX/._a.jpg": b"x"}


def write(path: Path, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.mkdir("train")
        for name, content in FILES.items():
            archive.writestr(name, content)
    return path


def listed(path: Path) -> Listing:
    listing = Listing()
    ZipReader(path, "source").list_into(listing)
    return listing


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_is_read_in_every_compression(compression: int, tmp_path: Path) -> None:
    path = write(tmp_path / "x.zip", compression)
    found = {member.path: payload for member, payload in ZipReader(path, "source").fetch(listed(path).images)}
    assert found == {f"source/{name}": content for name, content in FILES.items() if name.startswith("train")}


def test_a_truncated_zip_is_refused_wherever_it_was_cut(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zip")
    whole = path.read_bytes()
    for cut in (10, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"`.*x\.zip` is truncated or corrupt"):
            listed(path)


def test_a_flipped_bit_makes_that_image_unreadable(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zip", zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.index(b"a" * 700) + 100] ^= 1
    path.write_bytes(content)
    found = {member.path: payload for member, payload in ZipReader(path, "source").fetch(listed(path).images)}
    broken = found["source/train/n01/a.jpg"]
    assert isinstance(broken, Unreadable)
    assert broken.reason.startswith("is damaged in the archive (Bad CRC-32")
    assert found["source/train/n01/b.jpg"] == FILES["train/n01/b.jpg"]


def test_members_that_cannot_be_read_are_listed_with_their_kind(tmp_path: Path) -> None:
    link, pipe = (zipfile.ZipInfo(name) for name in ("n01/a.jpg", "n01/b.jpg"))
    link.external_attr, pipe.external_attr = (stat.S_IFLNK | 0o777) << 16, stat.S_IFIFO << 16
    readme = zipfile.ZipInfo("README")
    readme.external_attr = link.external_attr
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for info in (link, pipe, readme):
            archive.writestr(info, "/etc/passwd")
        archive.writestr("n01/c.tar.gz", b"\x1f\x8b\x08")
    listing = listed(tmp_path / "x.zip")
    assert listing.images == []
    assert listing.links == {"source/n01/a.jpg": "/etc/passwd", "source/README": "/etc/passwd"}
    assert listing.unread == {"source/n01/b.jpg": "is a pipe, a socket or a device"}
    assert [archive.path for archive in listing.archives] == ["source/n01/c.tar.gz"]


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        (8, 1, "is an encrypted file"),
        (10, 9, "is a file compressed with Deflate64"),
        (10, 96, "is a file compressed with method 96"),
    ],
)
def test_images_of_an_unsupported_method_are_unread(field: int, value: int, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.zip")
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\1\2")
    while at >= 0:  # the flags or the method of each entry of the directory
        content[at + field] = value
        at = content.find(b"PK\1\2", at + 1)
    path.write_bytes(content)
    listing = listed(path)
    assert listing.images == []
    assert listing.unread == dict.fromkeys(["source/train/n01/a.jpg", "source/train/n01/b.jpg"], reason)


@pytest.mark.skipif(shutil.which("zip") is None, reason="zip is not installed")
def test_a_part_of_a_split_zip_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(random.Random(0).randbytes(100_000))
    subprocess.run(["zip", "-q", "-s", "64k", "x.zip", "a.jpg"], cwd=tmp_path, check=True)
    with pytest.raises(DataError, match=r"`.*x\.zip` is the last part of a split zip") as caught:
        listed(tmp_path / "x.zip")
    command = (caught.value.hint or "").split("`")[1]
    subprocess.run(command, shell=True, cwd=tmp_path, check=True, capture_output=True)
    assert [image.path for image in listed(tmp_path / "joined.zip").images] == ["source/a.jpg"]
    with pytest.raises(DataError, match=r"x\.z01` is a part of a split zip archive"):
        list_sources([tmp_path / "x.z01"])


@pytest.mark.parametrize("comment", [b"", b"comment"])
@pytest.mark.parametrize("tail", [b"", b"more data", bytes(30), b"x" * 30])
def test_data_after_the_end_of_a_zip_is_ignored_with_a_warning(comment: bytes, tail: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "x.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = comment
    path.write_bytes(path.read_bytes() + tail)
    listing = listed(path)
    assert len(listing.images) == 2
    assert listing.warnings == ([f"ignored data after the end of the zip `{path}`"] if any(tail) else [])


@pytest.mark.parametrize("head", [b"#!/bin/sh\nexit\n", b"MZ\x90\x00" + bytes(600), b"zip"])
def test_data_before_a_zip_is_ignored_with_a_warning(head: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "x.exe")
    if head == b"zip":
        with zipfile.ZipFile(tmp_path / "before.zip", "w") as archive:
            archive.writestr("n09/z.jpg", b"z")
        head = (tmp_path / "before.zip").read_bytes()
    path.write_bytes(head + path.read_bytes())
    listing = list_sources([path])
    assert [image.path for image in listing.images] == [f"x.exe/{name}" for name in list(FILES)[:2]]
    assert listing.warnings == [f"ignored data before the zip archive in `{path}`"]
    assert dict(listing.images[0].reader.fetch(listing.images))[listing.images[0]] == FILES["train/n01/a.jpg"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_last_of_several_members_of_one_name_is_read_with_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("train/n01/b.jpg", b"last")
    listing = list_sources([path])
    contents = {member.path: payload for member, payload in ZipReader(path, "x").fetch(listing.images)}
    assert contents == {"x/train/n01/a.jpg": FILES["train/n01/a.jpg"], "x/train/n01/b.jpg": b"last"}
    assert listing.warnings == [
        "archives contain 1 image of the same path as a later one, such as `x/train/n01/b.jpg`: the last one is used"
    ]


@pytest.mark.parametrize("name", ["train/gar\u00e7on/\u00e9.jpg", "train/\u732b/1.jpg"])
def test_names_in_utf8_are_read_without_their_flag(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(name, b"x")
    content = bytearray((tmp_path / "x.zip").read_bytes())
    content[7] &= ~0x08
    content[content.index(b"PK\1\2") + 9] &= ~0x08
    (tmp_path / "x.zip").write_bytes(content)
    assert [image.path for image in listed(tmp_path / "x.zip").images] == [f"source/{name}"]


def test_names_in_the_code_page_of_dos_are_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("n01/XX.jpg", b"x")
    content = (tmp_path / "x.zip").read_bytes().replace(b"XX", "\u00e9\u00fc".encode("cp437"))
    (tmp_path / "x.zip").write_bytes(content)
    assert [image.path for image in listed(tmp_path / "x.zip").images] == ["source/n01/\u00e9\u00fc.jpg"]


def test_folders_with_a_backslash_are_no_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("n01\\", b"")
        archive.writestr("n01\\a.jpg", b"x")
    listing = listed(tmp_path / "x.zip")
    assert [image.path for image in listing.images] == ["source/n01/a.jpg"]
    assert listing.others == {}
