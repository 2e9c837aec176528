from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from nilr.data.sources.members import Listing
from nilr.data.sources.tars import TarReader, is_tar
from nilr.errors import DataError

FILES = {"train/n01/a.jpg": b"a" * 700, "train/n01/b.jpg": b"b" * 512, "val/n02/c.jpg": b""}


def tar_bytes(files: dict[str, bytes], mode: str = "w", **options: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, **options) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def special(name: str, kind: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info.tobuf() + bytes(1024)


def listed(path: Path, only: frozenset[str] | None = None) -> Listing:
    listing = Listing()
    TarReader(path, "source", only).list_into(listing)
    return listing


def read(path: Path) -> dict[str, object]:
    listing = listed(path)
    return {member.path: payload for member, payload in TarReader(path, "source").fetch(listing.images[::-1])}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        path = tmp_path / "x.tar"
        path.write_bytes(content)
        return path

    return write


Write = Callable[[bytes], Path]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("dialect", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_is_read_in_every_dialect_and_compression(mode: str, dialect: int, write: Write) -> None:
    files = FILES | {f"{'long/' * 40}n01/d.jpg": b"d"}
    if dialect == tarfile.USTAR_FORMAT:
        files = FILES
    expected = {f"source/{name}": content for name, content in files.items()}
    assert read(write(tar_bytes(files, mode, format=dialect))) == expected


def test_names_that_are_not_utf8_are_read(write: Write) -> None:
    assert list(read(write(tar_bytes({"n01/\udce9.jpg": b"x"})))) == ["source/n01/\udce9.jpg"]


def test_leading_dots_and_directories_are_ignored(write: Write) -> None:
    directory = tarfile.TarInfo("./")
    directory.type = tarfile.DIRTYPE
    content = directory.tobuf() + tar_bytes({"./n01//a.jpg": b"x"})
    assert list(read(write(content))) == ["source/n01/a.jpg"]


def test_a_tar_in_a_tar_is_read_in_place(write: Write) -> None:
    inner = {
        name: tar_bytes({f"{name}_{i}.JPEG": name.encode() * i for i in (1, 2)}) for name in ("n00000001", "n00000002")
    }
    for mode in ("w", "w:gz"):
        path = write(tar_bytes({f"{name}.tar": content for name, content in inner.items()}, mode))
        assert read(path) == {f"source/{name}/{name}_{i}.JPEG": name.encode() * i for name in inner for i in (1, 2)}
        listing = listed(path, frozenset({"n00000002"}))
        assert [image.path for image in listing.images] == [f"source/n00000002/n00000002_{i}.JPEG" for i in (1, 2)]
        assert listing.skipped_classes == {"n00000001"}


def test_files_created_by_operating_systems_are_ignored(write: Write) -> None:
    junk = ["__MACOSX/n01/a.jpg", "n01/._a.jpg", "n01/.DS_Store", "n01/Thumbs.db"]
    listing = listed(write(tar_bytes(dict.fromkeys(junk, b"x") | {"n01/a.jpg": b"x"})))
    assert [image.path for image in listing.images] == ["source/n01/a.jpg"]
    assert listing.others == {}


def test_files_are_listed_by_their_type(write: Write) -> None:
    png = b"\x89PNG\r\n\x1a\n"
    content = {"n01/a": png, "b.txt": b"text", "train.csv": b"filename,label\n", "c.tar": b"<html>"}
    listing = listed(write(tar_bytes(content)))
    assert [image.path for image in listing.images] == ["source/n01/a"]
    assert listing.others == {"source/b.txt": "a text file"}
    assert listing.unread == {"source/c.tar": "is an HTML page inside a tar"}
    assert listing.split_files == {"source/train.csv": b"filename,label\n"}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_a_truncated_tar_is_refused_wherever_it_was_cut(mode: str, write: Write) -> None:
    # The members end at byte 3584 (1536 + 1024 + 512, each with its header of 512); then come two zero blocks.
    whole = tar_bytes(FILES, mode)
    cuts = (700, 1023, 1536, 1600, 2048, 2560, 3000, 3072) if mode == "w" else (len(whole) // 2, len(whole) - 9)
    for cut in cuts:
        with pytest.raises(DataError, match=r"`.*x\.tar` is truncated"):
            listed(write(whole[:cut]))


def test_a_flipped_bit_in_a_header_is_found(write: Write) -> None:
    content = bytearray(tar_bytes(FILES))
    content[1536 + 3] ^= 1
    with pytest.raises(DataError, match=r"`.*x\.tar` is corrupt: invalid header at byte 1536"):
        listed(write(bytes(content)))


@pytest.mark.parametrize("size", [-512, -(2**40), 2**40, 2**62])
def test_a_false_size_is_refused(size: int, write: Write) -> None:
    header = bytearray(tarfile.TarInfo("n01/a.jpg").tobuf())
    header[124:136] = (2**95 + size if size >= 0 else 2**96 + size).to_bytes(12, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(DataError, match=r"`.*x\.tar` is (truncated|corrupt)"):
        listed(write(bytes(header) + bytes(2048)))


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (tarfile.LNKTYPE, "a hard link to a missing file"),
        *((kind, "a pipe, a socket or a device") for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)),
    ],
)
def test_devices_and_links_to_nothing_are_never_read(kind: bytes, what: str, write: Write) -> None:
    headers = b"".join(special(name, kind)[:512] for name in ("n01/a.jpg", "latest", "more.tar.gz"))
    listing = listed(write(headers + tar_bytes({"n01/b.jpg": b"x"})))
    assert [image.path for image in listing.images] == ["source/n01/b.jpg"]
    assert listing.unread == dict.fromkeys(["source/n01/a.jpg", "source/more.tar.gz"], f"is {what}")
    assert listing.others == {"source/latest": what}


def test_a_sparse_file_is_never_read(tmp_path: Path) -> None:
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(2**20)
        file.write(b"x")
    for dialect in ("gnu", "posix"):
        subprocess.run(["tar", "-cSf", "x.tar", f"--format={dialect}", "a.jpg"], cwd=tmp_path, check=True)
        listing = listed(tmp_path / "x.tar")
        assert (listing.images, listing.unread) == ([], {"source/a.jpg": "is a sparse file"})


@pytest.mark.parametrize("mode", ["", "z", "j", "J"])
@pytest.mark.parametrize("dialect", ["gnu", "posix", "ustar"])
def test_a_hard_link_is_the_file_before_it(mode: str, dialect: str, tmp_path: Path) -> None:
    (tmp_path / "n01").mkdir()
    (tmp_path / "n02").mkdir()
    for number in range(4):
        (tmp_path / "n01" / f"{number}.jpg").write_bytes(bytes([number]) * 20_000)
        for link in (f"n02/{number}.jpg", f"n01/again{number}.jpg"):
            (tmp_path / link).hardlink_to(tmp_path / "n01" / f"{number}.jpg")
    command = ["tar", f"-c{mode}f", "x.tar", f"--format={dialect}", "./n01", "n02"]
    subprocess.run(command, cwd=tmp_path, check=True)
    with tarfile.open(tmp_path / "x.tar") as archive:
        assert sum(member.islnk() for member in archive) == 8
    assert read(tmp_path / "x.tar") == {
        f"source/{name}.jpg": bytes([number]) * 20_000
        for number in range(4)
        for name in (f"n01/{number}", f"n02/{number}", f"n01/again{number}")
    }


def test_a_compressed_tar_with_hard_links_is_read_once(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    links = [tarfile.TarInfo(f"n02/{number}.jpg") for number in range(50)]
    for number, link in enumerate(links):
        link.type, link.linkname = tarfile.LNKTYPE, f"n01/{number}.jpg"
    files = tar_bytes({f"n01/{number}.jpg": bytes([number]) * 1000 for number in range(50)}).rstrip(b"\0")
    files += bytes(-len(files) % 512)
    path = write(gzip.compress(files + b"".join(link.tobuf() for link in links) + bytes(1024)))
    listing = listed(path)
    rewinds = []
    monkeypatch.setattr(gzip._GzipReader, "_rewind", lambda reader: rewinds.append(reader))
    payloads = {member.path: payload for member, payload in TarReader(path, "source").fetch(listing.images)}
    assert payloads["source/n02/49.jpg"] == payloads["source/n01/49.jpg"] == bytes([49]) * 1000
    assert rewinds == []


def test_a_hard_link_to_a_later_file_is_unread(write: Write) -> None:
    link = tarfile.TarInfo("n01/a.jpg")
    link.type, link.linkname = tarfile.LNKTYPE, "n01/b.jpg"
    listing = listed(write(link.tobuf() + tar_bytes({"n01/b.jpg": b"x"})))
    assert [image.path for image in listing.images] == ["source/n01/b.jpg"]
    assert listing.unread == {"source/n01/a.jpg": "is a hard link to a missing file"}


@pytest.mark.parametrize("dialect", ["gnu", "posix"])
def test_a_volume_of_several_is_named(dialect: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x" * 90_000)
    volumes = [f"--file={tmp_path}/{number}.tar" for number in (1, 2)]
    subprocess.run(["tar", "-cML", "50", f"--format={dialect}", *volumes, "a.jpg"], cwd=tmp_path, check=True)
    with pytest.raises(DataError, match=r"1\.tar` is truncated, or one volume of several"):
        listed(tmp_path / "1.tar")
    with pytest.raises(DataError, match=r"2\.tar` is a volume of a multi-volume tar"):
        listed(tmp_path / "2.tar")


@pytest.mark.parametrize("tail", [b"", bytes(4096), b"x", b"garbage", bytes(100) + b"garbage"])
def test_data_after_a_gzip_is_ignored_with_a_warning(tail: bytes, write: Write) -> None:
    path = write(tar_bytes(FILES, "w:gz") + tail)
    assert read(path) == {f"source/{name}": content for name, content in FILES.items()}
    assert listed(path).warnings == ([f"ignored data after the end of the gzip file `{path}`"] if any(tail) else [])


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_second_tar_behind_the_end_is_ignored_with_a_warning(mode: str, write: Write) -> None:
    path = write(tar_bytes(FILES, mode) + tar_bytes({"n03/d.jpg": b"d"}, mode))
    assert read(path) == {f"source/{name}": content for name, content in FILES.items()}
    assert listed(path).warnings == [f"ignored data after the end of the tar `{path}`"]


def test_a_gzip_of_several_parts_is_read_to_its_end(write: Write) -> None:
    whole = tar_bytes(FILES)
    path = write(gzip.compress(whole[:900]) + gzip.compress(whole[900:]))
    assert read(path) == {f"source/{name}": content for name, content in FILES.items()}
    assert listed(path).warnings == []
    with pytest.raises(DataError, match="is truncated or corrupt"):
        listed(write(gzip.compress(whole[:900]) + b"garbage"))


def test_a_false_checksum_of_a_gzip_is_found(write: Write) -> None:
    content = bytearray(tar_bytes(FILES, "w:gz"))
    content[-8] ^= 1
    with pytest.raises(DataError, match="is truncated or corrupt: CRC check failed"):
        listed(write(bytes(content)))


def test_a_gzip_without_a_tar_is_refused(tmp_path: Path, write: Write) -> None:
    with pytest.raises(DataError, match="does not contain a tar but an HTML page"):
        listed(write(gzip.compress(b"<!doctype html>" + b" " * 600)))


@pytest.mark.parametrize("dialect", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_plain_headers_are_read_as_tarfile_reads_them(dialect: int, write: Write) -> None:
    names = [f"{'a' * n}/{'b' * 20}.jpg" for n in range(60, 120, 3)] + ["é.jpg", "a b.jpg", "n01/x.jpg "]
    path = write(tar_bytes({name: b"x" * (37 * i) for i, name in enumerate(names)}, format=dialect))
    with tarfile.open(path) as archive:
        expected = [(f"source/{m.name}", m.size, m.offset_data) for m in archive]
    listing = listed(path)
    found = [(m.path, m.size, m.where) for m in listing.images]
    assert found == [known for known in expected if known[0].endswith(".jpg")]
    assert len(found) == len(names) - 1


def test_a_tar_without_magic_is_recognised_by_its_checksum() -> None:
    # The oldest dialect has no magic, only a checksum.
    assert is_tar(tar_bytes(FILES).replace(b"ustar", b"\0\0\0\0\0")[:512]) is False
    header = bytearray(tarfile.TarInfo("a").tobuf(tarfile.USTAR_FORMAT))
    header[257:265] = bytes(8)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    assert is_tar(bytes(header))
    assert not is_tar(b"x" * 512)
    assert not is_tar(b"")


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_header_of_a_terabyte_is_refused(kind: bytes, write: Write) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, 2**40
    with pytest.raises(DataError, match=r"invalid header at byte 0 \(it has 1,099,511,627,776 bytes\)"):
        listed(write(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)))
