"""Choose the pack and the split that models are evaluated on, and check that they fit."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nilr.checkpoint import Manifest, TrainedOn, read_manifest
from nilr.config.base import Settings
from nilr.data.pack import PackedSplit, open_pack
from nilr.errors import DataError
from nilr.files import path_argument
from nilr.models.import_path import is_import_path
from nilr.recipes.common.loading import UNKNOWN, LoadedModel
from nilr.recipes.common.packs import OpenSplit, find_training_pack, open_split
from nilr.results.records import DataUsed
from nilr.store import Store
from nilr.words import counted, some


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
        trained = some(
            [
                f"`{model.ref.name}` on `{pack.name}` (digest {pack.digest[:12]})"
                for model, pack in zip(models, packs, strict=True)
            ]
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
