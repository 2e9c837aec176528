"""Training states as tensors and plain values, with a valid SHA-256 whatever the values are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nilr.tensorfile import read, serialize
from nilr.training_state import FORMAT


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and values of a training state."""
    document, tensors = read(path, FORMAT)
    return tensors, document["values"]


def write_state(path: Path, tensors: Mapping[str, Tensor], values: Any) -> None:
    """Write a training state, even with invalid values."""
    path.write_bytes(serialize(FORMAT, {"values": values}, tensors))
