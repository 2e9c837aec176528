from __future__ import annotations

import hashlib
import json
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from nilr.errors import CheckpointError
from nilr.tensorfile import DTYPES, digest_tensors, parse, read, read_document, serialize

KIND = "nilr/training-state"


@pytest.fixture
def content() -> bytes:
    return serialize(KIND, {"values": {"step": 3}}, {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(True)})


def with_header(content: bytes, change: dict[str, Any]) -> bytes:
    length = struct.unpack("<Q", content[:8])[0]
    header = json.dumps(json.loads(content[8 : 8 + length]) | change).encode()
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def sealed(document: object) -> bytes:
    text = json.dumps(document)
    seal = hashlib.sha256(text.encode()).hexdigest()
    return save({"a": torch.zeros(1)}, metadata={"nilr": text, "nilr_sha256": seal})


def test_tensors_come_back_bit_for_bit_whatever_their_dtype_and_layout(tmp_path: Path) -> None:
    buffer = torch.arange(12, dtype=torch.float32)
    tensors = {
        "negative zero": torch.tensor([-0.0]),
        "smallest": torch.tensor([5e-324], dtype=torch.float64),
        "nan": torch.tensor([float("nan"), float("inf")]),
        "scalar": torch.tensor(0.1),
        "empty": torch.zeros(0, 3),
        "transposed": buffer.view(3, 4).t(),
        "view": buffer[2:5],
        "expanded": torch.tensor(2.0).expand(3),
        "channels last": torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "with gradient": torch.ones(2, requires_grad=True),
        "random state": torch.get_rng_state(),
        "bfloat16": torch.tensor([1.5], dtype=torch.bfloat16),
    }
    path = tmp_path / "state.safetensors"
    path.write_bytes(serialize(KIND, {}, tensors))
    _, back = read(path, KIND)
    assert set(back) == set(tensors)
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert back[name].shape == tensor.shape
        assert digest_tensors({"x": back[name]}) == digest_tensors({"x": tensor.detach().contiguous()})


def test_the_digest_is_over_names_dtypes_shapes_and_bytes() -> None:
    # written out by hand: a line of JSON, then float32 1.0 and 2.0, little-endian
    expected = hashlib.sha256(b'["a", "float32", [2]]\n\x00\x00\x80\x3f\x00\x00\x00\x40').hexdigest()
    assert digest_tensors({"a": torch.tensor([1.0, 2.0])}) == expected
    assert digest_tensors({"b": torch.tensor([1.0, 2.0])}) != expected
    assert digest_tensors({"a": torch.tensor([[1.0, 2.0]])}) != expected
    assert digest_tensors({"a": torch.tensor([1.0, 2.0]).view(torch.int32)}) != expected
    both = {"a": torch.tensor(1.0), "b": torch.tensor(2.0)}
    assert digest_tensors(both) == digest_tensors(dict(reversed(both.items())))


def test_one_flipped_bit_anywhere_is_seen(content: bytes) -> None:
    for place in range(len(content)):
        broken = bytearray(content)
        broken[place] ^= 1 << place % 8
        with pytest.raises(CheckpointError):
            parse(Path("x.safetensors"), bytes(broken), KIND)


def test_a_file_cut_anywhere_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            read_document(path, KIND)


def test_a_truncated_file_is_called_truncated_with_both_sizes(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match=f"truncated: it has {len(content) - 1} bytes, expected {len(content)}"):
        read_document(path, KIND)


def test_a_file_with_bytes_after_its_end_is_refused(content: bytes) -> None:
    with pytest.raises(CheckpointError, match="damaged: it has"):
        parse(Path("x.safetensors"), content + b"\0", KIND)


@pytest.mark.parametrize(
    "foreign",
    [
        b"",
        b"PK",
        b"<!DOCTYPE html><html></html>",
        pickle.dumps({"params": [1.0]}),
        b"\xff" * 64,
        b"\0" * 64,
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 10**7) + b"{}",
    ],
)
def test_a_file_of_another_format_is_an_error(foreign: bytes, tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(foreign)
    with pytest.raises(CheckpointError, match="is not a safetensors file") as caught:
        read_document(path, KIND)
    assert str(path) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"nilr": "{}"}])
def test_another_programs_safetensors_file_is_refused(metadata: dict[str, str] | None) -> None:
    with pytest.raises(CheckpointError, match="a safetensors file that nilr did not write"):
        parse(Path("x.safetensors"), save({"a": torch.zeros(1)}, metadata=metadata), KIND)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [-4, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 10**15]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0]},
        {"dtype": "F32", "shape": [10**10, 10**10], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 1e400]},
        {"shape": [2], "data_offsets": [0, 8]},
        "tensor",
        7,
    ],
)
def test_a_header_that_lies_about_a_tensor_is_refused(content: bytes, entry: object) -> None:
    with pytest.raises(CheckpointError, match=r"damaged|truncated"):
        parse(Path("x.safetensors"), with_header(content, {"a": entry}), KIND)


@pytest.mark.parametrize("metadata", [[], "text", 3, {"nilr": 3, "nilr_sha256": 3}, {"nilr": {}}])
def test_metadata_that_is_no_text_is_refused(content: bytes, metadata: object) -> None:
    with pytest.raises(CheckpointError):
        parse(Path("x.safetensors"), with_header(content, {"__metadata__": metadata}), KIND)


def test_a_tensor_renamed_or_left_out_is_seen(content: bytes) -> None:
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    header["c"] = header.pop("b")
    renamed = json.dumps(header).encode()
    with pytest.raises(CheckpointError, match="the SHA-256 of its tensors is not the recorded one"):
        parse(Path("x"), struct.pack("<Q", len(renamed)) + renamed + content[8 + length :], KIND)
    del header["c"], header["a"]
    header["a"] = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    fewer = json.dumps(header).encode()
    with pytest.raises(CheckpointError, match="the SHA-256 of its tensors is not the recorded one"):
        parse(Path("x"), struct.pack("<Q", len(fewer)) + fewer + content[8 + length : 8 + length + 8], KIND)


def test_a_deeply_nested_header_is_refused(tmp_path: Path) -> None:
    header = b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    path = tmp_path / "deep.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CheckpointError, match="its header cannot be read"):
        read_document(path, KIND)


@pytest.mark.parametrize("document", [[], "text", {}, {"format": KIND}])
def test_a_sealed_document_without_format_is_refused(document: object) -> None:
    with pytest.raises(CheckpointError, match="a manifest that nilr did not write"):
        parse(Path("x.safetensors"), sealed(document), KIND)


def test_a_newer_version_is_refused_with_both_versions() -> None:
    with pytest.raises(CheckpointError, match="has format version 2, expected 1") as caught:
        parse(Path("x.safetensors"), sealed({"format": KIND, "format_version": 2}), KIND)
    assert "upgrade nilr" in (caught.value.hint or "")


@pytest.mark.parametrize(("version", "shown"), [("1", '"1"'), (True, "true"), (1.0, "1.0"), (None, "null")])
def test_a_version_that_is_no_integer_is_shown_as_it_is_stored(version: object, shown: str) -> None:
    with pytest.raises(CheckpointError, match=f"(?m)has format version {shown}, which is not an integer$"):
        parse(Path("x.safetensors"), sealed({"format": KIND, "format_version": version}), KIND)


def test_a_file_of_another_kind_is_refused_with_both_kinds(content: bytes) -> None:
    with pytest.raises(CheckpointError, match="has the format `nilr/training-state`, expected `nilr/checkpoint`"):
        parse(Path("x.safetensors"), content, "nilr/checkpoint")


def test_an_unsupported_dtype_is_an_error_with_the_supported_ones() -> None:
    content = serialize("nilr/checkpoint", {}, {"a": torch.zeros(1, dtype=torch.float16)})
    with pytest.raises(CheckpointError, match="`a` is F16, expected one of F32, F64"):
        parse(Path("x.safetensors"), content, "nilr/checkpoint")


def test_a_document_with_nan_is_never_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        serialize(KIND, {"loss": float("nan")}, {})


@pytest.mark.parametrize("kind", DTYPES)
def test_a_file_that_is_not_there_or_is_a_directory_is_named(kind: str, tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match="there is no file") as caught:
            read(path, kind)
        assert str(path) in caught.value.message
