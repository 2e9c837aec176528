"""Load models from checkpoints."""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from pydantic import JsonValue, TypeAdapter, ValidationError

from nilr.checkpoint import Checkpoint, Manifest, load_checkpoint, read_manifest
from nilr.claims import is_claimed, is_generated
from nilr.config.base import CodeSettings
from nilr.config.meta_train import TrainSettings
from nilr.errors import CheckpointError, invalid_field
from nilr.meta.algorithms import Algorithm
from nilr.meta.engine.registry import choose_engine
from nilr.meta.model import Model
from nilr.models.import_path import check_allowed, is_import_path
from nilr.models.registry import build_learner, parameter_shapes
from nilr.recipes.common.settings import recipe_digest
from nilr.results.records import ModelUsed, Reference
from nilr.store import ModelRef, Store

UNKNOWN = "unknown"  # name and digest of a pack, of a model from another library
_MAX_STEPS = 1000
_MAX_SIZE = 10**6


@dataclass(frozen=True, kw_only=True, repr=False)
class LoadedModel(Model):
    """A model that was rebuilt from a checkpoint, on the device."""

    ref: ModelRef
    checkpoint: Checkpoint

    @property
    def settings(self) -> dict[str, JsonValue]:
        """The resolved settings of its training."""
        return self.checkpoint.manifest.settings

    @property
    def used(self) -> ModelUsed:
        """Its entry in the result."""
        return model_used(self.ref, self.checkpoint.manifest, self.algorithm)


def model_used(ref: ModelRef, manifest: Manifest, algorithm: Algorithm) -> ModelUsed:
    """Return the entry of a model in a result."""
    seed = manifest.settings.get("seed")
    return ModelUsed(
        name=ref.name,
        checkpoint=ref.checkpoint,
        digest=manifest.tensors_sha256,
        outer_step=manifest.outer_step,
        algo=algorithm.name,
        trained_on=manifest.data.digest,
        parent=manifest.parent.name if manifest.parent else None,
        claimed=is_claimed(algorithm)
        and not (manifest.parent or manifest.reference or manifest.origin)
        and not is_generated(manifest.data),
        seed=seed if isinstance(seed, int) else None,
        recipe=recipe_of(manifest),
        reference=manifest.reference,
    )


def recipe_of(manifest: Manifest) -> str:
    """Return the digest of everything that changed a number of a model's training, except the seed."""
    reference = manifest.reference.recipe if manifest.reference else None
    architecture = manifest.architecture.model_dump()
    return recipe_digest(architecture, manifest.algorithm, manifest.settings, manifest.data.digest, reference)


def find_reference(store: Store, settings: TrainSettings) -> tuple[ModelRef, Reference] | None:
    """Return the model whose rates a training uses, and how it is recorded; None if it uses no model's."""
    if settings.reference is None:
        return None
    ref = store.find_model(settings.reference)
    manifest = read_manifest(ref.file)
    return ref, Reference(name=ref.name, digest=manifest.tensors_sha256, recipe=recipe_of(manifest))


def load_model(
    store: Store,
    reference: str | None,
    *,
    device: torch.device,
    engine: str,
    precision: str = "float32",
    code: Collection[str] = (),
) -> LoadedModel:
    """Find a model, verify it and rebuild its learner.

    The reference is a name, NAME@best, NAME@last or a path; None: the latest trained model. `code` has the import paths
    of bodies that may be imported.
    """
    ref = store.find_model(reference)
    checkpoint = load_checkpoint(ref.file)
    manifest = checkpoint.manifest
    check_allowed(manifest.architecture.name, code, f"model `{ref.name}`")
    with _rebuilding(ref):
        arguments = _sizes(manifest)
        expected = parameter_shapes(manifest.architecture.name, **arguments)
        algorithm = _algorithm(manifest)
    if {name: value.shape for name, value in checkpoint.params.items()} != expected:
        raise CheckpointError(f"`{ref.file}`: its tensors do not fit its architecture", hint="train it again")
    learner = build_learner(manifest.architecture.name, **arguments)
    if manifest.inputs is not None:
        mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (manifest.inputs.mean, manifest.inputs.std))
        learner.inputs = mean, std
    return LoadedModel(
        ref=ref,
        checkpoint=checkpoint,
        learner=learner,
        algorithm=algorithm,
        inductive=manifest.settings.get("batch_stats") == "inductive",
        engine=choose_engine(engine, learner, device, precision),
        params={name: value.to(device) for name, value in checkpoint.params.items()},
        inner_lr={name: value.to(device) for name, value in checkpoint.inner_lr.items()},
        architecture=(manifest.architecture.name, {n: value for n, value in arguments.items() if n != "n_way"}),
    )


def check_model(store: Store, reference: str) -> ModelUsed:
    """Find a model and verify it, and return its entry in a result. No code of one's own body is imported."""
    ref = store.find_model(reference)
    manifest = read_manifest(ref.file)
    if not is_import_path(manifest.architecture.name):
        return load_model(store, reference, device=torch.device("cpu"), engine="auto").used
    checkpoint = load_checkpoint(ref.file)
    with _rebuilding(ref):
        return model_used(ref, checkpoint.manifest, _algorithm(checkpoint.manifest))


def _sizes(manifest: Manifest) -> dict[str, Any]:
    """Return the arguments of a learner's builder; ValueError if one is neither a size nor a list of sizes."""
    for name, value in manifest.architecture.arguments.items():
        for size in value if isinstance(value, list) else [value]:
            if type(size) is not int or not 1 <= size <= _MAX_SIZE:
                raise ValueError(f"`{name}` is {str(value)[:50]}, expected numbers from 1 to {_MAX_SIZE:,}")
    return dict(manifest.architecture.arguments)


def _algorithm(manifest: Manifest) -> Algorithm:
    algorithm = Algorithm.from_stored(manifest.algorithm)
    TypeAdapter(Algorithm).validate_python(asdict(algorithm))
    if not 0 <= algorithm.eval_inner_steps <= _MAX_STEPS:
        raise ValueError(f"eval_inner_steps is {algorithm.eval_inner_steps}, expected 0 to {_MAX_STEPS}")
    return algorithm


@contextlib.contextmanager
def _rebuilding(ref: ModelRef) -> Iterator[None]:
    """Raise CheckpointError if the block finds that a manifest is invalid."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        reason = invalid_field(error) if isinstance(error, ValidationError) else str(error).splitlines()[0]
        raise CheckpointError(f"`{ref.file}` cannot be rebuilt: {reason}", hint="train it again") from error


def load_models(
    store: Store, references: Sequence[str], settings: CodeSettings, *, device: torch.device
) -> dict[str, LoadedModel]:
    """Return distinct models by the names that they have in a result; by default the latest trained one.

    If several models share a name, it becomes NAME@CHECKPOINT, and then NAME@CHECKPOINT (2), (3)...
    """
    refs: Sequence[str | None] = references or (None,)
    how: dict[str, Any] = {"engine": settings.engine, "precision": settings.precision, "code": settings.arch}
    loaded = [load_model(store, ref, device=device, **how) for ref in refs]
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
