"""Meta-train: a packed dataset -> a model in the registry."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor

from nilr.config import TrainSettings
from nilr.episodes import EpisodeSampler
from nilr.errors import StoreError, UsageError
from nilr.files import remove_at_once
from nilr.meta.algorithms import Algorithm
from nilr.recipes.common.loading import OpenSplit, Packs, load_model
from nilr.recipes.common.memory import with_memory_hint
from nilr.recipes.common.outcome import Outcome
from nilr.recipes.common.settings import check_unchanged, recorded_settings, resolve, with_stored_settings
from nilr.recipes.meta_train.loop import train_together
from nilr.recipes.meta_train.start import OuterLoops
from nilr.recipes.meta_train.training import Training
from nilr.reporting import NotesOnly, Reporter
from nilr.results.making import TrainMetrics
from nilr.results.result import Result
from nilr.runtime import environment, prepare
from nilr.signals import stopping_gracefully
from nilr.store import LAST, TRAINING_STATE, Store, holds_model, newest_manifest
from nilr.training_state import read_training_state


@with_memory_hint("a smaller --filters or pack, or --device cpu", at_once=1)
def run(settings: TrainSettings, reporter: Reporter) -> Result[TrainMetrics]:
    """Train one model, or one for each of several seeds, or go on with them.

    Raises:
        NilrError: something that the settings name cannot be had, or training diverged.
        Interrupted: a signal, after saving.
    """
    outcome = Outcome(settings)
    store = Store(settings.home)
    with contextlib.ExitStack() as held:
        trainings: list[Training] = []
        packs, loops = Packs(), OuterLoops(reporter)
        for own, fresh in _by_seed(settings):
            told = NotesOnly(reporter) if trainings else reporter
            training = _ready(own, store, packs, loops, held, reporter=told, fresh=fresh)
            held.enter_context(contextlib.closing(training))
            _announce(training, reporter)
            trainings.append(training)
        with stopping_gracefully() as stop:
            train_together(trainings, stop)
        first = trainings[0]
        device = first.train.images.device
        loaded = [
            load_model(store, str(t.directory / LAST), device=device, engine=t.settings.engine) for t in trainings
        ]
    names = [training.directory.name for training in trainings]
    together = {"seeds": settings.seeds, "seed": first.settings.seed}
    return outcome.result(
        _metrics(trainings),
        config={**recorded_settings(first.settings), **together, "data": first.data.name, "name": _one_or_all(names)},
        models=[model.used.model_copy(update={"name": name}) for model, name in zip(loaded, names, strict=True)],
        data=first.data,
        notes=loops.notes,
        environment=environment(device, first.outer.engine.name, captured=first.outer.captured),
    )


def _by_seed(settings: TrainSettings) -> list[tuple[TrainSettings, str]]:
    """Return each training's settings, with a seed and a name of its own where there are several, and a name to vary.

    Raises:
        UsageError: several are to go on with one path.
    """
    if settings.seeds == 1:
        return [(settings, settings.algo)]
    if "/" in settings.resume:
        raise UsageError("--seeds goes on by name, not by path", hint="give --resume the NAME of NAME-seed0")
    resumes = settings.resume not in ("never", "auto")
    base = settings.name or (settings.resume if resumes else None)
    each = []
    for seed in range(settings.seed, settings.seed + settings.seeds):
        own: dict[str, Any] = {"seeds": 1, "seed": seed, "name": f"{base}-seed{seed}" if base is not None else None}
        if resumes:
            own |= {"resume": f"{settings.resume}-seed{seed}"}
        each.append((settings.model_copy(update=own), f"{settings.algo}-seed{seed}"))
    return each


def _ready(
    settings: TrainSettings,
    store: Store,
    packs: Packs,
    loops: OuterLoops,
    held: contextlib.ExitStack,
    *,
    reporter: Reporter,
    fresh: str,
) -> Training:
    """Return a training that is ready to run, its model's directory locked.

    Args:
        settings: of this training.
        store: where models and packs are.
        packs: opens splits.
        loops: makes outer loops.
        held: takes over what must be released at the end.
        reporter: told of the progress.
        fresh: varied for the name of a new model that was given none.
    """
    directory = _existing(settings, store)
    begun = None
    if directory is not None:
        held.enter_context(_store_of(directory, store).lock(directory.name))
        begun = _begun(directory)
    values = begun[1] if begun is not None else None
    settings, row = _resolve(settings, values, directory)
    device = prepare(settings.device, settings.threads, settings.precision)
    train, val = _open_data(settings, store, packs, values, device)
    outer = loops.make(settings, row, train.used.image_size, device)
    samplers = (_sampler(settings, train), _sampler(settings, val) if val is not None else None)
    claimed = directory if directory is not None else held.enter_context(_claimed(settings, store, fresh))
    training = Training(settings, outer, train.used, *samplers, directory=claimed, reporter=reporter)
    training.begin() if begun is None else training.restore(*begun)
    return training


def _metrics(trainings: Sequence[Training]) -> TrainMetrics:
    each = {training.directory.name: training.metrics() for training in trainings}
    if len(each) == 1:
        return next(iter(each.values()))

    def mean(name: str) -> float | None:
        values = [getattr(metrics, name) for metrics in each.values()]
        return None if None in values else sum(values) / len(values)

    averaged = ("query_loss", "accuracy_before", "accuracy_after", "share_negative", "seconds_per_update")
    return TrainMetrics(
        outer_step=min(metrics.outer_step for metrics in each.values()),
        best_outer_step=None,
        best_val_accuracy=None,
        last_val_accuracy=None,
        skipped_updates=sum(metrics.skipped_updates for metrics in each.values()),
        by_model=each,
        **{name: mean(name) for name in averaged},
    )


def _one_or_all(names: list[str]) -> JsonValue:
    return names[0] if len(names) == 1 else [*names]


def _store_of(directory: Path, store: Store) -> Store:
    """Return the store that a model's directory lies in, perhaps another than the user's."""
    models = directory.absolute().parent
    return Store(models.parent) if models.name == "models" else store


def _existing(settings: TrainSettings, store: Store) -> Path | None:
    """Return the directory of the training to go on with, or None to start one."""
    if settings.resume == "never":
        if settings.name is not None and holds_model(store.model_dir(settings.name)) and not settings.force:
            raise StoreError(
                f"model `{settings.name}` exists in `{store.home}`",
                hint="take another --name, replace it with --force, or go on with --resume auto",
            )
        return None
    if settings.resume == "auto":
        if settings.name is None:
            raise UsageError("--resume auto needs --name", hint="or name the model: --resume NAME")
        directory = store.model_dir(settings.name)
        return directory if holds_model(directory) else None
    directory = Path(settings.resume) if "/" in settings.resume else store.model_dir(settings.resume)
    if not holds_model(directory):
        known = ", ".join(store.model_names()) or "none"
        raise StoreError(f"`{settings.resume}` has no training to go on with", hint=f"models here: {known}")
    if settings.name not in (None, directory.absolute().name):
        raise UsageError(
            f"--resume goes on with `{settings.resume}`, not with `{settings.name}`", hint="leave --name out"
        )
    return directory


def _begun(directory: Path) -> tuple[dict[str, Tensor], dict[str, JsonValue]]:
    """Read a training's state; of a model that was imported without one, no tensors and what its manifest says."""
    manifest = None if (directory / TRAINING_STATE).exists() else newest_manifest(directory)
    if manifest is None:
        return read_training_state(directory / TRAINING_STATE)
    return {}, {"settings": manifest.settings, "data": manifest.data.name, "data_digest": manifest.data.digest}


def _resolve(
    settings: TrainSettings, values: dict[str, JsonValue] | None, directory: Path | None
) -> tuple[TrainSettings, Algorithm]:
    if values is None or directory is None:
        return resolve(settings)
    stored: Any = values["settings"]
    if settings.resume != "auto":
        settings = with_stored_settings(settings, stored, values.get("data"))
    settings, row = resolve(settings)
    check_unchanged(recorded_settings(settings), stored, directory.name)
    return settings, row


def _open_data(
    settings: TrainSettings, store: Store, packs: Packs, values: dict[str, JsonValue] | None, device: torch.device
) -> tuple[OpenSplit, OpenSplit | None]:
    path = store.find_data(settings.data)
    train = packs.open_split(path, "train", device)
    if values is not None and values["data_digest"] != train.used.digest:
        raise StoreError(
            f"`{path}` (digest {train.used.digest[:12]}) is not the pack that this training was begun on: "
            f"`{values.get('data')}` ({str(values['data_digest'])[:12]})",
            hint="name the pack it was begun on with --data",
        )
    return train, packs.open_split(path, "val", device) if settings.eval_every else None


def _sampler(settings: TrainSettings, split: OpenSplit) -> EpisodeSampler:
    return EpisodeSampler(
        split.images, settings.n_way, settings.n_shot, settings.n_query, settings.seed, split.packed.name
    )


@contextlib.contextmanager
def _claimed(settings: TrainSettings, store: Store, fresh: str) -> Iterator[Path]:
    """Make and hold a new model's directory; one that is still empty of models at the end is taken away again."""
    name = settings.name or store.fresh_model_name(fresh)
    with store.lock(name):
        claimed = store.model_dir(name)
        if holds_model(claimed):
            if not settings.force:
                raise StoreError(f"model `{name}` exists in `{store.home}`", hint="take another --name, or --force")
            remove_at_once(claimed)
        claimed.mkdir(parents=True, exist_ok=True)
        try:
            yield claimed
        finally:
            if not holds_model(claimed):
                shutil.rmtree(claimed, ignore_errors=True)


def _announce(training: Training, reporter: Reporter) -> None:
    name, settings, progress = training.directory.name, training.settings, training.progress
    if progress.finished(settings):
        reporter.note(f"model `{name}` is finished: {progress.outer_step} updates; nothing to do")
        return
    what = f"going on at update {progress.outer_step}" if progress.outer_step else "a new model"
    reporter.note(
        f"model `{name}`: {what}; {settings.algo} on `{training.data.name}`, engine `{training.outer.engine.name}`"
    )
