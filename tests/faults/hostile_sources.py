"""Hostile arrays, Parquet files and nested archives for test_hostile.py: each writes its files into a directory."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Write = Callable[[Path], Path]
CASES: dict[str, Write] = {}

IMAGES = np.zeros((4, 8, 8, 3), np.uint8)
LABELS = np.array([0, 0, 1, 1])


class Call:
    """Pickles as a call of `exec`, which would leave a file."""

    def __reduce__(self) -> tuple[object, ...]:
        return exec, ("open('ran', 'w')",)


def npy(header: bytes, body: bytes = b"", version: bytes = b"\x01\x00", size: int | None = None) -> bytes:
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(header) if size is None else size)
    return b"\x93NUMPY" + version + length + header + body


def described(shape: object, descr: object = "|u1", fortran: bool = False) -> bytes:
    return repr({"descr": descr, "fortran_order": fortran, "shape": shape}).encode() + b"\n"


def npz(**entries: bytes | np.ndarray) -> Write:
    def write(place: Path) -> Path:
        with zipfile.ZipFile(place / "x.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, value in entries.items():
                buffer = io.BytesIO()
                if isinstance(value, bytes):
                    buffer.write(value)
                else:
                    np.lib.format.write_array(buffer, value, allow_pickle=True)
                archive.writestr(f"{name}.npy", buffer.getvalue())
        return place / "x.npz"

    return write


def large_image(place: Path) -> Path:
    path = npz(labels=LABELS[:1])(place)
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("images.npy", "w") as file,
    ):
        file.write(npy(described((1, 10_240, 10_240, 3))))
        for _ in range(300):
            file.write(bytes(2**20))
    return place / "x.npz"


def single(content: bytes, name: str = "images.npy") -> Write:
    def write(place: Path) -> Path:
        (place / name).write_bytes(content)
        return place / name

    return write


OBJECTS = np.array([Call(), Call(), Call(), Call()], dtype=object)
CASES |= {
    "npz: images that are objects": npz(images=OBJECTS, labels=LABELS),
    "npz: labels that are objects": npz(images=IMAGES, labels=OBJECTS),
    "npz: names that are objects": npz(images=IMAGES, labels=LABELS, class_names=OBJECTS),
    "npz: records": npz(images=IMAGES, labels=np.zeros(4, [("a", "u1"), ("b", "O")])),
    "npz: floats": npz(images=IMAGES.astype(np.float32), labels=LABELS),
    "npz: labels of fractions": npz(images=IMAGES, labels=LABELS + 0.5),
    "npz: fewer labels": npz(images=IMAGES, labels=LABELS[:3]),
    "npz: labels without names": npz(images=IMAGES, labels=LABELS + 5, class_names=np.array(["a", "b"])),
    "npz: no labels": npz(images=IMAGES),
    "npz: nothing": npz(),
    "npz: an entry of nothing": npz(images=b"", labels=LABELS),
    "npz: a huge shape": npz(images=npy(described((2**40, 8, 8, 3)), b"x"), labels=LABELS),
    "npz: a shape of 2^80": npz(images=npy(described((2**40, 2**40)), b"x"), labels=LABELS),
    "npz: a negative shape": npz(images=npy(described((-1, 8, 8, -3)), bytes(192)), labels=LABELS),
    "npz: a shape of text": npz(images=npy(described("4, 8, 8, 3"), bytes(768)), labels=LABELS),
    "npz: labels of 128 MiB": npz(images=IMAGES, labels=np.zeros(2**24, np.int64)),
    "npz: an image of 300 MiB": large_image,
    "npz: in Fortran order": npz(images=np.asfortranarray(np.ones((4, 8, 8, 3), np.uint8)), labels=LABELS),
    "npz: no zip": single(b"PK\x03\x04" + b"\xff" * 100, "x.npz"),
    "npy: a header that is code": single(npy(b"__import__('os').system('touch ran')\n", bytes(8))),
    "npy: a header of 4 GiB": single(npy(b"{", bytes(8), b"\x02\x00", 2**32 - 1)),
    "npy: a header that is deep": single(npy(b"(" * 5000 + b"\n", bytes(8))),
    "npy: another version": single(npy(described((4, 8, 8, 3)), bytes(768), b"\x09\x00")),
    "npy: cut short": single(npy(described((4, 8, 8, 3)), bytes(700))),
    "npy: no labels": single(npy(described((4, 8, 8, 3)), bytes(768))),
    "npy: a dtype of zero bytes": single(npy(described((4, 8, 8, 3), "|S0"))),
    "npy: a dtype that is a list": single(npy(described((4, 8, 8, 3), [("a", "|u1", (2**40,))]))),
}


def beside(labels: object) -> Write:
    """Write images beside a pickle of their labels."""

    def write(place: Path) -> Path:
        (place / "source").mkdir()
        np.save(place / "source" / "train_images.npy", IMAGES)
        (place / "source" / "train_labels.pkl").write_bytes(
            labels if isinstance(labels, bytes) else pickle.dumps(labels)
        )
        return place / "source"

    return write


CASES |= {
    "labels: exec in a pickle": beside([Call()]),
    "labels: a list in many lists": beside(b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"."),
    "labels: a dict of objects": beside({"labels": OBJECTS}),
    "labels: text of a huge width": beside(b"\x80\x02cnumpy\ndtype\nU\x05U9999\x85R."),
    "labels: names that are numbers": beside({"labels": LABELS.tolist(), "label_specific_str": [1, 2]}),
    "labels: names that are a dict of lists": beside({"labels": LABELS.tolist(), "catname2label": {"a": [0]}}),
    "labels: cut short": beside(pickle.dumps(LABELS)[:-20]),
}


def parquet(table: pa.Table, cut: Callable[[bytes], bytes] = bytes, **how: Any) -> Write:
    def write(place: Path) -> Path:
        buffer = io.BytesIO()
        pq.write_table(table, buffer, **how)
        (place / "train.parquet").write_bytes(cut(buffer.getvalue()))
        return place / "train.parquet"

    return write


def table(images: Any = (b"x",) * 4, labels: Any = (0, 0, 1, 1), names: object = None, **columns: Any) -> pa.Table:
    made = pa.table({"image": images, "label": labels, **columns})
    info = {"info": {"features": {"label": {"names": names}}}}
    return made.replace_schema_metadata({"huggingface": json.dumps(info)}) if names else made


BLOB = b"\x89PNG" + bytes(4 * 2**20)
CASES |= {
    "parquet: images that are no images": parquet(table()),
    "parquet: images that are text": parquet(table(["a"] * 4)),
    "parquet: images that are lists": parquet(table([[1]] * 4)),
    "parquet: images that are missing": parquet(table(pa.array([None] * 4, pa.binary()))),
    "parquet: images elsewhere": parquet(table([{"bytes": None, "path": "/etc/passwd"}] * 4)),
    "parquet: labels that are missing": parquet(table(labels=[0, None, 1, 1])),
    "parquet: labels that are fractions": parquet(table(labels=[0.5] * 4)),
    "parquet: labels without names": parquet(table(labels=[0, 0, -1, 7], names=["a", "b"])),
    "parquet: no labels": parquet(pa.table({"image": [b"x"] * 4})),
    "parquet: no rows": parquet(table(pa.array([], pa.binary()), pa.array([], pa.int64()))),
    "parquet: ten million rows of nothing": parquet(
        table(pa.nulls(10**7, pa.binary()), pa.array(np.zeros(10**7, np.int64))), row_group_size=10**7
    ),
    "parquet: one image of 4 MiB in 100 rows": parquet(
        table(
            pa.DictionaryArray.from_arrays(pa.array(np.zeros(100, np.int32)), pa.array([BLOB])).cast(pa.binary()),
            [0] * 100,
        )
    ),
    "parquet: metadata that is deep": parquet(
        table().replace_schema_metadata({"huggingface": '{"info":' * 50_000}), lambda raw: raw
    ),
    "parquet: cut short": parquet(table(), lambda raw: raw[:-30]),
    "parquet: a footer of 2 GiB": parquet(table(), lambda raw: raw[:-8] + struct.pack("<I", 2**31 - 1) + b"PAR1"),
    "parquet: a footer of noise": parquet(table(), lambda raw: raw[:-40] + b"\xff" * 32 + raw[-8:]),
    "parquet: pages of noise": parquet(table(), lambda raw: raw[:4] + b"\xff" * 60 + raw[64:]),
    "parquet: encrypted": single(b"PARE" + b"\xff" * 100 + b"PARE", "x.parquet"),
}


def nested(*layers: Callable[[bytes], tuple[str, bytes]]) -> Write:
    """Write archives around an image, the first layer innermost."""

    def write(place: Path) -> Path:
        content = b"\x89PNG\r\n\x1a\n"
        for layer in layers:
            name, content = layer(content)
        (place / name).write_bytes(content)
        return place / name

    return write


def in_zip(name: str) -> Callable[[bytes], tuple[str, bytes]]:
    def wrap(content: bytes) -> tuple[str, bytes]:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr(name, content)
        return "x.zip", buffer.getvalue()

    return wrap


def in_tar(name: str) -> Callable[[bytes], tuple[str, bytes]]:
    def wrap(content: bytes) -> tuple[str, bytes]:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        return "x.tar.gz", buffer.getvalue()

    return wrap


def cut(content: bytes) -> tuple[str, bytes]:
    return "x", content[: len(content) // 2]


def zeros(_: bytes) -> tuple[str, bytes]:
    return "x", bytes(200 * 2**20)


def lying(content: bytes) -> tuple[str, bytes]:
    """Let the outer zip declare 16 bytes for its member."""
    _, raw = in_zip("train.zip")(content)
    return "x.zip", raw.replace(struct.pack("<I", len(content)), struct.pack("<I", 16))


CASES |= {
    "nested: a zip in a zip in a zip": nested(in_zip("train/a/0.png"), in_zip("a.zip"), in_zip("b.zip")),
    "nested: a zip in a tar in a zip": nested(in_zip("train/a/0.png"), in_tar("a.zip"), in_zip("b.tar.gz")),
    "nested: out of the inner zip": nested(in_zip("../../outside.png"), in_zip("train.zip")),
    "nested: out of the inner tar": nested(in_tar("../outside.png"), in_zip("train.tar.gz")),
    "nested: half a zip": nested(in_zip("train/a/0.png"), cut, in_zip("train.zip")),
    "nested: half a tar": nested(in_tar("train/a/0.png"), cut, in_zip("train.tar.gz")),
    "nested: zeros called a zip": nested(zeros, in_zip("train.zip")),
    "nested: 200 MiB of zeros in a zip in a zip": nested(zeros, in_zip("train/a/0.png"), in_zip("train.zip")),
    "nested: a size that lies": nested(in_zip("train/a/0.png"), lying),
}


def listed(text: bytes) -> Write:
    """Write an image beside a list of classes."""

    def write(place: Path) -> Path:
        (place / "source" / "val" / "images").mkdir(parents=True)
        (place / "source" / "val" / "images" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        (place / "source" / "val" / "val_annotations.txt").write_bytes(text)
        return place / "source"

    return write


CASES |= {
    "list: a class that leads out": listed(b"0.png\t../../x\n"),
    "list: a class of the zero byte": listed(b"0.png\ta\0b\n"),
    "list: a class of 100,000 letters": listed(b"0.png\t" + b"a" * 100_000),
    "list: no text": listed(b"\xff\xfe\x00" * 10),
    "list: an image in two classes": listed(b"0.png\ta\n0.png\tb\n"),
    "list: an image that is missing": listed(b"0.png\ta\n1.png\tb\n"),
}
