"""The checkpoint: one sealed safetensors file that holds a learner's numbers and says how to rebuild it.

Reading a manifest does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from nilr.config.base import ModelName
from nilr.errors import CheckpointError, invalid_field
from nilr.files import write_atomically
from nilr.tensorfile import DAMAGED, FOREIGN, parse, read, read_document, serialize

if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINT: Literal["nilr/checkpoint"] = "nilr/checkpoint"


class Part(BaseModel):
    """A part of a manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Architecture(Part):
    """The learner's builder, by name, and what it is called with (`n_way`, `image_size`, `filters`...)."""

    name: str
    arguments: dict[str, JsonValue]


class TrainedOn(Part):
    """The pack that the model was trained on."""

    name: ModelName
    digest: str
    image_size: int


class Adaptation(Part):
    """How an adapted model was adapted: with which edit of its parent's rates, in which parts, in how many steps."""

    rates: str
    adapt_part: list[str]
    inner_steps: int


class Parent(Part):
    """The model that an adapted one was adapted from, the digest of its tensors, and how."""

    name: str
    digest: str
    adaptation: Adaptation | None = None


class Manifest(Part):
    """What stands in a checkpoint's header; enough to rebuild the learner.

    Attributes:
        saved_at: UTC, of fixed width, so that text order is time order.
        architecture: the builder's name and arguments.
        algorithm: the resolved row of the algorithm table.
        settings: the resolved settings of the run.
        data: the pack trained on.
        outer_step: completed outer updates.
        metrics: what was measured when it was saved.
        engine: how episodes were executed.
        parent: the model this one was adapted from, if it was.
        tensors_sha256: over names, dtypes, shapes and bytes of all tensors, in name order.
    """

    format: Literal["nilr/checkpoint"]
    format_version: Literal[1]
    nilr_version: str
    saved_at: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00$")
    architecture: Architecture
    algorithm: dict[str, JsonValue]
    settings: dict[str, JsonValue]
    data: TrainedOn
    outer_step: int = Field(ge=0)
    metrics: dict[str, JsonValue]
    engine: str
    parent: Parent | None
    tensors_sha256: str


class Origin(TypedDict):
    """The keywords of `save_checkpoint` that go into the manifest as they are; see `Manifest`."""

    architecture: Mapping[str, Any]
    algorithm: Mapping[str, Any]
    settings: Mapping[str, Any]
    data: Mapping[str, Any]
    outer_step: int
    metrics: Mapping[str, Any]
    engine: str
    parent: Mapping[str, Any] | None


@dataclass(frozen=True)
class Checkpoint:
    """A meta-initialisation (or adapted parameters) with its inner rates.

    Attributes:
        manifest: where it comes from.
        params: parameters by name, float32 or float64, on the CPU.
        inner_lr: the rates that the inner loop takes, of the parameters that it moves, by name: one number of shape (),
            or of the parameter's shape; or a rate per step, (K, 1, ...) or (K, ...), with one dimension more than the
            parameter.
    """

    manifest: Manifest
    params: dict[str, Tensor]
    inner_lr: dict[str, Tensor]

    @property
    def digest(self) -> str:
        """SHA-256 of the tensors."""
        return self.manifest.tensors_sha256


def save_checkpoint(
    path: Path, *, params: Mapping[str, Tensor], inner_lr: Mapping[str, Tensor], **origin: Unpack[Origin]
) -> Manifest:
    """Write a checkpoint, whole or not at all, after reading it back in memory.

    Args:
        path: the file to replace.
        params: parameters by name; float32 or float64, finite, on any device.
        inner_lr: rates by parameter name, of the shapes that `Checkpoint` names.
        origin: what goes into the manifest.

    Raises:
        CheckpointError: a tensor is not finite, or of another dtype, or a rate does not fit its parameter.
        StoreError: the place cannot be written.
    """
    tensors = {f"params/{name}": tensor for name, tensor in params.items()}
    tensors |= {f"inner_lr/{name}": tensor for name, tensor in inner_lr.items()}
    saved_at = datetime.now(UTC).isoformat(timespec="microseconds")
    content = serialize(CHECKPOINT, {"saved_at": saved_at, **origin}, tensors)
    checkpoint = _checkpoint(path, *parse(path, content, CHECKPOINT))
    write_atomically(path, content)
    return checkpoint.manifest


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and check all of it.

    Raises:
        CheckpointError: there is none, or it is foreign, newer, truncated or damaged, or holds a number that is not
            finite.
    """
    return _checkpoint(path, *read(path, CHECKPOINT))


def read_manifest(path: Path) -> Manifest:
    """Read a checkpoint's manifest from the header alone, in a millisecond; the tensors are not checked.

    Raises:
        CheckpointError: there is none, or its header is foreign, newer, truncated or damaged.
    """
    return _manifest(path, read_document(path, CHECKPOINT))


def _checkpoint(path: Path, document: dict[str, Any], tensors: dict[str, Tensor]) -> Checkpoint:
    manifest = _manifest(path, document)
    parts: dict[str, dict[str, Tensor]] = {"params": {}, "inner_lr": {}}
    for key, tensor in tensors.items():
        part, _, name = key.partition("/")
        if part not in parts:
            raise CheckpointError(f"`{path}`: `{key}` is neither a parameter nor a rate", hint=FOREIGN)
        if not tensor.isfinite().all():
            raise CheckpointError(f"`{path}`: `{key}` holds numbers that are not finite", hint=DAMAGED)
        parts[part][name] = tensor
    params, inner_lr = parts["params"], parts["inner_lr"]
    if not params:
        raise CheckpointError(f"`{path}` holds no parameters", hint=FOREIGN)
    for name, rate in inner_lr.items():
        if name not in params or not _fits(rate, params[name]):
            raise CheckpointError(f"`{path}`: `inner_lr/{name}` fits no parameter", hint=FOREIGN)
    return Checkpoint(manifest, params, inner_lr)


def _fits(rate: Tensor, parameter: Tensor) -> bool:
    if rate.dim() == parameter.dim() + 1:
        return len(rate) > 0 and rate.shape[1:] in ((1,) * parameter.dim(), parameter.shape)
    return rate.shape in ((), parameter.shape)


def _manifest(path: Path, document: dict[str, Any]) -> Manifest:
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        raise CheckpointError(f"`{path}`: manifest field {invalid_field(error)}", hint=FOREIGN) from error
