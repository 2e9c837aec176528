import hashlib
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nilr.checkpoint import load_checkpoint
from nilr.data.pack import verify_pack
from nilr.data.sources.annotations import sort_annotated
from nilr.data.sources.array_files import ArrayFile, read_images
from nilr.data.sources.members import Listing, Member
from nilr.data.sources.parquet import ParquetReader
from nilr.data.sources.splits import match_split_files, read_split_files
from nilr.errors import NilrError
from tests.data.sources.arrays import in_memory, read_pickle_arrays
from tests.fuzz import targets
from tests.fuzz.sums import lookup3, repaired
from tests.fuzz.targets import CORPUS, TARGETS, BrokenPromiseError

FILES = sorted(path for path in CORPUS.glob("*/*"))
PACK = CORPUS / "pack" / "seed_pack"


@pytest.fixture
def bounded() -> Iterator[None]:
    """Let the process take 1 GiB more than it has, so that a pack that wants all memory does not get it."""
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (has + 2**30, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_every_target_has_a_corpus_and_all_of_it_is_small() -> None:
    assert {path.parent.name for path in FILES} == set(TARGETS)
    assert sum(path.stat().st_size for path in FILES) < 200_000


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory of a process is read from /proc")
@pytest.mark.timeout(20)
@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_file_of_the_corpus_breaks_a_promise(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("path", sorted(CORPUS.glob("pickle/seed_by_*")), ids=lambda path: path.name)
def test_the_valid_pickles_are_read(path: Path) -> None:
    classes = read_pickle_arrays(path).classes
    assert {name: images.shape for name, images in classes.items()} == {"a": (2, 2, 2, 3), "b": (2, 2, 2, 3)}


def test_the_valid_pack_and_checkpoints_are_read(tmp_path: Path) -> None:
    assert verify_pack(PACK).info.image_size == 2
    for name in ("seed_file", "seed_sealed", "seed_sealed_adapted"):
        content = (CORPUS / "manifest" / name).read_bytes()
        path = tmp_path / name
        path.write_bytes(content[1:] if content[:1] == b"f" else targets.seal(content[1:]))
        assert load_checkpoint(path).manifest.engine == "explicit"


@pytest.mark.parametrize("path", sorted(CORPUS.glob("pickle/found_*")), ids=lambda path: path.name)
def test_the_pickles_that_were_found_are_refused(path: Path) -> None:
    with pytest.raises(NilrError):
        read_pickle_arrays(path)


def test_the_parquet_files_that_were_found_are_refused_or_read(tmp_path: Path) -> None:
    """One lacks images that it declares; PyArrow ends the process when it reads the metadata of the other's columns."""
    with pytest.raises(NilrError, match="images are missing"):
        read_rows(CORPUS / "parquet" / "found_images_missing")
    read_rows(CORPUS / "parquet" / "found_statistics_that_end_the_process")


@pytest.mark.parametrize("path", sorted(CORPUS.glob("parquet/seed_*")), ids=lambda path: path.name)
def test_the_valid_parquet_files_are_read(path: Path) -> None:
    assert read_rows(path) == {
        "x/a/x-000000": b"\x89PNG",
        "x/a/x-000001": b"\x89PNG",
        "x/b/x-000002": b"\x89PNG",
        "x/b/x-000003": b"\x89PNG",
    }


@pytest.mark.parametrize("path", sorted(CORPUS.glob("array/seed_*")), ids=lambda path: path.name)
def test_the_valid_arrays_are_read(path: Path, tmp_path: Path) -> None:
    name = "x.npz" if path.read_bytes()[:1] == b"z" else "x.npy"
    (tmp_path / name).write_bytes(path.read_bytes()[1:])
    for images in read_images(ArrayFile(name, tmp_path / name)):
        assert sum(len(indices) for indices in images.classes.values()) == len(images.rows) == 4


def test_the_valid_tables_are_read() -> None:
    for name, folders in (("annotations", "0101"), ("split", None), ("split_paths", None)):
        content = (CORPUS / "table" / f"seed_{name}").read_bytes()[1:]
        images = [Member(f"x/images/a{i}.JPEG", 1, targets.NO_READER, None) for i in range(4)]
        if folders:
            listing = Listing(images=images, annotations={"x/val_annotations.txt": content})
            sort_annotated(listing)
            assert [image.path for image in listing.images] == [
                f"x/n0000000{c}/a{i}.JPEG" for i, c in enumerate(folders)
            ]
        else:
            matched = match_split_files(read_split_files({"train.csv": content}, "x"), images)
            found = {label: [i.filename for i in of_label] for label, of_label in matched.splits["train"].items()}
            expected = {"split": [["a0.JPEG", "a2.JPEG"], ["a1.JPEG", "a3.JPEG"]]}
            assert list(found.values()) == expected.get(name, [["a0.JPEG"], ["a1.JPEG", "a2.JPEG"]])


def test_the_valid_cifar_pickle_is_read() -> None:
    classes = read_pickle_arrays(CORPUS / "pickle" / "seed_cifar").classes
    first = np.arange(3072).astype(np.uint8).reshape(3, 32, 32).transpose(1, 2, 0)
    assert np.array_equal(classes["class001"][0], first)


def read_rows(path: Path) -> dict[str, object]:
    reader, listing = (
        ParquetReader([ArrayFile("x.parquet", path.with_name("x.parquet"), in_memory(path))], "x"),
        Listing(),
    )
    reader.list_into(listing)
    return {member.path: payload for member, payload in reader.fetch(listing.images)}


@pytest.mark.parametrize("path", sorted(CORPUS.glob("manifest/found_*")), ids=lambda path: path.name)
def test_the_manifests_that_were_found_are_refused(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "last.safetensors"
    file.write_bytes(targets.seal(path.read_bytes()[1:]))
    with pytest.raises(NilrError, match="a manifest that nilr did not write"):
        load_checkpoint(file)


def test_the_pack_that_took_all_memory_is_refused_before_hdf5_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("h5py.File", lambda *_, **__: pytest.fail("HDF5 reads it"))
    with pytest.raises(NilrError, match="not a pack written by nilr"):
        verify_pack(CORPUS / "pack" / "found_heap_without_end")


@pytest.mark.parametrize(
    ("reader", "promise"),
    [
        (lambda *_: Path(__file__).with_suffix(".csv").read_bytes(), "opens"),
        (lambda *_: [object()], "holds a object"),
    ],
    ids=["a file elsewhere", "an object"],
)
def test_a_broken_promise_is_noticed(monkeypatch: pytest.MonkeyPatch, reader: object, promise: str) -> None:
    monkeypatch.setattr(targets, "load_plain", reader)
    with pytest.raises(BrokenPromiseError, match=promise):
        targets.read_pickle(b"")


def test_checksums_are_those_of_hdf5(tmp_path: Path) -> None:
    # the value that Bob Jenkins's lookup3.c names for this text
    assert lookup3(b"Four score and seven years ago") == 0x17770551
    recorded, path = hashlib.sha256(np.array([0, 0, 1], "<i8")).hexdigest().encode(), tmp_path / "x.h5"
    changed = PACK.read_bytes().replace(recorded, b"0" * 64)
    path.write_bytes(changed)
    with pytest.raises(NilrError, match="structure cannot be read"):
        verify_pack(path)
    path.write_bytes(repaired(changed))
    with pytest.raises(NilrError, match="SHA-256 differs"):
        verify_pack(path)
    assert repaired(repaired(changed)[:44] + bytes(4) + repaired(changed)[48:]) == repaired(changed)  # the superblock's
