"""Read and write files of named tensors: safetensors, and PyTorch's pickles without running code from them."""

import argparse
import io
import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from nilr.data.sources.unpickling import BoundedFile, Machine
from nilr.errors import CheckpointError, UsageError
from nilr.words import some

SUFFIXES = (".safetensors", ".pt", ".pth")
HOW_TO_SAVE = "save the network's own state dict: torch.save(model.state_dict(), 'model.pt')"

# Keys under which training scripts save a state dict beside other values.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "params", "state", "net", "weights")
_MAX_DEPTH = 4
_LEGACY_PICKLES = 5  # in a file of torch before 1.6: magic number, version, system, value, keys of the storages
_SUFFIXES_OF_TORCH = (".pt", ".pth", ".th", ".ckpt", ".bin")
_STARTS_OF_TORCH = (b"PK\x03\x04", b"\x80")  # of zip and of pickle
# Values beside a state dict, of classes that run no code when they are unpickled; numpy 1 has another name for one.
_SCALAR = np.float64(0).__reduce__()[0]
_HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    _SCALAR,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")),
]


@dataclass(frozen=True)
class StateDict:
    """The tensors of a file by name, and remarks on how they were found."""

    tensors: dict[str, Tensor]
    notes: list[str]
    ordered: bool  # whether the order is that of the module's registration; safetensors files sort the names


def read_state_dict(path: Path) -> StateDict:
    """Read the state dict in a file; nothing in the file is executed.

    Raises:
        CheckpointError: the file holds no state dict, or a tensor that is sparse, quantised, or larger than its data.
    """
    try:
        ordered = not _is_safetensors(path)
        found = _load(path) if ordered else load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"`{path}` is not a safetensors file, or is damaged: {error}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read `{path}`: {(error.strerror or str(error)).lower()}") from error
    notes: list[str] = []
    tensors = _unwrap(path, found, notes)
    for name, tensor in tensors.items():
        _check(path, name, tensor)
    return StateDict({name: tensor.detach() for name, tensor in tensors.items()}, notes, ordered)


def is_foreign(path: Path) -> bool:
    """Return whether a file may be a state dict that nilr did not write as a checkpoint."""
    try:
        if not path.is_file():
            return False
        if path.suffix != ".safetensors":
            with path.open("rb") as file:
                return path.suffix in _SUFFIXES_OF_TORCH or file.read(4).startswith(_STARTS_OF_TORCH)
        with safe_open(path, framework="pt") as tensors:
            return "nilr" not in (tensors.metadata() or {})
    except (SafetensorError, OSError):
        return False  # the error of reading it as a checkpoint is the clearer one


def read_description(path: Path) -> dict[str, Any] | None:
    """Return the description that `nilr models export` put into a state dict or beside it, FILE.json; None without.

    Raises:
        CheckpointError: it is not a JSON object.
    """
    beside, text = path.with_name(f"{path.name}.json"), None
    if _is_safetensors(path):
        with safe_open(path, framework="pt") as tensors:
            text = (tensors.metadata() or {}).get("description")
    if text is None and beside.is_file():
        text = beside.read_text(encoding="utf-8", errors="replace")
    try:
        found = None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        found = text
    if found is not None and not isinstance(found, dict):
        raise CheckpointError(
            f"the description of `{path}` is not a JSON object", hint=f"export it again, or remove `{beside.name}`"
        )
    return found


def serialize_state_dict(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a file with tensors in the format of the suffix of `path`; only safetensors has metadata."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"`{path.name}` has no suffix of a state dict", hint=f"use one of {', '.join(SUFFIXES)}")
    kept = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    if path.suffix == ".safetensors":
        return save(kept, metadata=dict(metadata))
    content = io.BytesIO()
    torch.save(kept, content)
    return content.getvalue()


def shown(name: object) -> str:
    """Return a name from a file as a part of a message."""
    return ascii(str(name)[:80])[1:-1]


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(9)
    return path.suffix == ".safetensors" or (len(head) == 9 and head[8:] == b"{" and head[:2] != b"PK")


def _load(path: Path) -> Any:  # noqa: ANN401 - whatever was saved
    """Load what torch.save wrote, except objects that would run code."""
    try:
        _check_pickles(path)
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickles and kinds of tensors; what is read is checked below
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, CheckpointError):
        raise
    except Exception as error:  # hostile files raise errors of any kind
        named = str(error).partition("GLOBAL ")[2].split(" ")[0]
        if named:
            what = f"Python objects ({shown(named)})"
            raise CheckpointError(f"`{path}` contains {what}, which would run code", hint=HOW_TO_SAVE) from error
        raise CheckpointError(f"`{path}` is not a file of tensors that torch can read", hint=HOW_TO_SAVE) from error


def _check_pickles(path: Path) -> None:
    """Check that the pickles in a file of torch.save cannot crash torch's own reader, as nested keys do.

    Raises:
        CheckpointError: the file is compressed.
        Exception: a pickle is damaged.
    """
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            bounded = BoundedFile(file)
            for _ in range(_LEGACY_PICKLES):
                _Checker().run(bounded)
        return
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise CheckpointError(f"`{path}` is compressed, unlike files of torch.save", hint=HOW_TO_SAVE)
        for name in archive.namelist():
            if name.endswith(".pkl"):
                _Checker().run(BoundedFile(io.BytesIO(archive.read(name))))


class _Checker(Machine):
    """Runs a pickle without calling anything; every call gives an empty dict."""

    def step(self, name: str, arg: Any) -> None:  # noqa: ANN401 - as the instruction has it
        """Run an instruction that is not only a value."""
        match name:
            case "GLOBAL":
                self.stack.append(str(arg).replace(" ", "."))
            case "STACK_GLOBAL":
                self.stack.append(".".join(map(str, self.pop_last(2))))
            case "REDUCE" | "NEWOBJ":
                called, args = self.pop_last(2)
                if called == "numpy.dtype" and not re.fullmatch(r"[biuf][1248]", str(args[0])[:9]):
                    raise ValueError(f"an array of dtype {args[0]}")
                self.stack.append({})
            case "BUILD":
                self.pop_last(1)
            case "BINPERSID":
                self.pop_last(1)
                self.stack.append("")
            case _:
                super().step(name, arg)


def _unwrap(path: Path, found: object, notes: list[str]) -> dict[str, Tensor]:
    """Return the state dict in nested mappings."""
    for _ in range(_MAX_DEPTH):
        if not isinstance(found, Mapping):
            raise CheckpointError(
                f"`{path}` contains an object of type {type(found).__name__}, and no state dict", hint=HOW_TO_SAVE
            )
        tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
        beside = [shown(name) for name in found if str(name) not in tensors]
        if tensors:
            if beside:
                notes.append(f"Ignored, because they are not tensors: {some(beside)}.")
            return tensors
        wrapped = [name for name in _WRAPPERS if isinstance(found.get(name), Mapping)]
        if len(wrapped) != 1:
            what = "several state dicts" if wrapped else "no state dict"
            raise CheckpointError(f"`{path}` contains {what}, but: {some(beside, 8) or 'nothing'}", hint=HOW_TO_SAVE)
        others = [name for name in beside if name != wrapped[0]]
        notes.append(f"The state dict is the entry `{wrapped[0]}`" + (f", beside {some(others)}." if others else "."))
        found = found[wrapped[0]]
    raise CheckpointError(f"`{path}` contains mappings in mappings, and no state dict", hint=HOW_TO_SAVE)


def _check(path: Path, name: str, tensor: Tensor) -> None:
    """Check that a tensor is plain numbers, all of which are in the file."""
    plain = tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
    if not plain:
        raise CheckpointError(f"`{path}`: `{shown(name)}` is not a dense tensor", hint=HOW_TO_SAVE)
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            f"`{path}`: `{shown(name)}` has {tensor.numel():,} elements, more than the file has", hint=HOW_TO_SAVE
        )
