"""Everything that decides what a training starts from: settings, a stored state or a new model, data, weights."""

import contextlib
import functools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nilr import distributed
from nilr.checkpoint import Checkpoint
from nilr.config.meta_train import TrainSettings
from nilr.episodes import EpisodeSampler, stream_seed
from nilr.errors import StoreError, UsageError
from nilr.files import check_output, remove_at_once
from nilr.loggers import require_loggers
from nilr.meta.algorithms import Algorithm
from nilr.meta.cuda_graphs import capture_on
from nilr.meta.engine.contract import Engine
from nilr.meta.engine.registry import choose_engine
from nilr.meta.inner_lr import initial_rates
from nilr.meta.outer_loop import OuterLoop, OuterSettings
from nilr.models.import_path import check_allowed
from nilr.models.registry import body_arguments, build_learner, image_arguments
from nilr.recipes.common.episodes import split_commas
from nilr.recipes.common.memory import fit_memory
from nilr.recipes.common.packs import OpenSplit, find_training_pack, newest_pack, open_split
from nilr.recipes.common.settings import OF_JOBS, check_unchanged, recorded_settings, resolve, with_stored_settings
from nilr.recipes.meta_train.reference import read_reference, with_reference
from nilr.recipes.meta_train.training import Training
from nilr.reporting import Reporter
from nilr.results.records import DataUsed, Reference
from nilr.runtime import prepare
from nilr.store import TRAINING_STATE, Store, holds_model, newest_manifest, without_state
from nilr.training_state import Progress, TrainingState, load_training_state
from nilr.words import counted


def settings_by_seed(settings: TrainSettings) -> list[tuple[TrainSettings, str]]:
    """Return the settings of each training, and a default name for its model."""
    if settings.seeds == 1:
        return [(settings, settings.algo)]
    if isinstance(settings.seeds, tuple) and "seed" in settings.explicit():
        raise UsageError("--seeds lists the seeds, and --seed gives another one", hint="leave --seed out")
    if "/" in settings.resume:
        raise UsageError("--seeds resumes models by name, not by path", hint="give --resume the NAME of NAME-seed0")
    by_name = settings.resume not in ("never", "auto")
    base = settings.name or (settings.resume if by_name else None)
    each = []
    for seed in settings.each_seed:
        change: dict[str, Any] = {"seeds": 1, "seed": seed, "name": f"{base}-seed{seed}" if base is not None else None}
        if by_name:
            change["resume"] = f"{settings.resume}-seed{seed}"
        each.append((settings.model_copy(update=change), f"{settings.algo}-seed{seed}"))
    return each


def job_settings(settings: TrainSettings, store: Store, default_name: str) -> TrainSettings:
    """Return the settings of a training for a job, which resumes the same model whenever it starts again."""
    find_model_to_resume(settings, store)
    changes: dict[str, Any] = dict.fromkeys(OF_JOBS)
    if settings.resume == "never":
        resolve(settings)
        pack = newest_pack(store).stem if settings.data is None else settings.data
        store.find_data(pack)
        name = settings.name or store.new_model_name(default_name)
        if holds_model(store.model_dir(name)):
            store.remove_model(name)  # --force
        changes |= {"data": pack, "name": name, "resume": "auto", "force": False}
    elif settings.resume != "auto":
        changes["name"] = Path(settings.resume).absolute().name
    return settings.model_copy(update=changes)


class Prepared(NamedTuple):
    """What a training needs besides its place: everything is checked, and nothing written."""

    settings: TrainSettings  # resolved
    outer: OuterLoop
    data: DataUsed
    train: EpisodeSampler
    val: EpisodeSampler | None  # None without validation
    reference: Reference | None  # the model whose rates it uses


class Starter:
    """Starts the trainings of one command. They share opened splits and the decision to capture updates."""

    def __init__(self, store: Store, resources: contextlib.ExitStack, reporter: Reporter, *, n_models: int = 1) -> None:
        self.notes: list[str] = []  # for the result: which pack is used, why updates are not captured
        self._store, self._resources, self._reporter, self._n_models = store, resources, reporter, n_models
        self._fitted: tuple[bool, int | None] | None = None  # `recompute` and `episode_chunk` of the engines
        self._open_split = functools.cache(open_split)
        self._capture_on = functools.cache(lambda device: capture_on(device, self._note))

    def start(self, settings: TrainSettings, default_name: str, reporter: Reporter) -> Training:
        """Return a new or restored training that is ready to run, with its model's directory locked."""
        directory, tensors, stored = distributed.from_first(lambda: self._find(settings))
        ready = self.prepare(settings, directory, stored)
        if directory is None:
            new = functools.partial(_new_directory, ready.settings, self._store, default_name)
            directory = distributed.from_first(lambda: self._resources.enter_context(new()))
        training = Training(
            directory, ready.settings, ready.outer, ready.data, ready.train, ready.val, reporter, ready.reference
        )
        self._resources.callback(training.close_loggers)
        if stored is None:
            training.history.clear()
        else:
            training.restore(tensors, stored.progress)
        training.check_processes()
        logs = ready.settings.log_dir or _store_of(directory, self._store).home / "logs"
        distributed.from_first(functools.partial(training.open_loggers, logs))
        _announce(training, self._reporter)
        return training

    def prepare(self, settings: TrainSettings, directory: Path | None, stored: TrainingState | None) -> Prepared:
        """Check the settings, and return what a training needs besides its place; nothing is written."""
        if directory is not None and stored is not None:
            given = settings.arch
            if settings.resume != "auto":
                settings = with_stored_settings(settings, stored.settings, stored.data, directory.name)
            check_allowed(settings.arch, [given], f"model `{directory.name}`")
        settings, algorithm = resolve(settings)
        if directory is not None and stored is not None:
            named = settings.resume if "/" in settings.resume else directory.name
            check_unchanged(recorded_settings(settings), stored.settings, named)
        reference, checkpoint = read_reference(settings, stored, self._store)
        device = prepare(settings.device, settings.threads, settings.precision)
        train, val = self._open_data(settings, stored, device)
        earlier = None if directory is None else newest_manifest(directory)
        outer = self._outer_loop(
            settings, algorithm, checkpoint, train.used, device, engine=None if earlier is None else earlier.engine
        )
        samplers = _sampler(settings, train), None if val is None else _sampler(settings, val)
        return Prepared(settings, outer, train.used, *samplers, reference)

    def _find(self, settings: TrainSettings) -> tuple[Path | None, dict[str, Tensor], TrainingState | None]:
        """Lock the model to resume, and return its directory, its tensors and its state; None to train a new one."""
        directory = find_model_to_resume(settings, self._store)
        if directory is None:
            return None, {}, None
        self._resources.enter_context(_store_of(directory, self._store).lock(directory.name))
        return directory, *load_stored(directory)

    def _open_data(
        self, settings: TrainSettings, stored: TrainingState | None, device: torch.device
    ) -> tuple[OpenSplit, OpenSplit | None]:
        path, data = None, settings.data
        if stored is not None and stored.data is not None and data in (None, stored.data):
            data = stored.data
            path = find_training_pack(self._store, data, stored.data_digest)
        path = path or (self._newest_pack if data is None else self._store.find_data(data))
        train = self._open_split(path, "train", device)
        if stored is not None and stored.data_digest != train.used.digest:
            raise StoreError(
                f"`{path}` (digest {train.used.digest[:12]}) is not the pack that this model was trained on: "
                f"`{stored.data}` ({stored.data_digest[:12]})",
                hint="name that pack with --data",
            )
        return train, self._open_split(path, "val", device) if settings.eval_every else None

    @functools.cached_property
    def _newest_pack(self) -> Path:
        path, n_packs = newest_pack(self._store), len(self._store.packs())
        which = "the only pack" if n_packs == 1 else f"the newest of {n_packs} packs"
        self._note(f"the training uses `{path.stem}`, {which}; --data selects another one")
        return path

    def _outer_loop(
        self,
        settings: TrainSettings,
        algorithm: Algorithm,
        reference: Checkpoint | None,
        data: DataUsed,
        device: torch.device,
        *,
        engine: str | None,
    ) -> OuterLoop:
        learner = build_learner(
            settings.arch,
            n_way=settings.n_way,
            **image_arguments(data.image_size, data.channels),
            **body_arguments(settings.arch, settings),
            seed=stream_seed(settings.seed, "weights"),
        )
        params = {name: value.to(device) for name, value in learner.initial_params().items()}
        how = settings.precision, settings.episode_chunk
        chosen = choose_engine(settings.engine, learner, device, *how, earlier=engine)
        self._fit_memory(settings, algorithm, chosen, data, device)
        numbers = initial_rates(algorithm, params, learner.kinds, stream_seed(settings.seed, "rates"))
        numbers, norms = with_reference(settings, reference, numbers, params)
        return OuterLoop(
            algorithm,
            params,
            numbers,
            engine=chosen,
            settings=OuterSettings(
                settings.outer_lr,
                settings.grad_clip,
                algorithm.inner_steps,
                settings.outer_steps,
                settings.outer_lr_schedule,
                settings.multi_step_loss,
                settings.batch_stats == "inductive",
            ),
            rate_norms=norms,
            capture=self._capture_on(device) if chosen.capturable else None,
        )

    def _fit_memory(
        self, settings: TrainSettings, algorithm: Algorithm, engine: Engine, data: DataUsed, device: torch.device
    ) -> None:
        """Adjust the engine to the available memory; several models of one command have the same adjustment."""
        if self._fitted is None:
            note = fit_memory(
                engine,
                settings.recompute,
                algorithm,
                n_episodes=settings.meta_batch_size * self._n_models,
                n_support=settings.n_way * settings.n_shot,
                n_query=settings.n_way * settings.n_query,
                image_shape=(data.channels, data.image_size, data.image_size),
                device=device,
            )
            fitted = distributed.gather((engine.recompute, engine.episode_chunk))
            chunks = [chunk for _, chunk in fitted if chunk is not None]
            self._fitted = any(recompute for recompute, _ in fitted), min(chunks, default=None)
            if note is not None:
                self._note(note)
        engine.recompute, engine.episode_chunk = self._fitted

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self._reporter.note(text)


def check_loggers(settings: TrainSettings) -> None:
    """Check --log and --log-dir; NilrError if a logger cannot be used."""
    require_loggers(split_commas(settings.log))
    if settings.log_dir is not None:
        check_output(settings.log_dir, "--log-dir", folder=True)


def find_model_to_resume(settings: TrainSettings, store: Store) -> Path | None:
    """Return the directory of the model to resume, or None to train a new one."""
    if settings.resume == "never":
        if settings.name is not None and not settings.force:
            _require_free(settings.name, store)
        return None
    if settings.resume == "auto":
        if settings.name is None:
            raise UsageError("--resume auto needs --name", hint="or name the model: --resume NAME")
        directory = store.model_dir(settings.name)
        return directory if holds_model(directory) else None
    directory = Path(settings.resume) if "/" in settings.resume else store.model_dir(settings.resume)
    if not holds_model(directory):
        hint = store.known_models(directory.name)
        raise StoreError(f"there is no model `{settings.resume}` to resume", hint=hint)
    if settings.name not in (None, directory.absolute().name):
        raise UsageError(
            f"--resume names the model `{settings.resume}`, and --name another one: `{settings.name}`",
            hint="leave --name out",
        )
    if not (directory / TRAINING_STATE).exists():
        raise without_state(directory.name)
    return directory


def _store_of(directory: Path, store: Store) -> Store:
    """Return the store that a model's directory belongs to; it may differ from the user's."""
    models = directory.absolute().parent
    return Store(models.parent) if models.name == "models" else store


def load_stored(directory: Path) -> tuple[dict[str, Tensor], TrainingState]:
    """Load a training state. For a model without one, return no tensors, and the settings of its checkpoint."""
    file = directory / TRAINING_STATE
    manifest = None if file.exists() else newest_manifest(directory)
    if manifest is None:
        return load_training_state(file)
    data, settings = manifest.data, manifest.settings
    # `resolve` checks the settings, whose error names the setting alone
    return {}, TrainingState.model_construct(
        settings=settings,
        data=data.name,
        data_digest=data.digest,
        progress=Progress(),
        reference=manifest.reference,
    )


def _sampler(settings: TrainSettings, split: OpenSplit) -> EpisodeSampler:
    return EpisodeSampler(
        split.images, settings.n_way, settings.n_shot, settings.n_query, settings.seed, split.packed.name
    )


def _require_free(name: str, store: Store) -> None:
    if holds_model(store.model_dir(name)):
        raise StoreError(
            f"model `{name}` exists in `{store.home}`",
            hint="choose another --name, replace the model with --force, or resume it with --resume auto",
        )


@contextlib.contextmanager
def _new_directory(settings: TrainSettings, store: Store, default_name: str) -> Iterator[Path]:
    """Create and lock the directory of a new model; remove it at the end if nothing was saved."""
    name = settings.name or store.new_model_name(default_name)
    with store.lock(name):
        directory = store.model_dir(name)
        if holds_model(directory):
            if not settings.force:
                _require_free(name, store)  # another process may have trained it since the first check
            remove_at_once(directory)
        directory.mkdir(parents=True, exist_ok=True)
        try:
            yield directory
        finally:
            if not holds_model(directory):
                shutil.rmtree(directory, ignore_errors=True)


def _announce(training: Training, reporter: Reporter) -> None:
    name, settings, progress = training.name, training.settings, training.progress
    if progress.finished(settings):
        reporter.note(f"model `{name}` is finished: {counted(progress.outer_step, 'update')}; nothing to do")
        return
    what = f"resumes after update {progress.outer_step}" if progress.outer_step else "new"
    rates = f", with the rates of `{training.reference.name}`" if training.reference else ""
    reporter.note(
        f"model `{name}`: {what}; {settings.algo} on `{training.data.name}`, engine `{training.outer.engine.name}`"
        f"{rates}"
    )
