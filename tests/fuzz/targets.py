"""What is fuzzed: readers of files, each with what it promises of whatever it lets through.

A target takes bytes and returns if they were read and the promise holds, or if they were refused with a `NilrError`.
Anything else that it raises is a finding. Nothing here needs atheris; `fuzzer.py` drives the targets with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet  # noqa: F401 - nilr imports it late
import safetensors.torch  # noqa: F401 - nilr imports it late, and torch with it opens files

from nilr.checkpoint import Manifest, load_checkpoint, read_manifest
from nilr.data.pack import open_pack, verify_pack
from nilr.data.sources.annotations import sort_annotated
from nilr.data.sources.array_files import ArrayFile, read_images
from nilr.data.sources.members import Listing, Member, Unreadable
from nilr.data.sources.parquet import ParquetReader
from nilr.data.sources.splits import match_split_files, read_split_files
from nilr.data.sources.unpickling import PickledArray, load_plain
from nilr.errors import NilrError
from tests.data.sources.arrays import read_pickle_arrays
from tests.fuzz.sums import repaired

CORPUS = Path(__file__).parent / "corpus"
NO_READER: Any = None
Manifest.model_rebuild()  # pydantic looks for plugins in all packages when it builds the first schema

_PLACE = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
_CODE = (sys.prefix, sys.base_prefix, str(Path(__file__).parents[2]))  # from where modules are imported late
_FORBIDDEN = re.compile(r"os\.(system|exec|posix_spawn|fork)|subprocess\.|socket\.|pickle\.find_class")


class BrokenPromiseError(Exception):
    """A reader let something through, or did something, that it promises not to."""


def check(holds: object, what: str) -> None:
    if not holds:
        raise BrokenPromiseError(what)


# --- what a reader may touch

_allowed: Path | None = None


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if _allowed is None:
        return
    if event == "open" and isinstance(args[0], str | bytes):
        path = os.fsdecode(args[0])
        is_module = path.startswith(_CODE) and re.search(r"\.(py|pyc|so)(\.\d+)?$", path)
        check(path.startswith(str(_allowed)) or is_module, f"opens {path!r}")
    if _FORBIDDEN.match(event):
        raise BrokenPromiseError(f"{event} {args!r}"[:200])


_watching = False


@contextlib.contextmanager
def within(place: Path) -> Iterator[None]:
    """Let Python open files in this directory alone; HDF5's own calls are not seen."""
    global _allowed, _watching
    if not _watching:
        sys.addaudithook(_watch)  # it stays for as long as the process does, and sleeps outside of this block
        _watching = True
    _allowed = place
    try:
        yield
    finally:
        _allowed = None


@contextlib.contextmanager
def file_of(content: bytes, name: str) -> Iterator[Path]:
    """Lay the bytes into a file alone in a directory, and see that it stays as it is, and alone."""
    with tempfile.TemporaryDirectory(prefix="nilr-fuzz-", dir=_PLACE) as directory:
        path = Path(directory) / name
        path.write_bytes(content)
        with within(path.parent):
            yield path
        check(list(path.parent.iterdir()) == [path] and path.read_bytes() == content, "the directory has changed")


# --- targets


def read_pickle(content: bytes) -> None:
    path = Path("x.pkl")
    try:
        with within(Path("nowhere")):
            check_plain(load_plain(path, content))
            classes = read_pickle_arrays(path, content).classes
    except NilrError:
        return
    check(classes, "no classes")
    for name, images in classes.items():
        check(isinstance(name, str), f"a class's name is {name!r}")
        check(images.dtype == np.uint8 and images.shape[3:] in ((), (3,)), f"images are {images.shape}")
        check(images.size, f"class {name} is empty")


def check_plain(value: object) -> None:
    """See that a value is built of plain containers, text, bytes, numbers and arrays of numbers."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if type(item) is dict:
            waiting += [*item.keys(), *item.values()]
        elif type(item) in (list, tuple):
            waiting += item  # type: ignore[misc]
        elif type(item) is PickledArray:
            check(
                item.value is None or item.value.dtype.kind in "biufSU",
                "an array of something else than numbers and text",
            )
        else:
            check(type(item) in (str, bytes, bytearray, bool, int, float, type(None)), f"holds a {type(item).__name__}")


def read_checkpoint(content: bytes) -> None:
    """Read a checkpoint, given as its bytes (behind an `f`), the text of its header (`h`) or of its manifest (`s`).

    A header gets its length, and a manifest its seals, which no mutation could make.
    """
    wrap = {b"s": seal, b"h": headed}.get(content[:1], bytes)
    raw = wrap(content[1:])
    with file_of(raw, "last.safetensors") as path:
        try:
            manifest = read_manifest(path)
        except NilrError:
            return
        check_manifest(manifest)
        try:
            checkpoint = load_checkpoint(path)
        except NilrError:
            return
        check(checkpoint.manifest == manifest, "the manifest is another one in the whole file")
        check(all(tensor.isfinite().all() for tensor in checkpoint.params.values()), "a parameter is not finite")
        check(checkpoint.params.keys() >= checkpoint.inner_lr.keys(), "a rate without a parameter")


def seal(text: bytes) -> bytes:
    """Return a safetensors file with one tensor, and this manifest with the seals that it would need."""
    with contextlib.suppress(ValueError, TypeError, AttributeError, RecursionError):
        document = json.loads(text)
        document["tensors_sha256"] = document.get("tensors_sha256") and TENSORS_SHA256
        text = json.dumps(document).encode()
    manifest = text.decode("latin-1")
    metadata = {"nilr": manifest, "nilr_sha256": hashlib.sha256(manifest.encode()).hexdigest()}
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    return headed(json.dumps({"__metadata__": metadata, "params/w": entry}).encode())


def headed(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text + b"\0" * 4


# Of that tensor, as docs/file-formats.md defines it.
TENSORS_SHA256 = hashlib.sha256(b'["params/w", "float32", [1]]\n' + b"\0" * 4).hexdigest()


def check_manifest(manifest: Manifest) -> None:
    again = Manifest.model_validate(manifest.model_dump())
    check(manifest.format == "nilr/checkpoint" and manifest.format_version == 1, "another format")
    check(manifest.outer_step >= 0, f"outer step {manifest.outer_step}")
    # Settings and metrics go out as JSON, which has no NaN.
    check(again == manifest and json.dumps(manifest.model_dump(), allow_nan=False), "a manifest that is no JSON")


def read_pack(content: bytes) -> None:
    """Read a pack: the bytes as they are, and with HDF5's checksums made right, without which little of it is read."""
    for file in {content, repaired(content)}:
        with file_of(file, "x.h5") as path, contextlib.suppress(NilrError):
            check_pack(path)


def check_pack(path: Path) -> None:
    pack = open_pack(path)
    check(pack.splits and set(pack.splits) <= {"train", "val", "test"}, f"splits {pack.splits}")
    for name, count in pack.counts().items():
        split = pack.open_split(name, verify=False)  # what no mutation can seal is looked at all the same
        shape = (count.images, pack.info.image_size, pack.info.image_size, 3)
        check(split.images.shape == shape, f"images {split.images.shape}")
        check(len(split.class_names) == count.classes == len(set(split.class_names)), "names of classes")
        check(min(split.class_sizes) > 0, "a class without images")
        check(len(split.filenames()) == count.images, "names of files")
        check(sum(1 for _ in split.images) == count.images, "every image is in the file")
    info = verify_pack(path).info
    texts = [value for field, value in vars(info).items() if field not in ("image_size", "channels")]
    check(all(isinstance(text, str) for text in texts) and info.image_size > 0 and info.channels == 3, f"{info}")


def read_array_file(content: bytes) -> None:
    """Read an npz (behind a `z`) or npy file."""
    name = "x.npz" if content[:1] == b"z" else "x.npy"
    with file_of(content[1:], name) as path, contextlib.suppress(NilrError):
        for images in read_images(ArrayFile(name, path)):
            check(images.classes, "no classes")
            for class_name, indices in images.classes.items():
                check(isinstance(class_name, str) and len(indices), f"class {class_name!r}")
                for image in images.rows.read(indices.tolist()[:4]):
                    check_image(image)


def read_parquet(content: bytes) -> None:
    with file_of(content, "x.parquet") as path, contextlib.suppress(NilrError):
        listing, reader = Listing(), ParquetReader([ArrayFile("x.parquet", path)], "x")
        reader.list_into(listing)
        payloads = [payload for _, payload in reader.fetch(listing.images)]
        check(len(payloads) == len(listing.images), f"{len(payloads)} of {len(listing.images)} images")
        for payload in payloads:
            check_image(payload)
        check(all(".." not in image.path.split("/") for image in listing.images), "a path that leads out")


def read_table(content: bytes) -> None:
    """Read a list of images and their classes: annotations (behind an `a`), or a split file."""
    listing = Listing(images=[Member(f"x/images/a{i}.JPEG", 1, NO_READER, None) for i in range(4)])
    try:
        if content[:1] == b"a":
            listing.annotations["x/val_annotations.txt"] = content[1:]
            sort_annotated(listing)
            found = listing.images
        else:
            table = read_split_files({"train.csv": content[1:]}, "x")
            check(
                all(isinstance(label, str) and rows for label, rows in table["train"].items()), "a class without rows"
            )
            matched = match_split_files(table, listing.images)
            found = [image for classes in matched.splits.values() for images in classes.values() for image in images]
            check(len(set(found)) == len(found), "an image in two classes")
    except NilrError:
        return
    check({image.filename for image in found} <= {f"a{i}.JPEG" for i in range(4)}, "an image that is not there")
    check(all(".." not in image.path.split("/") and "\0" not in image.path for image in found), "a path that leads out")


def check_image(payload: object) -> None:
    if isinstance(payload, np.ndarray):
        check(payload.dtype == np.uint8 and payload.ndim in (2, 3) and payload.size, f"an image of {payload.shape}")
    else:
        check(isinstance(payload, bytes | Unreadable), f"an image that is a {type(payload).__name__}")


TARGETS: dict[str, Callable[[bytes], None]] = {
    "pickle": read_pickle,
    "array": read_array_file,
    "parquet": read_parquet,
    "table": read_table,
    "manifest": read_checkpoint,
    "pack": read_pack,
}
