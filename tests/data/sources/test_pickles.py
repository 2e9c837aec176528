import contextlib
import io
import os
import pickle
import subprocess
import sys
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest

from nilr.data.sources import unpickling
from nilr.data.sources.containers import list_sources
from nilr.data.sources.members import fetch_all
from nilr.errors import DataError, StoreError
from tests.data.sources.arrays import read_pickle_arrays

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 84, 84, 3), np.uint8)
CLASSES = {"n02": [0, 1, 2], "n01": [3, 4, 5]}


def save(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2's protocol 2 wrote: text and bytes alike as byte strings, and numpy's old module names."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_text(self, text: str | bytes) -> None:
        raw = text if isinstance(text, bytes) else text.encode("latin-1")
        self.write(b"U" + bytes([len(raw)]) + raw if len(raw) < 256 else b"T" + len(raw).to_bytes(4, "little") + raw)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_text

    def save_global(self, obj: type, name: str | None = None) -> None:
        module = obj.__module__.replace("numpy._core", "numpy.core")
        self.write(f"c{module}\n{obj.__name__}\n".encode())
        self.memoize(obj)


def save_as_python2(path: Path, content: object) -> Path:
    buffer = io.BytesIO()
    Python2Pickler(buffer, 2).dump(content)
    path.write_bytes(buffer.getvalue().replace(b"cbuiltins\n", b"c__builtin__\n"))
    return path


def assert_is_the_cache(path: Path) -> None:
    found = read_pickle_arrays(path)
    assert list(found.classes) == ["n01", "n02"]
    np.testing.assert_array_equal(found.classes["n01"], IMAGES[3:])
    np.testing.assert_array_equal(found.classes["n02"], IMAGES[:3])


@pytest.mark.parametrize("protocol", range(6))
def test_a_cache_pickle_is_read_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    path = save(tmp_path / "mini-imagenet-cache-val.pkl", {"image_data": IMAGES, "class_dict": CLASSES}, protocol)
    assert_is_the_cache(path)
    assert read_pickle_arrays(path).split_hint == "val"


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    assert_is_the_cache(save_as_python2(tmp_path / "x.pkl", {"image_data": IMAGES, "class_dict": CLASSES}))


def test_python_loads_the_python_2_pickle_of_these_tests(tmp_path: Path) -> None:
    path = save_as_python2(tmp_path / "x.pkl", {"image_data": IMAGES, "labels": [1, 2]})
    content = pickle.loads(path.read_bytes(), encoding="latin1")
    np.testing.assert_array_equal(content["image_data"], IMAGES)
    assert content["labels"] == [1, 2]


@pytest.mark.parametrize(
    "class_dict",
    [
        OrderedDict(CLASSES),
        defaultdict(list, CLASSES),
        {name: np.array(indices) for name, indices in CLASSES.items()},
        {name: tuple(indices) for name, indices in CLASSES.items()},
        {name: [np.int64(index) for index in indices] for name, indices in CLASSES.items()},
        {name.encode(): indices for name, indices in CLASSES.items()},
    ],
    ids=["OrderedDict", "defaultdict", "arrays", "tuples", "numpy integers", "bytes"],
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_indices_may_come_in_any_plain_container(tmp_path: Path, class_dict: object, protocol: int) -> None:
    assert_is_the_cache(save(tmp_path / "x.pkl", {"image_data": IMAGES, "class_dict": class_dict}, protocol))


@pytest.mark.parametrize("data", [IMAGES, np.asfortranarray(IMAGES), list(IMAGES)], ids=["array", "fortran", "list"])
@pytest.mark.parametrize("labels", [[64, 65, 64, 65, 64, 64], np.array([64, 65, 64, 65, 64, 64], ">i4")])
def test_a_category_split_pickle_is_read(tmp_path: Path, data: object, labels: object) -> None:
    path = tmp_path / "miniImageNet_category_split_val.pickle"
    found = read_pickle_arrays(save(path, {"data": data, "labels": labels}))
    assert found.split_hint == "val"
    assert list(found.classes) == ["val-class064", "val-class065"]
    np.testing.assert_array_equal(found.classes["val-class064"], IMAGES[[0, 2, 4, 5]])
    np.testing.assert_array_equal(found.classes["val-class065"], IMAGES[[1, 3]])


def test_category_names_are_used_if_present(tmp_path: Path) -> None:
    content = {"data": IMAGES, "labels": [0, 0, 1, 1, 1, 1], "catname2label": {"n07": 0, "n03": 1}}
    found = read_pickle_arrays(save_as_python2(tmp_path / "x.pickle", content))
    assert {name: len(images) for name, images in found.classes.items()} == {"n03": 4, "n07": 2}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("mini-imagenet-cache-train.pkl", "train"),
        ("miniImageNet_category_split_train_phase_train.pickle", "train"),
        ("miniImageNet_category_split_test.pickle", "test"),
        ("images.pkl", None),
    ],
)
def test_the_split_is_taken_from_the_file_name(tmp_path: Path, name: str, split: str | None) -> None:
    assert read_pickle_arrays(save(tmp_path / name, {"data": IMAGES, "labels": [0] * 6})).split_hint == split


@pytest.mark.parametrize("phase", ["train_phase_val", "train_phase_test"])
def test_further_images_of_the_training_classes_are_refused(tmp_path: Path, phase: str) -> None:
    with pytest.raises(DataError, match="further images of the training classes"):
        read_pickle_arrays(tmp_path / f"miniImageNet_category_split_{phase}.pickle")


class Hostile:
    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "inside"])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path, protocol: int, inside: bool) -> None:
    hostile = Hostile(os.mkdir, str(tmp_path / "ran"))
    content = {"image_data": IMAGES, "class_dict": {"a": [hostile]}} if inside else hostile
    with pytest.raises(DataError, match=r"x.pkl` contains `\w+\.mkdir`") as caught:
        read_pickle_arrays(save(tmp_path / "x.pkl", content, protocol))
    assert "could run code" in str(caught.value.hint)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"(S'echo'\nios\nsystem\n.", "os.system"),
        (b"cbuiltins\neval\n(S'1'\ntR.", "builtins.eval"),
        (b"\x80\x02cnumpy\nload\n.", "numpy.load"),
        (b"\x80\x04\x8c\x05numpy\x8c\x04load\x93.", "numpy.load"),
        (b"\x80\x02Pid\n.", "the instruction PERSID"),
        (b"\x80\x02K\x01Q.", "the instruction BINPERSID"),
        (b"\x80\x02\x82\x01.", "the instruction EXT1"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "the instruction NEWOBJ"),
        (b"\x80\x05\x97.", "the instruction NEXT_BUFFER"),
        (b"\x80\x02ccollections\nOrderedDict\n}b.", None),
        (b"\x80\x02]K\x01\x85R.", None),
        (b"\x80\x02ccopyreg\n_reconstructor\n.", "copyreg._reconstructor"),
    ],
)
def test_no_instruction_reaches_beyond_arrays_and_containers(tmp_path: Path, content: bytes, named: str | None) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"contains `{named}`" if named else "damaged pickle"):
        read_pickle_arrays(path)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02})" + b"\x85" * 3 * 10**5 + b"K\x01s.",
        b"\x80\x02ccollections\nOrderedDict\n](]()" + b"\x85" * 3 * 10**5 + b"K\x01eea\x85R.",
    ],
    ids=["dict", "OrderedDict"],
)
def test_a_key_of_many_nested_tuples_does_not_crash_python(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(DataError, match="damaged pickle"):
        read_pickle_arrays(tmp_path / "x.pkl")


def test_an_array_of_objects_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pkl", {"data": np.array([{}, []], dtype=object), "labels": [0, 1]})
    with pytest.raises(DataError, match="an array of dtype O8"):
        read_pickle_arrays(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html><html><title>Sign in</title>", "an HTML page"),
        (b"\n<html>", "an HTML page"),
        (b"PK\x03\x04", "a zip archive"),
        (b"", "an empty file"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    ],
)
def test_the_error_for_another_file_says_what_it_is(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "mini-imagenet-cache-train.pkl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"train.pkl` is {what}, not a pickle"):
        read_pickle_arrays(path)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_cut_anywhere_is_refused(tmp_path: Path, protocol: int) -> None:
    whole = pickle.dumps({"image_data": IMAGES[:, :8, :8], "class_dict": CLASSES}, protocol)
    path = tmp_path / "x.pkl"
    for stop in (*range(1, 200, 7), len(whole) // 2, len(whole) - 40, len(whole) - 1):
        path.write_bytes(whole[:stop])
        with pytest.raises(DataError, match="is a truncated or damaged pickle"):
            read_pickle_arrays(path)


SHORTENED = """
import os, pickletools, sys
from pathlib import Path
from tests.data.sources.arrays import read_pickle_arrays
from nilr.errors import DataError

genops = pickletools.genops

def shorten(file):
    for number, operation in enumerate(genops(file)):
        if number == 3:
            os.truncate(sys.argv[1], 4096)
        yield operation

pickletools.genops = shorten
try:
    read_pickle_arrays(Path(sys.argv[1]))
except DataError as error:
    print(error.message)
"""


def test_a_pickle_that_becomes_shorter_while_it_is_read_does_not_kill_the_process(tmp_path: Path) -> None:
    images = np.zeros((100, 84, 84, 3), np.uint8)
    path = save(tmp_path / "x.pkl", {"class_dict": {"n01": [0]}, "image_data": images})
    done = subprocess.run([sys.executable, "-c", SHORTENED, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"`{path}` is a truncated or damaged pickle, or not a pickle"


def test_a_pickle_that_changes_between_listing_and_reading_is_an_error(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pkl", {"image_data": IMAGES, "class_dict": CLASSES})
    images = list_sources([path]).images
    save(path, {"image_data": IMAGES, "class_dict": {"n02": [0]}})
    with pytest.raises(DataError, match=r"`.*x\.pkl` was changed while it was read"):
        list(fetch_all(images))


@pytest.mark.parametrize("opcode", [b"\x8e", b"\x8d", b"\x96", b"\x95"], ids=["bytes", "text", "bytearray", "frame"])
def test_a_length_beyond_the_file_takes_no_memory(tmp_path: Path, opcode: bytes) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x05" + opcode + (2**40).to_bytes(8, "little") + b"abc.")
    with pytest.raises(DataError, match="pickle"):
        read_pickle_arrays(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # by pickletools, of odd escapes
def test_a_damaged_byte_gives_no_other_error_than_data_error(tmp_path: Path) -> None:
    whole = pickle.dumps({"image_data": IMAGES[:, :2, :2], "class_dict": CLASSES}, 4)
    path = tmp_path / "x.pkl"
    for place in range(len(whole)):
        for value in (0, ord("R"), ord("b"), 0x95, 0xFF):
            path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            with contextlib.suppress(DataError):
                read_pickle_arrays(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "contains a list, not images"),
        ({"image_data": IMAGES, "other": 1}, "contains a dict of image_data, other, not"),
        ({}, "a dict of nothing"),
        (IMAGES, "contains an array"),
        ({"image_data": IMAGES.astype(np.float32), "class_dict": CLASSES}, r"float32 of shape \(6, 84, 84, 3\)"),
        ({"image_data": IMAGES[:, :, :, :2], "class_dict": CLASSES}, r"uint8 of shape \(6, 84, 84, 2\)"),
        ({"image_data": IMAGES[0], "class_dict": CLASSES}, r"of shape \(84, 84, 3\)"),
        ({"image_data": IMAGES[:0], "class_dict": CLASSES}, r"of shape \(0, 84, 84, 3\)"),
        ({"image_data": "no", "class_dict": CLASSES}, "image_data is float64 of shape"),
        ({"image_data": [b"png", 1], "class_dict": CLASSES}, "a list of 2 items that are not uint8 images"),
        ({"image_data": [IMAGES[0], IMAGES[1, :4]], "class_dict": CLASSES}, "a list of 2 items that are not"),
        ({"image_data": IMAGES, "class_dict": [1]}, "class_dict is a list, not a dict"),
        ({"image_data": IMAGES, "class_dict": {}}, "no classes"),
        ({"image_data": IMAGES, "class_dict": {"a": []}}, "no image of class `a`"),
        ({"image_data": IMAGES, "class_dict": {"a": [6]}}, "class `a` has an index outside the 6 images"),
        ({"image_data": IMAGES, "class_dict": {"a": [-1]}}, "class `a` has an index outside the 6 images"),
        ({"image_data": IMAGES, "class_dict": {"a": [1.5]}}, "class_dict contains values that are not integers"),
        ({"image_data": IMAGES, "class_dict": {"a": [2**80]}}, "a number beyond 64 bits"),
        ({"image_data": IMAGES, "class_dict": {"a": [1], "b": [1]}}, "an image is listed twice"),
        ({"data": IMAGES, "labels": [1, 2]}, "2 labels for 6 images"),
        ({"data": IMAGES, "labels": "abcdef"}, "0 labels for 6 images"),
    ],
)
def test_a_pickle_in_another_form_is_refused_with_its_content(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_pickle_arrays(save(tmp_path / "x.pkl", content))


def test_a_missing_pickle_is_reported(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot read `.*x.pkl`: no such file"):
        read_pickle_arrays(tmp_path / "x.pkl")


def test_a_pickle_of_more_instructions_than_a_million_labels_take_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(unpickling, "_MAX_OPERATIONS", 1000)
    with pytest.raises(DataError, match="more than 1,000 instructions"):
        read_pickle_arrays(save(tmp_path / "x.pkl", [None] * 1000))
