"""The checkpoint: one safetensors file with the tensors of a learner, and a manifest to rebuild it.

Reading a manifest does not import torch.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, FiniteFloat, JsonValue, PositiveFloat, ValidationError

from nilr.config.base import Fit, ModelName, Resample
from nilr.errors import CheckpointError, invalid_field
from nilr.files import write_atomically
from nilr.results.records import Record, Reference
from nilr.tensorfile import DAMAGED, FOREIGN, parse, read, read_document, serialize
from nilr.words import utc_now

if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINT: Literal["nilr/checkpoint"] = "nilr/checkpoint"


class Architecture(Record):
    """Name and arguments of the learner's builder (`n_way`, `image_size`, `filters`...)."""

    name: str
    arguments: dict[str, JsonValue]


class TrainedOn(Record):
    """The pack that a model was trained on, and how its images were made."""

    name: ModelName
    digest: str
    image_size: int
    resample: Resample | Literal["none"] = "bilinear"
    fit: Fit = "stretch"
    generated: bool | None = None  # whether nilr generated its images; None in files of earlier versions
    channels: Literal[1, 3] = 3


class Adaptation(Record):
    """How an adapted model was adapted: edit of its parent's rates, parts and number of steps."""

    rates: str
    adapt_part: list[str]
    inner_steps: int


class Parent(Record):
    """The model that an adapted model comes from, with the digest of its tensors."""

    name: str
    digest: str
    adaptation: Adaptation | None = None


class SupportClasses(Record):
    """The support set of an adapted model: names of its classes, and the number of images of each."""

    classes: list[str] = Field(min_length=2)
    images: list[Annotated[int, Field(ge=1)]]


class Inputs(Record):
    """What is subtracted from the images in [0, 1], and what they are then divided by, per channel."""

    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat]
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]


class Origin(Record):
    """The file of another library that a model was imported from, and what was changed on the way."""

    format: str
    file: str
    sha256: str
    notes: list[str]


class Manifest(Record):
    """The header of a checkpoint; enough to rebuild the learner."""

    format: Literal["nilr/checkpoint"]
    format_version: Literal[1]
    nilr_version: str
    # UTC, in a fixed-width format: the order of the texts is the order in time
    saved_at: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00$")
    architecture: Architecture
    algorithm: dict[str, JsonValue]  # the resolved row of the algorithm table
    settings: dict[str, JsonValue]  # the resolved settings of the training
    data: TrainedOn
    outer_step: int = Field(ge=0)  # completed updates
    metrics: dict[str, JsonValue]  # of the training when the checkpoint was saved
    engine: str  # the implementation that computed the updates
    parent: Parent | None  # the model that this one was adapted from, if any
    reference: Reference | None = None  # the model whose rates the training used, if any
    support: SupportClasses | None = None  # what an adapted model was adapted to
    inputs: Inputs | None = None  # how images are normalised before the body, if they are
    origin: Origin | None = None  # where an imported model comes from, if another library trained it
    tensors_sha256: str  # over names, dtypes, shapes and bytes of all tensors, in name order


@dataclass(frozen=True)
class Checkpoint:
    """A meta-initialisation (or adapted parameters) with its inner rates."""

    manifest: Manifest  # how to rebuild the learner, and its history
    params: dict[str, Tensor]  # parameters by name, float32 or float64, on the CPU
    # the inner rates of the adapted parameters, by name. The shape is () or the parameter's; rates per step have one
    # dimension more than the parameter: (K, 1, ...) or (K, ...).
    inner_lr: dict[str, Tensor]
    # what an adapted model keeps of its support: `features` (n, D), class by class, and by layer the statistics of
    # batch normalisation, such as `statistics/block1`, (2, C)
    support: dict[str, Tensor]

    @property
    def digest(self) -> str:
        """SHA-256 of the tensors."""
        return self.manifest.tensors_sha256


def save_checkpoint(
    path: Path,
    *,
    params: Mapping[str, Tensor],
    inner_lr: Mapping[str, Tensor],
    support_tensors: Mapping[str, Tensor] = types.MappingProxyType({}),
    **manifest: Any,  # noqa: ANN401 - the fields of `Manifest`, which checks them
) -> Manifest:
    """Write a checkpoint atomically, after reading it back in memory.

    Args:
        path: the file to write or replace.
        params: parameters by name; float32 or float64, finite, on any device.
        inner_lr: rates by parameter name, with the shapes in `Checkpoint`.
        support_tensors: `Checkpoint.support`.
        manifest: the fields of `Manifest` from `architecture` to `support`; of the last ones only those that are set.
    """
    tensors = {f"params/{name}": tensor for name, tensor in params.items()}
    tensors |= {f"inner_lr/{name}": tensor for name, tensor in inner_lr.items()}
    tensors |= {f"support/{name}": tensor for name, tensor in support_tensors.items()}
    saved_at = utc_now()
    content = serialize(CHECKPOINT, {"saved_at": saved_at, **manifest}, tensors)
    checkpoint = _checkpoint(path, *parse(path, content, CHECKPOINT))
    write_atomically(path, content)
    return checkpoint.manifest


def load_checkpoint(path: Path) -> Checkpoint:
    """Load a checkpoint and check all of it."""
    return _checkpoint(path, *read(path, CHECKPOINT))


def read_manifest(path: Path) -> Manifest:
    """Read a checkpoint's manifest from the header alone; the tensors are not read."""
    return _manifest(path, read_document(path, CHECKPOINT))


def _checkpoint(path: Path, document: dict[str, Any], tensors: dict[str, Tensor]) -> Checkpoint:
    manifest = _manifest(path, document)
    parts: dict[str, dict[str, Tensor]] = {"params": {}, "inner_lr": {}, "support": {}}
    for key, tensor in tensors.items():
        part, _, name = key.partition("/")
        if part not in parts:
            raise CheckpointError(f"`{path}`: `{key}` is not a parameter, a rate or of a support", hint=FOREIGN)
        if not tensor.isfinite().all():
            raise CheckpointError(f"`{path}`: `{key}` has numbers that are not finite", hint=DAMAGED)
        parts[part][name] = tensor
    params, inner_lr = parts["params"], parts["inner_lr"]
    if not params:
        raise CheckpointError(f"`{path}` has no parameters", hint=FOREIGN)
    for name, rate in inner_lr.items():
        if name not in params or not _fits(rate, params[name]):
            raise CheckpointError(f"`{path}`: `inner_lr/{name}` does not fit a parameter", hint=FOREIGN)
    return Checkpoint(manifest, params, inner_lr, parts["support"])


def _fits(rate: Tensor, parameter: Tensor) -> bool:
    if rate.dim() == parameter.dim() + 1:
        return len(rate) > 0 and rate.shape[1:] in ((1,) * parameter.dim(), parameter.shape)
    return rate.shape in ((), parameter.shape)


def _manifest(path: Path, document: dict[str, Any]) -> Manifest:
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        raise CheckpointError(f"`{path}`: manifest field {invalid_field(error)}", hint=FOREIGN) from error
