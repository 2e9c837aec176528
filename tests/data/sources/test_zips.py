from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest

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


def test_a_link_is_refused_by_name(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("n01/a.jpg")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match=r"a member 'n01/a\.jpg' that is a link or a device"):
        listed(tmp_path / "x.zip")


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zip")
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\1\2")
    for start in (content.index(b"PK\1\2"), at):
        content[start + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="is encrypted"):
        listed(path)
