"""A corpus of hostile files: each is refused with one clear error, writes no other file, and uses few resources.

Every entry of `CORPUS` writes its file into a directory and reads it as a command would.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from nilr.checkpoint import load_checkpoint, read_manifest
from nilr.config.models import ImportSettings
from nilr.config.packs import PrepareDataSettings
from nilr.config.results import ReportSettings
from nilr.data.pack import PackInfo, verify_pack
from nilr.data.pack_writer import PackWriter
from nilr.errors import NilrError
from nilr.meta.algorithms import ALGORITHMS
from nilr.recipes import prepare_data, report
from nilr.recipes.common.loading import load_model
from nilr.recipes.models import importing
from nilr.reporting import SilentReporter
from nilr.store import Store
from nilr.tensorfile import serialize
from nilr.training_state import load_training_state
from tests.data.sources.arrays import read_pickle_arrays
from tests.faults import hostile_sources
from tests.faults.conftest import Nilr

Case = Callable[[Path], object]
CORPUS: dict[str, Case] = {}
ROOT = Path(__file__).parents[2]


def png(width: int = 8, height: int = 8, data: bytes | None = None, *, extra: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = zlib.compress(b"\0" * (height * (width * 3 + 1))) if data is None else data
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def pack_source(source: Path) -> None:
    """Pack a source, which must fail, and check that no pack was made."""
    home = source.parent / "home"
    settings = PrepareDataSettings(sources=(source,), name="x", image_size=8, home=home)
    try:
        prepare_data.run(settings, SilentReporter())
    except NilrError:
        assert [path for path in home.rglob("*") if path.is_file() and path.parent.name != "locks"] == []
        raise


# --- pickles


class Call:
    """Pickles as a call: of `exec`, which would leave a file, or with a state that is set by BUILD."""

    def __init__(self, code: str, state: object = None) -> None:
        self.code, self.state = code, state

    def __reduce__(self) -> tuple[object, ...]:
        return (exec, (self.code,)) if self.state is None else (Call, (self.code,), self.state)


def pickled(content: bytes) -> Case:
    def read(place: Path) -> object:
        (place / "x.pkl").write_bytes(content)
        return read_pickle_arrays(place / "x.pkl")

    return read


RAN = "open('ran', 'w')"
for protocol in range(6):
    CORPUS[f"pickle: exec by reduce, protocol {protocol}"] = pickled(pickle.dumps([Call(RAN)], protocol))
    CORPUS[f"pickle: state by build, protocol {protocol}"] = pickled(pickle.dumps({"a": Call("", {"b": 1})}, protocol))
PICKLES: dict[str, bytes] = {
    "extension of two bytes": b"\x80\x02\x83\x01\x00.",
    "extension of four bytes": b"\x80\x02\x84\x01\x00\x00\x00.",
    "object with keywords": b"\x80\x04\x8c\x02os\x8c\x06system\x93)}\x92.",
    "object of a class": b"(cos\nsystem\nS'true'\no.",
    "a module with dots": b"\x80\x04\x8c\x06os.pat\x8c\x0b__dict__.os\x93.",
    "a name that is no text": b"\x80\x04K\x01K\x02\x93.",
    "a name by the memo": b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94h\x00h\x01\x93.",
    "persistent id in a list": b"\x80\x02]K\x01Qa.",
    "codecs to another encoding": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x86R.",
    "a long of 2 GiB": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "a string of 4 GiB": b"\x80\x02X\xff\xff\xff\xff.",
    "a memo of a huge index": b"\x80\x02K\x01r\xff\xff\xff\xffh\x05.",
    "a number of a million digits": b"I" + b"9" * 10**6 + b"\n.",
    "many marks": b"\x80\x02" + b"(" * 10**5 + b".",
    "a list in many lists": b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".",
    "a list within itself": b"\x80\x02]q\x00h\x00a.",
    "a tuple of a million tuples as key": b"\x80\x02})" + b"\x85" * 10**6 + b"K\x01s.",
    "an empty stack": b"\x80\x02.",
    "no end": b"\x80\x02]",
    "a later protocol": b"\x80\x63N.",
    "an array of a huge shape": (
        b"\x80\x02cnumpy.core.numeric\n_frombuffer\n(U\x00cnumpy\ndtype\nU\x02u1\x85RJ\xff\xff\xff\x7fJ\xff\xff\xff\x7f"
        b"\x86U\x01CtR."
    ),
    "an array of negative size": (
        b"\x80\x02cnumpy.core.numeric\n_frombuffer\n(U\x01acnumpy\ndtype\nU\x02u1\x85R"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86U\x01CtR."
    ),
}
CORPUS |= {f"pickle: {name}": pickled(content) for name, content in PICKLES.items()}


# --- archives


def tarred(*members: tuple[tarfile.TarInfo, bytes]) -> Case:
    def read(place: Path) -> None:
        with tarfile.open(place / "x.tar", "w", format=tarfile.GNU_FORMAT) as archive:
            for info, content in members:
                info.size = len(content) if info.isreg() else info.size
                archive.addfile(info, io.BytesIO(content))
        pack_source(place / "x.tar")

    return read


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


GOOD = (member("train/a/0.png"), png())
for name in ("../outside.png", "/outside.png", "a/../../outside.png"):
    CORPUS[f"tar: {name}"] = tarred(GOOD, (member(name), png()))
for what, kind, to in (
    ("symbolic link out", tarfile.SYMTYPE, "/etc/passwd"),
    ("symbolic link up", tarfile.SYMTYPE, "../../secret.png"),
    ("hard link out", tarfile.LNKTYPE, "../secret.png"),
    ("character device", tarfile.CHRTYPE, ""),
    ("block device", tarfile.BLKTYPE, ""),
    ("fifo", tarfile.FIFOTYPE, ""),
):
    CORPUS[f"tar: {what}"] = tarred(GOOD, (member("train/a/1.png", kind, linkname=to), b""))


def sparse_tar(place: Path) -> None:
    info = member("train/a/1.png", tarfile.GNUTYPE_SPARSE)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:398], header[398:410], header[483:495] = b"00000000000\0", b"00000001000\0", b"77777777777\0"
    header[124:136] = b"00000001000\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (place / "x.tar").write_bytes(bytes(header) + b"x" * 512 + b"\0" * 1024)
    pack_source(place / "x.tar")


CORPUS["tar: a sparse member of 8 GiB"] = sparse_tar


def nested_tars(place: Path) -> None:
    """Nest a thousand tars of half a kilobyte each."""
    inner = member("a/0.png", size=len(png())).tobuf() + png().ljust(512, b"\0")
    size, heads = len(inner), []
    for _ in range(1000):
        heads.append(member("a/x.tar", size=size).tobuf())
        size += len(heads[-1])
    (place / "x.tar").write_bytes(b"".join(reversed(heads)) + inner + bytes(1024))
    pack_source(place / "x.tar")


def many_long_names(place: Path) -> None:
    """Write a thousand consecutive headers, each of which names the next one."""
    head = member("././@LongLink", tarfile.GNUTYPE_LONGNAME, size=5).tobuf() + b"name".ljust(512, b"\0")
    (place / "x.tar").write_bytes(head * 1000 + member("train/a/0.png").tobuf() + bytes(1024))
    pack_source(place / "x.tar")


def class_in_table(place: Path) -> None:
    """Name an image's class in 100,000 letters, as each other class's name would then take as much room."""
    source = place / "source"
    source.mkdir()
    for name, label in {"train": "a" * 100_000, "val": "b", "test": "c"}.items():
        (source / f"{name}.csv").write_text(f"filename,label\n{name}.png,{label}\n")
        (source / f"{name}.png").write_bytes(png())
    pack_source(source)


CORPUS |= {
    "tar: a thousand tars in one another": nested_tars,
    "tar: a thousand long names in a row": many_long_names,
    "tar: a file's name of a megabyte": tarred((member(f"train/a/{'n' * 2**20}.png"), png())),
    "tar: a class's name of 300 letters": tarred((member(f"train/{'n' * 300}/0.png"), png())),
    "table: a class's name of 100,000 letters": class_in_table,
}


def gzip_bomb(place: Path) -> None:
    import gzip

    with gzip.open(place / "x.tar.gz", "wb", compresslevel=1) as file:
        file.write(member("train/a/0.png", size=300 * 2**20).tobuf(tarfile.GNU_FORMAT))
        for _ in range(300):
            file.write(bytes(2**20))
        file.write(bytes(1024))
    pack_source(place / "x.tar.gz")


CORPUS["tar: a gzip of 300 MiB of zeros"] = gzip_bomb


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes]) -> Case:
    def read(place: Path) -> None:
        with zipfile.ZipFile(place / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members:
                archive.writestr(name, content)
        pack_source(place / "x.zip")

    return read


def mode(name: str, bits: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = bits << 16
    return info


for name in ("../outside.png", "/outside.png", "a/../../outside.png"):
    CORPUS[f"zip: {name}"] = zipped(("train/a/0.png", png()), (name, png()))
CORPUS["zip: symbolic link"] = zipped(("train/a/0.png", png()), (mode("train/a/1.png", 0o120777), b"/etc/passwd"))


def zip_bomb(place: Path) -> None:
    with (
        zipfile.ZipFile(place / "x.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("train/a/0.png", "w", force_zip64=True) as file,
    ):
        for _ in range(300):
            file.write(bytes(2**20))
    pack_source(place / "x.zip")


def lying_zip(place: Path) -> None:
    """Write a member that declares 16 bytes and unpacks to 200 MiB."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("train/a/0.png", bytes(200 * 2**20))
    raw = content.getvalue().replace(struct.pack("<I", 200 * 2**20), struct.pack("<I", 16))
    (place / "x.zip").write_bytes(raw)
    pack_source(place / "x.zip")


def overlapping_zip(place: Path) -> None:
    """Let two entries of the directory refer to the same bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("train/a/0.png", png())
        archive.writestr("train/a/1.png", png())
        archive.filelist[1].header_offset = archive.filelist[0].header_offset
    (place / "x.zip").write_bytes(content.getvalue())
    pack_source(place / "x.zip")


CORPUS |= {
    "zip: 300 MiB of zeros": zip_bomb,
    "zip: a size that lies": lying_zip,
    "zip: overlapping members": overlapping_zip,
}


# --- arrays, Parquet files, archives in archives, lists of classes


def written(write: hostile_sources.Write) -> Case:
    return lambda place: pack_source(write(place))


CORPUS |= {name: written(write) for name, write in hostile_sources.CASES.items()}


# --- images


def imaged(content: bytes) -> Case:
    def read(place: Path) -> None:
        (place / "source" / "train" / "a").mkdir(parents=True)
        (place / "source" / "train" / "a" / "0.png").write_bytes(content)
        pack_source(place / "source")

    return read


IMAGES: dict[str, bytes] = {
    "PNG of 2 billion x 2 billion": png(2**31 - 1, 2**31 - 1, b""),
    "PNG of 30,000 x 30,000": png(30_000, 30_000, zlib.compress(b"")),
    "PNG of no width": png(0, 8, zlib.compress(b"")),
    "PNG without its pixels": png(8, 8, b""),
    "PNG cut short": png()[:44],
    "PNG whose pixels are no zlib": png(8, 8, b"abcdefgh"),
    "GIF of 65,535 x 65,535": b"GIF89a\xff\xff\xff\xff\x00\x00\x00,\x00\x00\x00\x00\xff\xff\xff\xff\x00\x08\x01\x00;",
    "BMP of 2 billion rows": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 8, 2**31 - 1, 1, 24, *[0] * 6),
    "PPM of a lying size": b"P6 60000 60000 255\n" + b"x" * 12,
    "TIFF whose directory is itself": b"II*\x00\x08\x00\x00\x00\x00\x00\x08\x00\x00\x00",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(ran) (w) file\n",
}
CORPUS |= {f"image: {name}": imaged(content) for name, content in IMAGES.items()}


# --- packs


def packed(damage: Callable[[h5py.File], object]) -> Case:
    def read(place: Path) -> object:
        path = place / "x.h5"
        writer = PackWriter.create(path, PackInfo("x", 8, "bilinear", source="", licence=""), {"train": {"a": 1}})
        with writer as pack:
            pack.write_class("train", "a", np.zeros((1, 8, 8, 3), np.uint8), ["0.png"])
        with h5py.File(path, "r+") as file:
            damage(file)
        return verify_pack(path)

    return read


def moved(link: object) -> Callable[[h5py.File], None]:
    def damage(file: h5py.File) -> None:
        file.move("train", "away") if isinstance(link, h5py.SoftLink) else file.pop("train")
        file["train"] = link

    return damage


PACKS: dict[str, Callable[[h5py.File], object]] = {
    "external link to a split": moved(h5py.ExternalLink("/etc/passwd", "/train")),
    "external link to itself": moved(h5py.ExternalLink("x.h5", "/train")),
    "soft link to a split": moved(h5py.SoftLink("/away")),
    "split within itself": lambda file: file["train"].__setitem__("more", file["train"]),
    "size that is text": lambda file: file.attrs.__setitem__("image_size", "8"),
    "size of 2^62": lambda file: file.attrs.__setitem__("image_size", 2**62),
    "negative size": lambda file: file.attrs.__setitem__("image_size", -8),
    "size that is an array": lambda file: file.attrs.__setitem__("image_size", np.arange(9)),
    "version that is a float": lambda file: file.attrs.__setitem__("format_version", 1.0),
    "format that is a megabyte": lambda file: file.create_dataset("train/x", data=np.bytes_(b"x" * 2**20)),
    "digest that is no hex": lambda file: file["train"].attrs.__setitem__("digest", np.bytes_(b"x" * 64)),
    "attribute of 60 kB": lambda file: file.attrs.__setitem__("digest", np.bytes_(b"0" * 60_000)),
    "name that is a path": lambda file: file.attrs.__setitem__("name", np.bytes_(b"../../x")),
    "name of 60 kB": lambda file: file.attrs.__setitem__("name", np.bytes_(b"x" * 60_000)),
    "reference for a name": lambda file: file.attrs.__setitem__("digest", file["train"].ref),
}
CORPUS |= {f"pack: {name}": packed(damage) for name, damage in PACKS.items()}


# --- checkpoints


def header(text: bytes | str, size: int | None = None) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(raw) if size is None else size) + raw


def stored(content: bytes, read: Callable[[Path], object] = load_checkpoint) -> Case:
    def write(place: Path) -> object:
        (place / "last.safetensors").write_bytes(content)
        return read(place / "last.safetensors")

    return write


def lying(**entry: Any) -> str:
    return json.dumps({"__metadata__": {"nilr": "{}", "nilr_sha256": ""}, "w": entry})


HEADERS: dict[str, bytes] = {
    "a header of 2^63 bytes": header("{}", 2**63),
    "a header longer than the file": header("{}", 1000),
    "a header of nothing": header(""),
    "a header of 10 MB of blanks": header(b" " * 10**7),
    "a header that is a list": header("[]"),
    "a header that is no UTF-8": header(b"\xff\xfe"),
    "offsets beyond the file": header(lying(dtype="F32", shape=[4], data_offsets=[0, 2**40])),
    "offsets that go back": header(lying(dtype="F32", shape=[1], data_offsets=[4, 0])) + bytes(4),
    "a shape of 2^80": header(lying(dtype="F32", shape=[2**40, 2**40], data_offsets=[0, 4])) + bytes(4),
    "a negative shape": header(lying(dtype="F32", shape=[-1], data_offsets=[0, 4])) + bytes(4),
    "a dtype that is a number": header(lying(dtype=5, shape=[1], data_offsets=[0, 4])) + bytes(4),
}
CORPUS |= {f"safetensors: {name}": stored(content) for name, content in HEADERS.items()}

MANIFEST: dict[str, Any] = {
    "architecture": {"name": "conv4", "arguments": {"n_way": 2, "image_size": 16, "filters": 1}},
    "algorithm": ALGORITHMS["maml"].to_stored(),
    "settings": {},
    "data": {"name": "x", "digest": "0" * 64, "image_size": 16},
    "outer_step": 1,
    "metrics": {},
    "engine": "explicit",
    "parent": None,
    "saved_at": "2026-01-01T00:00:00.000000+00:00",
}


def sealed(read: Callable[[Path], object] = read_manifest, **change: Any) -> Case:
    return stored(serialize("nilr/checkpoint", MANIFEST | change, {"params/w": torch.zeros(1)}), read)


def rebuild(path: Path) -> object:
    return load_model(Store(path.parent), str(path), device=torch.device("cpu"), engine="auto")


MANIFESTS: dict[str, dict[str, Any]] = {
    "an unknown field": {"surprise": 1},
    "an update that is text": {"outer_step": "one"},
    "an update of 0.5": {"outer_step": 0.5},
    "settings that are a list": {"settings": [1]},
    "metrics that are null": {"metrics": None},
    "a parent that is a number": {"parent": 5},
    "data named by a path": {"data": MANIFEST["data"] | {"name": "/etc/passwd"}},
    "data without a digest": {"data": {"name": "x"}},
    "a day that is none": {"saved_at": "2026-13-41T99:00:00Z"},
    "an engine that is a list": {"engine": []},
}
CORPUS |= {f"manifest: {name}": sealed(**change) for name, change in MANIFESTS.items()}


def built(**arguments: Any) -> Case:
    full = {"n_way": 2, "image_size": 16, "filters": 1} | arguments
    return sealed(rebuild, architecture={"name": "conv4", "arguments": full})


CORPUS |= {
    "manifest: a billion filters": built(filters=10**9),
    "manifest: a billion classes": built(n_way=10**12),
    "manifest: images of 2^60 px": built(image_size=2**60),
    "manifest: filters of text": built(filters="many"),
    "manifest: negative filters": built(filters=-1),
    "manifest: no filters": built(filters=0),
    "manifest: an argument too many": built(surprise=1),
    "manifest: inner steps of text": sealed(rebuild, algorithm=MANIFEST["algorithm"] | {"inner_steps": "x"}),
}
CORPUS |= {
    f"state: {name}": stored(content, load_training_state)
    for name, content in {
        "values that are a list": serialize("nilr/training-state", {"values": []}, {}),
        "a checkpoint in its place": serialize("nilr/checkpoint", MANIFEST, {}),
    }.items()
}


# --- names and results

for what, name in {
    "newline": "a\nb",
    "markup": "[red]a[/red]<b>",
    "terminal's escape": "\x1b[2J",
    "zero byte": "a\0b",
    "300 bytes": "a" * 300,
    "parent": "..",
    "way out": "../x",
    "way from the root": "/etc/passwd",
    "right-to-left mark": "a\u202eb",
    "hidden": ".x",
    "option": "-rf",
    "nothing": "",
}.items():
    CORPUS[f"name: {what}, of a model"] = lambda place, name=name: Store(place / "home").model_dir(name)  # type: ignore[misc]
    CORPUS[f"name: {what}, of a pack"] = lambda place, name=name: Store(place / "home").dataset_path(name)  # type: ignore[misc]


def reported(text: str) -> Case:
    def read(place: Path) -> object:
        path = place / "x.json"
        path.write_text(text, encoding="utf-8")
        settings = ReportSettings(results=(path,), out=place / "out.html", home=place / "home")
        try:
            return report.run(settings, SilentReporter())
        finally:
            assert not (place / "out.html").exists()

    return read


RESULTS: dict[str, str] = {
    "infinity": '{"schema": "nilr/probe/1", "metrics": Infinity}',
    "a number of 10,000 digits": '{"schema": ' + "9" * 10_000 + "}",
    "objects in objects": '{"a":' * 50_000,
    "a schema that leads out": '{"schema": "nilr/../1"}',
    "a schema of two lines": '{"schema": "nilr/probe/1\\n"}',
    "models that are text": '{"schema": "nilr/probe/1", "command": "probe", "models": "all"}',
    "half a surrogate": '{"schema": "\\ud800"}',
}
CORPUS |= {f"result: {name}": reported(text) for name, text in RESULTS.items()}


# --- state dicts of other libraries


def imported(content: bytes, name: str = "x.pt") -> Case:
    def read(place: Path) -> None:
        (place / name).write_bytes(content)
        home = place / "home"
        settings = ImportSettings(sources=(place / name,), image_size=16, inner_lr=0.1, inner_steps=1, home=home)
        try:
            importing.run(settings, SilentReporter())
        except NilrError:
            assert not (home / "models").exists()
            raise

    return read


def saved(value: object, **options: Any) -> bytes:
    content = io.BytesIO()
    torch.save(value, content, **options)
    return content.getvalue()


def network() -> dict[str, torch.Tensor]:
    state = {"classifier.weight": torch.ones(2, 2), "classifier.bias": torch.ones(2)}
    for i in range(1, 5):
        state[f"layer{i}.0.weight"] = torch.ones(2, 2 if i > 1 else 3, 3, 3)
        state |= {f"layer{i}.1.weight": torch.ones(2), f"layer{i}.1.bias": torch.ones(2)}
    return state


def with_pickle(pickled: bytes, *, compressed: bool = False) -> bytes:
    """Return a file of torch.save with another pickle in it."""
    content = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(io.BytesIO(saved(network()))) as old, zipfile.ZipFile(content, "w", kind) as new:
        for info in old.infolist():
            new.writestr(info.filename, pickled if info.filename.endswith("data.pkl") else old.read(info))
    return content.getvalue()


def rebuilt(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    """Return a pickle of a tensor of this size in a storage of four numbers."""

    numbers = torch.ones(4).untyped_storage()
    storage = torch.storage.TypedStorage(wrap_storage=numbers, dtype=torch.float32, _internal=True)

    class Stored:
        def __reduce__(self) -> tuple[object, ...]:
            return torch._utils._rebuild_tensor_v2, (storage, offset, size, stride, False, {})

    return saved({"layer1.0.weight": Stored()})


def header_of(entries: object, data: bytes = b"\0" * 8) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


for protocol in (2, 4):
    CORPUS[f"state dict: exec by reduce, protocol {protocol}"] = imported(pickle.dumps({"a": Call(RAN)}, protocol))
    CORPUS[f"state dict: exec in a zip, protocol {protocol}"] = imported(
        with_pickle(pickle.dumps({"a": Call(RAN)}, protocol))
    )
    CORPUS[f"state dict: state by build, protocol {protocol}"] = imported(
        with_pickle(pickle.dumps({"model": Call("", {"b": 1})}, protocol))
    )
CORPUS |= {f"state dict: pickle, {name}": imported(with_pickle(content)) for name, content in PICKLES.items()}
CORPUS |= {f"state dict: bare pickle, {name}": imported(content) for name, content in PICKLES.items()}
CORPUS |= {
    "state dict: compressed": imported(with_pickle(pickle.dumps({}), compressed=True)),
    "state dict: cut": imported(saved(network())[:-200]),
    "state dict: half a file": imported(saved(network())[:500]),
    "state dict: legacy, cut": imported(saved(network(), _use_new_zipfile_serialization=False)[:-50]),
    "state dict: no pickle in the zip": imported(b"PK\x05\x06" + bytes(18)),
    "state dict: a tensor of a million million elements": imported(rebuilt((10**6, 10**6), (0, 0))),
    "state dict: a tensor beyond its storage": imported(rebuilt((4,), (1,), 2)),
    "state dict: a negative size": imported(rebuilt((-1, 2), (1, 1))),
    "state dict: a negative stride": imported(rebuilt((2,), (-1,))),
    "state dict: a name of two lines": imported(saved(network() | {"a\nerror: b\x1b[31m": torch.ones(1)})),
    "state dict: a name of a million letters": imported(saved(network() | {"a" * 10**6: torch.ones(1)})),
    "state dict: numbers as names": imported(saved({1: torch.ones(1)})),
    "state dict: a pointer of Git LFS": imported(b"version https://git-lfs.github.com/spec/v1\n"),
    "state dict: nothing": imported(b""),
    "state dict: safetensors, a header beyond the file": imported(struct.pack("<Q", 2**62) + b"{", "x.safetensors"),
    "state dict: safetensors, overlapping tensors": imported(
        header_of({n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"}), "x.safetensors"
    ),
    "state dict: safetensors, a huge shape": imported(
        header_of({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}), "x.safetensors"
    ),
    "state dict: safetensors, no tensor": imported(header_of({}, b""), "x.safetensors"),
}


def try_all(place: Path, names: list[str]) -> dict[str, str]:
    """Return what went wrong, by name: an error of another kind, none at all, an unclear one, or a file elsewhere."""
    wrong: dict[str, str] = {}
    (place / "secret.png").write_bytes(png())
    for i, name in enumerate(names):
        inside = place / str(i) / "in"
        inside.mkdir(parents=True)
        os.chdir(inside)
        try:
            CORPUS[name](inside)
            wrong[name] = "it was taken"
        except NilrError as error:
            if not error.message or error.message.endswith(".") or len(error.message) > 2000:
                wrong[name] = f"unclear: {error.message[:300]}"
        except Exception as error:
            wrong[name] = f"{type(error).__name__}: {str(error)[:300]}"
        if [path.name for path in inside.parent.iterdir()] != ["in"] or (inside / "ran").exists():
            wrong[name] = "it wrote elsewhere"
    if sorted(path.name for path in place.iterdir()) != sorted([*map(str, range(len(names))), "secret.png"]):
        wrong["place"] = "something was written beside"
    return wrong


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", sorted({name.partition(":")[0] for name in CORPUS}))
def test_every_hostile_input_is_refused_with_one_clear_error(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [name for name in CORPUS if name.partition(":")[0] == kind]
    assert try_all(tmp_path, names) == {}
    record_property("hostile inputs refused", len(names))


@pytest.mark.slow
def test_the_whole_corpus_is_read_in_little_memory(tmp_path: Path) -> None:
    """Read the corpus in one process, which may use at most 512 MiB more memory than after its imports."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.test_hostile", str(tmp_path)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == {}


def test_the_same_input_without_the_hostile_part_is_accepted(tmp_path: Path) -> None:
    harmless = {
        "tar": tarred(GOOD),
        "zip": zipped(("train/a/0.png", png())),
        "image": imaged(png()),
        "pack": packed(lambda _: None),
        "manifest": sealed(),
        "state dict": imported(saved(network())),
    }
    for name, case in harmless.items():
        (tmp_path / name).mkdir()
        case(tmp_path / name)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", ["x.pkl", "x.tar", "x.zip", "x.png"])
def test_the_command_line_refuses_it_in_two_lines(nilr: Nilr, name: str, tmp_path: Path) -> None:
    content = {
        "x.pkl": PICKLES["a tuple of a million tuples as key"],
        "x.tar": b"a/../../x".ljust(512, b"\0"),
        "x.zip": b"PK\x03\x04" + b"\xff" * 100,
        "x.png": IMAGES["PNG of 30,000 x 30,000"],
    }[name]
    (tmp_path / name).write_bytes(content)
    done = nilr(f"prepare-data {name} --name x", tmp_path, status=1)
    lines = [line for line in done.err.splitlines() if line.startswith(("error: ", "hint: "))]
    assert lines[0].startswith("error: ")
    assert "internal" not in lines[0]
    assert "Traceback" not in done.err


def test_the_corpus_holds_at_least_sixty_inputs() -> None:
    assert len(CORPUS) >= 60


if __name__ == "__main__":
    import resource

    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 512 * 2**20, resource.RLIM_INFINITY))
    torch.set_num_threads(1)
    sys.stdout.write(json.dumps(try_all(Path(sys.argv[1]), list(CORPUS))))
