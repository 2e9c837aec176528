"""A safetensors file with tensors, a JSON document and checksums over both.

The header's metadata has two strings: `nilr`, the document, and `nilr_sha256`, the SHA-256 of that text. The document
contains the SHA-256 of the tensors, which safetensors does not check itself. Every changed bit is therefore detected,
and nothing is unpickled. A file that fails a check raises CheckpointError. torch is imported only for tensors: reading
a document takes milliseconds.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

import nilr
from nilr.errors import CheckpointError
from nilr.words import counted

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 1
DTYPES = {
    "nilr/checkpoint": ("F32", "F64"),
    "nilr/training-state": ("F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL"),
}
FOREIGN = "choose a file that `meta-train` or `adapt` wrote"
DAMAGED = "use another checkpoint of the model (NAME@best, NAME@last), or train it again"

_MAX_HEADER = 8 * 2**20


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, dtypes, shapes and bytes of CPU tensors, in name order."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        about = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        digest.update(json.dumps(about).encode() + b"\n")
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def serialize(kind: str, document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """Return the file's bytes. Format, versions and the tensors' digest are added to the document.

    The tensors may be on any device and share memory; `kind` is a key of `DTYPES`.
    """
    from safetensors.torch import save

    # copies, because safetensors rejects tensors that share memory, such as views of one buffer
    kept = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    sealed = {
        "format": kind,
        "format_version": FORMAT_VERSION,
        "nilr_version": nilr.__version__,
        **document,
        "tensors_sha256": digest_tensors(kept),
    }
    text = json.dumps(sealed, allow_nan=False)
    return save(kept, metadata={"nilr": text, "nilr_sha256": hashlib.sha256(text.encode()).hexdigest()})


def read(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read and check a file, and return its document and tensors."""
    read_document(path, kind)  # a foreign file is rejected before all of it is read
    try:
        return parse(path, path.read_bytes(), kind)
    except OSError as error:
        raise _unreadable(path, error) from error


def read_document(path: Path, kind: str) -> dict[str, Any]:
    """Return the document of a file from its header alone; the tensors are not read."""
    try:
        if not path.is_file():
            raise CheckpointError(f"there is no file `{path}`", hint="check the path; `models ls` lists the models")
        with path.open("rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            prefix = handle.read(8)
            head = prefix + handle.read(min(int.from_bytes(prefix, "little"), _MAX_HEADER))
    except OSError as error:
        raise _unreadable(path, error) from error
    return _document(path, _header(path, head, size), kind)


def parse(path: Path, content: bytes, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Check all bytes of a file, and return its document and tensors; `path` is for error messages."""
    from safetensors.torch import load

    header = _header(path, content, len(content))
    document = _document(path, header, kind)
    for name, entry in _entries(header).items():
        if entry["dtype"] not in DTYPES[kind]:
            expected = ", ".join(DTYPES[kind])
            raise CheckpointError(f"`{path}`: `{name}` is {entry['dtype']}, expected one of {expected}", hint=FOREIGN)
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"`{path}` is damaged: {error}", hint=DAMAGED) from error
    if digest_tensors(tensors) != document.get("tensors_sha256"):
        raise CheckpointError(f"`{path}` is damaged: the SHA-256 of its tensors is not the recorded one", hint=DAMAGED)
    return document, tensors


def _entries(header: dict[str, Any]) -> dict[str, Any]:
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def _header(path: Path, head: bytes, size: int) -> dict[str, Any]:
    """Return the JSON header at the start of `head`, after comparing the file's size with it."""
    end = 8 + int.from_bytes(head[:8], "little")
    if len(head) < 8 or end - 8 > _MAX_HEADER or (size >= end and head[8:9] != b"{"):
        raise CheckpointError(f"`{path}` is not a safetensors file", hint=FOREIGN)
    try:
        header: dict[str, Any] = json.loads(head[8:end]) if size >= end else {}
        ends = [int(entry["data_offsets"][1]) for entry in _entries(header).values() if entry["dtype"]]
        whole = end + max(ends, default=0)
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"`{path}` is damaged: its header cannot be read", hint=DAMAGED) from error
    if size != whole:
        what = "truncated" if size < whole else "damaged"
        raise CheckpointError(f"`{path}` is {what}: it has {counted(size, 'byte')}, expected {whole}", hint=DAMAGED)
    return header


def _document(path: Path, header: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return the header's document, after checking its SHA-256, format and version."""
    metadata = header.get("__metadata__") or {}
    try:
        text = metadata["nilr"]
        sealed = hashlib.sha256(text.encode()).hexdigest() == metadata["nilr_sha256"]
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"`{path}` is a safetensors file that nilr did not write", hint=FOREIGN) from error
    if not sealed:
        raise CheckpointError(f"`{path}` is damaged: the SHA-256 of its manifest is not the recorded one", hint=DAMAGED)
    try:
        document: dict[str, Any] = json.loads(text, parse_float=_finite, parse_constant=_finite)
        found, version = document["format"], document["format_version"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise CheckpointError(f"`{path}` has a manifest that nilr did not write", hint=FOREIGN) from error
    if found != kind:
        raise CheckpointError(f"`{path}` has the format `{found}`, expected `{kind}`", hint=FOREIGN)
    if type(version) is not int:
        raise CheckpointError(
            f"`{path}` has format version {json.dumps(version)}, which is not an integer", hint=FOREIGN
        )
    if version != FORMAT_VERSION:
        hint = f"this is nilr {nilr.__version__}: upgrade nilr, or train the model again"
        raise CheckpointError(f"`{path}` has format version {version}, expected {FORMAT_VERSION}", hint=hint)
    return document


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"cannot read `{path}`: {(error.strerror or str(error)).lower()}", hint="check the file")
