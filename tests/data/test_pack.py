import errno
import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from nilr.data.pack import Counts, PackInfo, open_pack, verify_pack
from nilr.data.pack_writer import PackWriter
from nilr.errors import DataError, NilrError, StoreError
from nilr.files import remove_stale

S = 8
LAYOUT = {"train": {"cat": 3, "ant": 2}, "test": {"bee": 2}}


def pixels(*values: int) -> np.ndarray:
    """One image per value, every pixel of that value."""
    return np.stack([np.full((S, S, 3), value, np.uint8) for value in values])


def writer(
    path: Path, layout: dict[str, dict[str, int]] | None = None, size: int = S
) -> AbstractContextManager[PackWriter]:
    info = PackInfo("pets", size, "bilinear", source="class folders", licence="")
    return PackWriter.create(path, info, LAYOUT if layout is None else layout)


def write_pack(path: Path) -> Path:
    with writer(path) as pack:
        pack.write_class("test", "bee", pixels(30, 31), ["é.png", "b.png"])
        pack.write_class("train", "cat", pixels(1, 2, 3), ["1.png", "2.png", "3.png"])
        pack.write_class("train", "ant", pixels(20, 21), ["x.png", "y.png"])
    return path


@pytest.fixture
def pack_path(tmp_path: Path) -> Path:
    return write_pack(tmp_path / "pets.h5")


def sha(value: int) -> bytes:
    return hashlib.sha256(bytes([value]) * (S * S * 3)).digest()


def test_an_incomplete_pack_stays_locked_until_its_final_rename(tmp_path: Path) -> None:
    seen: list[list[str]] = []
    rename = Path.replace

    def replace(self: Path, target: Path) -> Path:
        remove_stale(tmp_path)  # as another process does that writes in this directory
        rename(self, target)
        remove_stale(tmp_path)
        seen.append([entry.name for entry in tmp_path.iterdir()])
        return target

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with writer(tmp_path / "pets.h5", {"train": {"cat": 3}}) as pack:
            pack.write_class("train", "cat", pixels(1, 2), ["1.png", "2.png"])
    assert [len(names) for names in seen] == [1, 1]
    assert seen[-1] == ["pets.h5"]
    assert verify_pack(tmp_path / "pets.h5").info == pack.info


def test_a_pack_gives_back_what_was_written_grouped_by_class_in_name_order(pack_path: Path) -> None:
    pack = open_pack(pack_path)
    assert pack.splits == ("train", "test")
    assert pack.counts() == {"train": Counts(2, 5), "test": Counts(1, 2)}
    train = pack.open_split("train")
    assert train.class_names == ("ant", "cat")
    assert train.class_sizes == (2, 3)
    ant, cat = sorted([20, 21], key=sha), sorted([1, 2, 3], key=sha)
    np.testing.assert_array_equal([*train.images], pixels(*ant, *cat))
    assert train.filenames() == [{20: "x", 21: "y"}.get(v, str(v)) + ".png" for v in ant + cat]
    assert set(pack.open_split("test").filenames()) == {"é.png", "b.png"}


def test_a_pack_contains_its_attributes(pack_path: Path) -> None:
    info = verify_pack(pack_path).info
    expected = PackInfo("pets", 8, "bilinear", "class folders", "", info.created_at, info.digest)
    assert info == expected
    assert info.created_at.endswith("+00:00")


def test_a_pack_of_an_earlier_version_counts_as_stretched_and_an_unknown_preparation_is_refused(
    pack_path: Path,
) -> None:
    def change(**attributes: object) -> None:
        with h5py.File(pack_path, "r+") as file:
            for name, value in attributes.items():
                del file.attrs[name]
                if value is not None:
                    file.attrs[name] = value

    with h5py.File(pack_path) as file:
        assert (file.attrs["fit"], file.attrs["channels"]) == (b"stretch", 3)
    change(fit=None, channels=None)
    assert (open_pack(pack_path).info.fit, open_pack(pack_path).info.channels) == ("stretch", 3)
    change(resample=np.bytes_(b"magic"))
    with pytest.raises(DataError, match="its images were prepared in an unknown way"):
        open_pack(pack_path)


def test_the_content_digest_is_the_documented_one(pack_path: Path) -> None:
    def joined(*parts: bytes) -> bytes:
        return hashlib.sha256(b"".join(parts)).digest()

    ant = joined(*sorted([sha(20), sha(21)]))
    cat = joined(*sorted([sha(1), sha(2), sha(3)]))
    bee = joined(*sorted([sha(30), sha(31)]))
    expected = joined(b"train\0", joined(*sorted([ant, cat])), b"test\0", joined(bee))
    assert open_pack(pack_path).info.digest == expected.hex()


def test_the_content_digest_depends_on_splits_but_not_on_names_or_order(pack_path: Path, tmp_path: Path) -> None:
    digest = open_pack(pack_path).info.digest
    with writer(tmp_path / "renamed.h5", {"test": {"0": 2}, "train": {"0": 3, "1": 2}}) as renamed:
        renamed.write_class("train", "0", pixels(3, 1, 2), ["a", "b", "c"])
        renamed.write_class("train", "1", pixels(21, 20), ["d", "e"])
        renamed.write_class("test", "0", pixels(31, 30), ["f", "g"])
    assert renamed.info.digest == open_pack(tmp_path / "renamed.h5").info.digest == digest
    with writer(tmp_path / "moved.h5", {"val": {"bee": 2}, "train": LAYOUT["train"]}) as moved:
        moved.write_class("train", "cat", pixels(1, 2, 3), ["a", "b", "c"])
        moved.write_class("train", "ant", pixels(20, 21), ["d", "e"])
        moved.write_class("val", "bee", pixels(30, 31), ["f", "g"])
    assert moved.info.digest != digest


def test_the_same_pixels_give_the_same_rows_whatever_order_they_came_in(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, S, S, 3), np.uint8)
    rows = []
    for order in (range(9), reversed(range(9))):
        chosen = list(order)
        with writer(tmp_path / "x.h5", {"train": {"a": 9}}) as pack:
            pack.write_class("train", "a", images[chosen], [f"{i}" for i in chosen])
        split = open_pack(tmp_path / "x.h5").open_split("train")
        rows.append((np.array([*split.images]).tobytes(), split.filenames()))
    assert rows[0] == rows[1]


def test_images_that_are_not_written_leave_no_gap(tmp_path: Path) -> None:
    path = tmp_path / "short.h5"
    with writer(path, {"train": {"a": 4, "b": 3}, "val": {"c": 2}}) as pack:
        pack.write_class("train", "b", pixels(7, 8, 9), ["7", "8", "9"])
        pack.write_class("val", "c", pixels(5), ["5"])
        pack.write_class("train", "a", pixels(1, 2), ["1", "2"])
    assert verify_pack(path).info == pack.info
    train = open_pack(path).open_split("train")
    assert train.class_sizes == (2, 3)
    np.testing.assert_array_equal([*train.images], pixels(*sorted([1, 2], key=sha), *sorted([7, 8, 9], key=sha)))
    assert [file.name for file in tmp_path.iterdir()] == ["short.h5"]


def test_a_disk_that_returns_other_bytes_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pread = os.pread
    monkeypatch.setattr("os.pread", lambda *where: pread(*where).replace(b"\2\2\2\2", b"\2\2\2\6", 1))
    with pytest.raises(DataError, match="class `cat` of split `train` reads back differently from what was written"):
        write_one(tmp_path / "x.h5", pixels(1, 2, 3))
    assert not list(tmp_path.iterdir())


def test_duplicate_pairs_are_found_within_and_across_splits_each_once(tmp_path: Path) -> None:
    with writer(tmp_path / "x.h5", {"train": {"a": 3, "b": 1}, "val": {"c": 2}}) as pack:
        pack.write_class("val", "c", pixels(1, 5), ["c1", "c5"])
        pack.write_class("train", "b", pixels(9), ["b9"])
        pack.write_class("train", "a", pixels(1, 2, 1), ["a2", "a3", "a1"])
        pairs = pack.duplicate_pairs()
    one, two, three = ("train", "a", "a1"), ("train", "a", "a2"), ("val", "c", "c1")
    assert pairs == [(one, two), (one, three), (two, three)]


def test_images_are_read_at_any_positions(pack_path: Path) -> None:
    images = open_pack(pack_path).open_split("train").images
    in_order = np.array([*images])
    np.testing.assert_array_equal(images.read([4, 0, 0, 3]), in_order[[4, 0, 0, 3]])
    assert images.read([]).shape == (0, S, S, 3)


def test_a_pack_that_is_truncated_while_it_is_open_is_an_error(pack_path: Path) -> None:
    images = open_pack(pack_path).open_split("train").images
    os.truncate(pack_path, 1000)
    for read in (lambda: images.read([4]), lambda: list(images)):
        with pytest.raises(DataError, match="was truncated while it was in use"):
            read()


def test_a_disk_that_cannot_be_read_is_an_error(pack_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    images = open_pack(pack_path).open_split("train").images
    monkeypatch.setattr("os.pread", fail)
    with pytest.raises(StoreError, match=r"cannot read .*input/output error"):
        images.read([0])


def test_a_pack_that_is_replaced_while_it_is_open_keeps_its_images(pack_path: Path) -> None:
    images = open_pack(pack_path).open_split("train").images
    before = np.array([*images])
    other = pack_path.with_name("other")
    other.write_bytes(b"another file")
    other.replace(pack_path)
    np.testing.assert_array_equal([*images], before)


def test_a_pack_has_checksums_and_opens_under_the_lock_of_another_process(pack_path: Path) -> None:
    assert pack_path.read_bytes()[:9] == b"\x89HDF\r\n\x1a\n\x02"  # the superblock's version 2 has a checksum
    with pack_path.open("rb+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert open_pack(pack_path).info.name


def test_names_that_are_not_utf8_are_kept_readable(tmp_path: Path) -> None:
    with writer(tmp_path / "x.h5", {"train": {"a": 1}}) as pack:
        pack.write_class("train", "a", pixels(1), ["\udcff\0.png"])
    assert open_pack(tmp_path / "x.h5").open_split("train").filenames() == ["\\udcff\\0.png"]


def interrupted(path: Path) -> None:
    with writer(path) as pack:
        pack.write_class("train", "cat", pixels(1, 2, 3), ["1", "2", "3"])
        raise KeyboardInterrupt


def test_an_error_while_writing_leaves_the_old_pack_and_no_other_file(pack_path: Path) -> None:
    before = pack_path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        interrupted(pack_path)
    assert pack_path.read_bytes() == before
    assert list(pack_path.parent.iterdir()) == [pack_path]


def write_one(path: Path, *images: np.ndarray, planned: int = 3) -> None:
    with writer(path, {"train": {"cat": planned}}) as pack:
        for each in images:
            pack.write_class("train", "cat", each, [str(i) for i in range(len(each))])


@pytest.mark.parametrize("images", [[], [pixels(1)[:0]]], ids=["never written", "empty"])
def test_a_class_without_images_is_refused_by_name(tmp_path: Path, images: list[np.ndarray]) -> None:
    with pytest.raises(DataError, match="class `cat` of split `train`"):
        write_one(tmp_path / "x.h5", *images)
    assert not list(tmp_path.iterdir())


def test_a_layout_without_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no classes"), writer(tmp_path / "x.h5", {"train": {}}):
        pass


@pytest.mark.parametrize("images", [pixels(1, 2, 3, 4), pixels(1)[:, :4], pixels(1).astype(np.float32)])
def test_images_that_do_not_fit_the_layout_raise_value_error(tmp_path: Path, images: np.ndarray) -> None:
    with pytest.raises(ValueError, match="cat"):
        write_one(tmp_path / "x.h5", images)


def test_writing_a_class_twice_raises_value_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cat has already been written"):
        write_one(tmp_path / "x.h5", pixels(1), pixels(1))


def test_too_little_space_is_reported_before_writing(tmp_path: Path) -> None:
    layout = {"train": {"a": 10**9}}
    with (
        pytest.raises(
            StoreError, match=r"not enough disk space for the pack: it needs 3,145,728,000.0 MB in .* MB are free"
        ),
        writer(tmp_path / "x.h5", layout, size=1024),
    ):
        pass
    assert not list(tmp_path.iterdir())


# 307,200 bytes of images, 800 of labels and 100 of file names: it fills up in each, and in HDF5's own structures.
@pytest.mark.parametrize("room", [100_000, 307_300, 308_500, 309_500])
def test_a_disk_that_fills_up_while_writing_leaves_nothing(tmp_path: Path, room: int) -> None:
    script = (
        "import resource, sys, numpy as np; from pathlib import Path\n"
        "from nilr.data.pack import PackInfo; from nilr.data.pack_writer import PackWriter\n"
        "from nilr.errors import StoreError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)\n"
        "images = np.ones((100, 32, 32, 3), np.uint8)\n"
        "try:\n"
        "    with PackWriter.create(Path(sys.argv[1]), PackInfo('x', 32, 'box', '', ''), {'train': {'a': 100}}) as w:\n"
        "        w.write_class('train', 'a', images, ['x'] * 100)\n"
        "except StoreError as e: sys.exit(f'StoreError {e}')\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "x.h5"), str(room)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"StoreError cannot write `{tmp_path / 'x.h5'}`: file too large"), done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html>sign in</html>", "an HTML page"),
        (b"PK\x03\x04rest", "a zip archive"),
        (b"filename,label\n", "a text file"),
        (bytes(3000), "only zero bytes"),
    ],
)
def test_the_error_for_another_file_says_what_it_is(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"x.h5` is {what}, not a pack") as caught:
        open_pack(path)
    assert "`prepare-data`" in str(caught.value.hint)


def test_a_missing_pack_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no pack at"):
        open_pack(tmp_path / "x.h5")
    with pytest.raises(DataError, match="is a directory"):
        open_pack(tmp_path)


def test_a_foreign_hdf5_file_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["images"] = np.zeros(3)
    with pytest.raises(DataError, match="not a pack written by nilr"):
        open_pack(tmp_path / "x.h5")


@pytest.mark.parametrize(("version", "hint"), [(2, "upgrade nilr"), (0, "pack the data again")])
def test_another_format_version_is_refused_with_both_numbers(pack_path: Path, version: int, hint: str) -> None:
    with h5py.File(pack_path, "r+") as file:
        file.attrs["format_version"] = version
    with pytest.raises(
        DataError, match=f"has pack format {version}, but this version of nilr reads format 1"
    ) as caught:
        open_pack(pack_path)
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize("missing", [1, 1000])
def test_a_truncated_pack_is_refused(pack_path: Path, missing: int) -> None:
    content = pack_path.read_bytes()
    pack_path.write_bytes(content[:-missing])
    with pytest.raises(DataError, match="is truncated"):
        open_pack(pack_path)


@pytest.mark.parametrize("name", ["images", "filenames"])
def test_a_flipped_bit_in_a_split_is_refused_with_its_name(pack_path: Path, name: str) -> None:
    with h5py.File(pack_path, "r+") as file:
        dataset = file["train"][name]
        offset = dataset.id.get_offset() + dataset.nbytes // 2
    flip(pack_path, offset)
    pack = open_pack(pack_path)
    with pytest.raises(DataError, match=f"the {name} of split `train` .* changed since they were written"):
        pack.open_split("train")
    pack.open_split("test")
    with pytest.raises(DataError, match="changed since they were written"):
        verify_pack(pack_path)


def test_every_flipped_bit_is_harmless_or_a_nilr_error(pack_path: Path) -> None:
    original = pack_path.read_bytes()
    before = contents(pack_path)
    for offset in range(0, len(original), 11):
        flip(pack_path, offset)
        try:
            verify_pack(pack_path)
            assert contents(pack_path) == before  # a gap in the file
        except NilrError:
            pass
        pack_path.write_bytes(original)


def contents(path: Path) -> list[Any]:
    pack = open_pack(path)
    splits = [pack.open_split(name) for name in pack.splits]
    return [
        pack.info,
        *((s.class_names, s.class_sizes, s.filenames(), np.array([*s.images]).tobytes()) for s in splits),
    ]


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 4]))


def test_a_wrong_digest_is_refused(pack_path: Path) -> None:
    with h5py.File(pack_path, "r+") as file:
        images = file["train/images"]
        images[0] = 99
        file["train"].attrs["images_sha256"] = np.bytes_(hashlib.sha256(images[()].tobytes()).hexdigest().encode())
    with pytest.raises(DataError, match="the digest of split `train` does not match its images"):
        verify_pack(pack_path)
    with h5py.File(pack_path, "r+") as file:
        file["train"].attrs["digest"] = np.bytes_(b"0" * 64)
    with pytest.raises(DataError, match="its content digest does not match its splits"):
        open_pack(pack_path)


def chunked(group: h5py.Group) -> None:
    images = group["images"][()]
    del group["images"]
    group.create_dataset("images", data=images, chunks=True, compression="gzip")


def external_storage(group: h5py.Group) -> None:
    shape = group["images"].shape
    del group["images"]
    group.create_dataset("images", shape, "u1", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def virtual(group: h5py.Group) -> None:
    images = group["images"][()]
    del group["images"]
    group.create_virtual_dataset("images", h5py.VirtualLayout(images.shape, "u1"))


def linked(link: object) -> Callable[[h5py.Group], None]:
    def damage(group: h5py.Group) -> None:
        del group["images"]
        group["images"] = link

    return damage


def replaced(name: str, array: np.ndarray) -> Callable[[h5py.Group], None]:
    def damage(group: h5py.Group) -> None:
        del group[name]
        group[name] = array

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (chunked, "not one run of bytes"),
        (external_storage, "not one run of bytes"),
        (virtual, "not one run of bytes"),
        (linked(h5py.ExternalLink("other.h5", "/images")), "is not a dataset"),
        (linked(h5py.SoftLink("/test/images")), "is not a dataset"),
        (replaced("images", np.zeros((5, S, S, 3), np.float32)), "images` is float32"),
        (replaced("images", np.zeros((5, S, S), np.uint8)), "of shape"),
        (replaced("images", np.zeros((5, 9, 9, 3), np.uint8)), "of shape"),
        (replaced("labels", np.zeros(5, np.int32)), "labels` is int32"),
        (replaced("labels", np.array([0, 0, 1, 0, 1])), "not in order"),
        (replaced("labels", np.array([0, 0, 1, 1, 2])), "not in order"),
        (replaced("labels", np.array([-1, 0, 1, 1, 1])), "not in order"),
        (replaced("labels", np.zeros(5, np.int64)), "not in order"),
        (replaced("classes", np.array([b"cat", b"ant"])), "not in order"),
        (replaced("classes", np.array([b"cat", b"cat"])), "not in order"),
        (replaced("classes", np.array([b"\xff", b"\xff\xff"])), "cannot be read"),
        (replaced("classes", np.array(b"a")), "not in order|of shape"),
        (replaced("filenames", np.array([b"a", b"b"])), "of shape"),
        (replaced("filenames", np.zeros(5)), "filenames` is float64"),
        (lambda group: group.create_dataset("more", data=1), "contains"),
        (lambda group: group.file.create_group("extra"), "it contains"),
        (lambda group: group.attrs.pop("digest"), "cannot be read"),
    ],
)
def test_an_invalid_structure_is_refused(pack_path: Path, damage: Callable[[h5py.Group], None], message: str) -> None:
    with h5py.File(pack_path, "r+") as file:
        damage(file["train"])
    with pytest.raises(DataError, match=message):
        open_pack(pack_path)


def test_a_missing_split_is_reported_with_the_existing_ones(pack_path: Path) -> None:
    with pytest.raises(DataError, match="has no split `val`; it has train, test"):
        open_pack(pack_path).open_split("val")
