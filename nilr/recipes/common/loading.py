"""Open a split of a pack, and load a model."""

import contextlib
import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue, TypeAdapter, ValidationError
from torch import Tensor

from nilr.checkpoint import Checkpoint, Manifest, TrainedOn, load_checkpoint, read_manifest
from nilr.claims import is_claimed, is_generated
from nilr.config.base import CodeSettings, Settings
from nilr.config.meta_train import TrainSettings
from nilr.data.pack import ImageFile, PackedSplit, open_pack
from nilr.episodes import PackedImages
from nilr.errors import CheckpointError, DataError, NilrError, StoreError, invalid_field
from nilr.files import path_argument
from nilr.meta.algorithms import Algorithm
from nilr.meta.engine.registry import choose_engine
from nilr.meta.model import Model
from nilr.models.import_path import check_allowed, is_import_path
from nilr.models.registry import build_learner, parameter_shapes
from nilr.recipes.common.outcome import data_used
from nilr.recipes.common.settings import recipe_digest
from nilr.results.records import DataUsed, ModelUsed, Reference
from nilr.runtime import available_memory
from nilr.store import ModelRef, Store
from nilr.words import counted

UNKNOWN = "unknown"  # name and digest of a pack, of a model from another library
_GPU_SHARE = 0.4
_MAX_STEPS = 1000
_MAX_SIZE = 10**6


@dataclass(frozen=True)
class Split:
    """The images of a split on the device, and its pack's entry in the result; None: they are not from a pack."""

    images: PackedImages
    used: DataUsed | None


@dataclass(frozen=True)
class OpenSplit(Split):
    """A verified split of a pack, with its names."""

    used: DataUsed
    packed: PackedSplit


class _ImagesOnDisk:
    """A pack's images as `PackedImages` uses them: read from the file whenever they are selected."""

    def __init__(self, file: ImageFile, device: torch.device) -> None:
        self._file, self.device = file, device

    def index_select(self, _dim: int, index: Tensor) -> Tensor:
        """Read the images at `index`, int64 (n,)."""
        return torch.from_numpy(self._file.read(index.tolist())).to(self.device)


def open_split(path: Path, split: str, device: torch.device) -> OpenSplit:
    """Open and verify one split of a pack.

    Images are read from the file when an episode needs them. A GPU gets a copy of all, as uint8, unless they would take
    more than `_GPU_SHARE` of its free memory.
    """
    pack = open_pack(path)
    packed = pack.open_split(split)
    images: Tensor | _ImagesOnDisk = _ImagesOnDisk(packed.images, device)
    if device.type != "cpu" and math.prod(packed.images.shape) <= _GPU_SHARE * available_memory(device):
        images = _copied(packed.images, device)
    return OpenSplit(PackedImages(images, packed.class_sizes, packed.class_names), data_used(pack, split), packed)


def _copied(file: ImageFile, device: torch.device) -> Tensor:
    """Copy all images to a device, with a few of them in the host's memory at a time."""
    images, start = torch.empty(file.shape, dtype=torch.uint8, device=device), 0
    for chunk in file.chunks():
        images[start : start + len(chunk)] = torch.from_numpy(chunk)
        start += len(chunk)
    return images


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


def open_evaluation_split(
    store: Store, pack: str | None, split: str, models: Sequence[LoadedModel], device: torch.device
) -> OpenSplit:
    """Open the split to evaluate models on; without `pack`, that of the pack that all of them were trained on."""
    path = store.find_data(pack) if pack is not None else _training_pack(store, models)
    opened = open_split(path, split, device)
    for model in models:
        trained_on, used = model.checkpoint.manifest.data, opened.used
        if (used.image_size, used.channels) != (trained_on.image_size, trained_on.channels):
            flags = _preparation(trained_on)
            if used.channels != trained_on.channels == 3:
                flags += ["--channels", "3"]
            raise DataError(
                f"`{used.name}` has {_size(used)}, and model `{model.ref.name}` was trained on {_size(trained_on)}",
                hint=f"pack the images with {' '.join(flags)}",
            )
        if split != "train":
            _check_unseen(store, opened, model)
    return opened


def _check_unseen(store: Store, opened: OpenSplit, model: LoadedModel) -> None:
    """Check that no class of another pack was trained on; DataError if one has the name and first image of one."""
    trained = model.checkpoint.manifest.data
    path = None if trained.digest == opened.used.digest else find_training_pack(store, trained.name, trained.digest)
    pack = open_pack(path) if path else None
    if pack is None or "train" not in pack.splits:
        return
    seen, judged = (_first_images(packed) for packed in (pack.open_split("train", verify=False), opened.packed))
    shared = [name for name, image in judged.items() if seen.get(name) == image]
    if shared:
        raise DataError(
            f"model `{model.ref.name}` was trained on {counted(len(shared), 'class', 'classes')} of the split "
            f"`{opened.packed.name}` of `{opened.used.name}`, such as `{shared[0]}`",
            hint="evaluate it on a pack with its own split, or train a model on this pack",
        )


def _first_images(packed: PackedSplit) -> dict[str, bytes]:
    """Return the first image of each class by name."""
    starts = itertools.accumulate(packed.class_sizes, initial=0)
    return {name: packed.images.read([row]).tobytes() for name, row in zip(packed.class_names, starts, strict=False)}


def training_pack_notes(models: Mapping[str, LoadedModel], data: DataUsed) -> list[str]:
    """Name the models, by their names in the result, that were trained on other images than the evaluated pack's."""
    notes = []
    for name, model in models.items():
        trained_on = model.checkpoint.manifest.data
        if trained_on.digest == UNKNOWN:
            notes.append(f"The images that model `{name}` was trained on are unknown; `{data.name}` may have the same.")
        elif trained_on.digest != data.digest:
            notes.append(
                f"Model `{name}` was trained on the pack `{trained_on.name}`, and is evaluated on `{data.name}`."
            )
        ours, theirs = _preparation(trained_on), _preparation(data)
        if ours != theirs and "none" not in (trained_on.resample, data.resample):
            notes.append(
                f"The images of `{data.name}` were made otherwise than those that model `{name}` was trained on: "
                f"with {' '.join(theirs)} instead of {' '.join(ours)}."
            )
    return notes


def _size(data: DataUsed | TrainedOn) -> str:
    return f"{'grey' if data.channels == 1 else 'RGB'} images of {data.image_size} px"


def _preparation(data: DataUsed | TrainedOn) -> list[str]:
    """Return the flags of `nilr prepare-data` that make a pack's images, without defaults."""
    flags = {"--image-size": str(data.image_size), "--resample": data.resample, "--fit": data.fit}
    flags |= {"--channels": str(data.channels)} if data.channels != 3 else {}
    return [w for flag, value in flags.items() if value not in ("none", "bilinear", "stretch") for w in (flag, value)]


def _training_pack(store: Store, models: Sequence[LoadedModel]) -> Path:
    packs = [model.checkpoint.manifest.data for model in models]
    first = packs[0]
    if len({pack.digest for pack in packs}) > 1:
        trained = ", ".join(
            f"`{model.ref.name}` on `{pack.name}` (digest {pack.digest[:12]})"
            for model, pack in zip(models, packs, strict=True)
        )
        raise DataError(
            f"the models were trained on different packs: {trained}",
            hint=f"name the pack to evaluate all of them on, for example --data {first.name}",
        )
    if first.digest == UNKNOWN:
        raise DataError(
            f"the images that model `{models[0].ref.name}` was trained on are unknown",
            hint="name the pack to evaluate it on with --data",
        )
    path = find_training_pack(store, first.name, first.digest)
    if path is None:
        path = store.dataset_path(first.name)
        if not path.exists():
            making = store.command("prepare-data", "SOURCE...", *_preparation(first), "--name", first.name)
            raise DataError(
                f"no pack in `{store.home}` has the images that model `{models[0].ref.name}` was trained on: "
                f"`{first.name}` (digest {first.digest[:12]})",
                hint=f"name another pack with --data, or pack them with `{making}`",
            )
        raise DataError(
            f"`{path}` has other images (digest {open_pack(path).info.digest[:12]}) than those model "
            f"`{models[0].ref.name}` was trained on ({first.digest[:12]})",
            hint=f"name a pack with --data; `--data {first.name}` evaluates on this one",
        )
    return path


def probe_command(settings: Settings, references: Sequence[str], *, data: str | None = None) -> str:
    """Return the command that probes new models on a split with enough images; if there is none, that shows a model.

    Args:
        settings: of the command that made the models.
        references: the models' names or paths.
        data: the pack that they were trained on, a name or a path.
    """
    store = Store(settings.home)
    manifests = [read_manifest(store.find_model(reference).file) for reference in references]
    needs: list[tuple[Any, ...]] = [
        (one.data.digest, *(one.settings.get(name) for name in ("n_way", "n_shot", "n_query"))) for one in manifests
    ]
    digest, n_way, n_shot, n_query = needs[0]
    path, flags = find_training_pack(store, manifests[0].data.name, digest), []
    if path is None and data is not None:
        path, flags = store.find_data(data), ["--data", path_argument(data)]
    if path is not None and len(set(needs)) == 1:
        pack = open_pack(path)
        for split in reversed(pack.splits):
            sizes = pack.open_split(split, verify=False).class_sizes
            if len(sizes) >= n_way and min(sizes) >= n_shot + n_query:
                flags += [] if split == "test" else ["--split", split]
                flags += [] if len(sizes) >= 2 * n_way else ["--task-b", "any"]
                return settings.command("probe", *map(path_argument, references), *flags, *_code_flags(manifests))
    return settings.command("models", "show", path_argument(references[0]))


def _code_flags(manifests: Sequence[Manifest]) -> list[str]:
    """Return the flags of a command that computes with models, for those with one's own body."""
    paths = dict.fromkeys(one.architecture.name for one in manifests if is_import_path(one.architecture.name))
    return [word for path in paths for word in ("--arch", path)]


def find_training_pack(store: Store, name: str, digest: str) -> Path | None:
    """Return the pack in the store with this content digest, preferably the one of that name; None if there is none."""
    for path in sorted(store.packs(), key=lambda path: path.stem != name):
        with contextlib.suppress(NilrError, OSError):
            if open_pack(path).info.digest == digest:
                return path
    return None


def newest_pack(store: Store) -> Path:
    """Return the pack in the store that was made last, ignoring unreadable ones; StoreError if there is none."""
    packs = store.packs()
    if not packs:
        raise StoreError(f"there is no pack in `{store.home}`", hint=store.how_to_pack())
    made: dict[Path, tuple[str, float]] = {}
    for path in packs:
        with contextlib.suppress(NilrError, OSError):
            made[path] = open_pack(path).info.created_at, path.stat().st_mtime
    return max(packs, key=lambda path: made.get(path, ("", 0.0)))
