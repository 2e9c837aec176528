"""What most recipes open first: a split of a pack, and a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, JsonValue, TypeAdapter, ValidationError
from torch import Tensor

from nilr.checkpoint import Checkpoint, load_checkpoint
from nilr.data.pack import PackedSplit, open_pack
from nilr.episodes import PackedImages
from nilr.errors import CheckpointError, DataError, invalid_field
from nilr.meta.algorithms import Algorithm
from nilr.meta.engine.contract import Engine
from nilr.meta.engine.registry import choose_engine
from nilr.models.learner import Learner
from nilr.models.registry import build_learner, parameter_shapes
from nilr.recipes.common.settings import recipe_digest
from nilr.results.records import DataUsed, ModelUsed
from nilr.store import ModelRef, Store

_MAX_STEPS = 1000
_COUNTS = TypeAdapter(dict[str, Annotated[int, Field(strict=True, ge=1)]])


@dataclass(frozen=True)
class OpenSplit:
    """A verified split: its images on the device, its names, and what the result says of it."""

    images: PackedImages
    packed: PackedSplit
    used: DataUsed


def open_split(path: Path, split: str, device: torch.device) -> OpenSplit:
    """Open and verify one split of a pack; on a GPU its images are copied there once, as uint8.

    Raises:
        DataError: the pack cannot be used.
    """
    pack = open_pack(path)
    packed = pack.open_split(split)
    images = torch.from_numpy(packed.images)
    used = DataUsed(name=pack.info.name, digest=pack.info.digest, image_size=pack.info.image_size, split=split)
    return OpenSplit(PackedImages(images.to(device), packed.class_sizes), packed, used)


@dataclass(frozen=True)
class LoadedModel:
    """A model from a checkpoint, rebuilt, on the device."""

    ref: ModelRef
    checkpoint: Checkpoint
    learner: Learner
    algorithm: Algorithm
    engine: Engine
    params: Mapping[str, Tensor]
    inner_lr: Mapping[str, Tensor]

    @property
    def settings(self) -> dict[str, JsonValue]:
        """The resolved settings it was trained with."""
        return self.checkpoint.manifest.settings

    @property
    def used(self) -> ModelUsed:
        """What a result says of it."""
        manifest = self.checkpoint.manifest
        seed = manifest.settings.get("seed")
        return ModelUsed(
            name=self.ref.name,
            checkpoint=self.ref.checkpoint,
            digest=self.checkpoint.digest,
            outer_step=manifest.outer_step,
            algo=self.algorithm.name,
            trained_on=manifest.data.digest,
            parent=manifest.parent.name if manifest.parent else None,
            seed=seed if isinstance(seed, int) else None,
            recipe=recipe_digest(
                manifest.architecture.model_dump(), manifest.algorithm, manifest.settings, manifest.data.digest
            ),
        )


def load_model(
    store: Store, reference: str | None, *, device: torch.device, engine: str, precision: str = "float32"
) -> LoadedModel:
    """Find a model, verify it and rebuild its learner.

    Args:
        store: the registry.
        reference: a name, NAME@best, NAME@last, a path, or None for the model trained last.
        device: where its parameters go.
        engine: name of the engine, or "auto".
        precision: of its convolutions.

    Raises:
        StoreError: there is no such model.
        CheckpointError: its file cannot be used.
        UsageError: the engine cannot execute it so.
    """
    ref = store.find_model(reference)
    checkpoint = load_checkpoint(ref.file)
    manifest = checkpoint.manifest
    try:
        arguments: dict[str, Any] = _COUNTS.validate_python(manifest.architecture.arguments)
        expected = parameter_shapes(manifest.architecture.name, **arguments)
        algorithm = Algorithm.from_stored(manifest.algorithm)
        TypeAdapter(Algorithm).validate_python(asdict(algorithm))
        if not 0 <= algorithm.eval_inner_steps <= _MAX_STEPS:
            raise ValueError(f"eval_inner_steps is {algorithm.eval_inner_steps}, expected 0 to {_MAX_STEPS}")
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        reason = invalid_field(error) if isinstance(error, ValidationError) else str(error).splitlines()[0]
        raise CheckpointError(f"`{ref.file}` cannot be rebuilt: {reason}", hint="train it again") from error
    if {name: value.shape for name, value in checkpoint.params.items()} != expected:
        raise CheckpointError(f"`{ref.file}`: its tensors are not those of its architecture", hint="train it again")
    learner = build_learner(manifest.architecture.name, **arguments)
    return LoadedModel(
        ref=ref,
        checkpoint=checkpoint,
        learner=learner,
        algorithm=algorithm,
        engine=choose_engine(engine, learner, device, precision),
        params={name: value.to(device) for name, value in checkpoint.params.items()},
        inner_lr={name: value.to(device) for name, value in checkpoint.inner_lr.items()},
    )


def load_models(
    store: Store, references: Sequence[str], *, device: torch.device, engine: str, precision: str = "float32"
) -> dict[str, LoadedModel]:
    """Return models by the names that a result gives them, each file once; by default the one trained last.

    The name is NAME; NAME@CHECKPOINT where NAME stands twice; with a number after it where paths share that too.

    Raises:
        StoreError: there is no such model.
        CheckpointError: a file cannot be used.
    """
    asked: Sequence[str | None] = references or (None,)
    loaded = [load_model(store, reference, device=device, engine=engine, precision=precision) for reference in asked]
    models = list({model.ref.file.resolve(): model for model in loaded}.values())
    names = [model.ref.name for model in models]
    labels = [
        name if names.count(name) == 1 else f"{name}@{model.ref.checkpoint}"
        for name, model in zip(names, models, strict=True)
    ]
    return {
        label if labels.index(label) == i else f"{label} ({labels[: i + 1].count(label)})": model
        for i, (label, model) in enumerate(zip(labels, models, strict=True))
    }


def require_image_size(model: LoadedModel, data: DataUsed) -> None:
    """Check that a model can look at the data's images.

    Raises:
        DataError: they have another size than those it was trained on.
    """
    size = model.checkpoint.manifest.data.image_size
    if data.image_size != size:
        raise DataError(
            f"`{data.name}` has images of {data.image_size} px, and model `{model.ref.name}` was trained on {size} px",
            hint=f"pack the images with --image-size {size}",
        )


def find_evaluation_pack(store: Store, asked: str | None, model: LoadedModel) -> Path:
    """Return the pack to judge on: the one asked for, else the one the model was trained on.

    Raises:
        StoreError: it is not in the store.
        DataError: the store's pack of that name is not the one the model was trained on.
    """
    trained_on = model.checkpoint.manifest.data
    path = store.find_data(asked if asked is not None else trained_on.name)
    digest = open_pack(path).info.digest
    if asked is None and digest != trained_on.digest:
        raise DataError(
            f"`{path}` holds other images (digest {digest[:12]}) than model `{model.ref.name}` was trained on "
            f"({trained_on.digest[:12]})",
            hint=f"name the pack with --data, `--data {trained_on.name}` to judge on this one",
        )
    return path
