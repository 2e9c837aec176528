"""The training loop, for one training or for several that differ only in their seed."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence

import torch

from nilr.errors import DataError, DivergedError, Interrupted, StoreError
from nilr.meta.engine.workers import workers
from nilr.meta.updates import Updates
from nilr.recipes.common.memory import out_of_memory
from nilr.recipes.meta_train.saving import TrainingRun
from nilr.signals import StopRequest


def train_together(runs: Sequence[TrainingRun], stop: StopRequest) -> None:
    """Train all runs to their last update.

    After a kill, some runs may be behind; they catch up first. Each run ends as if it had been trained alone.

    Args:
        runs: they differ only in their seed. The first one's reporter shows the progress.
        stop: set by a signal.

    Raises:
        Interrupted: a signal arrived. All runs are saved, except after a second signal.
        DivergedError: a number is not finite. The completed updates of all runs are saved.
        DataError, StoreError: the pack cannot be read any more, or a model cannot be saved. The completed updates of
            all runs are saved as far as possible.
        DeviceError: the device ran out of memory. Completed updates are saved; if an update was being applied, its run
            keeps its last save.
    """
    reporter, total = runs[0].training.reporter, runs[0].training.settings.outer_steps
    reporter.stage("meta-train", total, done=_completed(runs), unit="updates")
    updates: Updates | None = None
    with _saving_on_failure(runs, stop):
        while True:
            for run in runs:
                if run.training.validation_is_due():
                    _validate(run, stop)
            step = _completed(runs)
            if step >= total:
                break
            behind = [run for run in runs if run.training.progress.outer_step == step]
            if updates is None or updates.outers != [run.training.outer for run in behind]:
                updates = _updates(behind)
            _update(behind, updates, step)
            reporter.advance()
            # Decide first, then act: trainings that are spread over processes have to decide together.
            save_due, stop_due = [run.save_is_due() for run in behind], stop.signum
            for run in itertools.compress(behind, save_due):
                run.save()
            if stop_due is not None:
                raise Interrupted(stop_due)
        for run in runs:
            if run.unsaved_updates:
                run.save()


def _completed(runs: Sequence[TrainingRun]) -> int:
    """Return the number of updates that all runs have completed."""
    return min(run.training.progress.outer_step for run in runs)


def _updates(runs: Sequence[TrainingRun]) -> Updates:
    trainings = [run.training for run in runs]
    outers, samplers = [training.outer for training in trainings], [training.train for training in trainings]
    return Updates(outers, samplers, trainings[0].settings.meta_batch_size)


def _validate(run: TrainingRun, stop: StopRequest) -> None:
    training = run.training
    if not run.resumable:
        run.save()  # so that a kill never leaves the best checkpoint without a training state
    with _naming(run), _memory_hint([run], training.settings.eval_episodes):
        line, improved = training.validate(stop.raise_if_set)
    if improved:
        run.save_best()
    run.history.append(line)
    run.save()


def _update(runs: Sequence[TrainingRun], updates: Updates, step: int) -> None:
    """Compute one update of each run, and apply and log it."""
    began = time.monotonic()
    n_episodes = runs[0].training.settings.meta_batch_size
    with _memory_hint(runs, n_episodes * len(runs)):
        computed = updates.compute(step)
    seconds = (time.monotonic() - began) / len(runs)
    for run, update in zip(runs, computed, strict=True):
        with _naming(run), _memory_hint(runs, n_episodes, within=run):
            line = run.training.apply(update, seconds)
        if line is not None:
            run.history.append(line)


@contextlib.contextmanager
def _saving_on_failure(runs: Sequence[TrainingRun], stop: StopRequest) -> Iterator[None]:
    """Save what is complete if the block is interrupted or fails, and complete the hint."""
    try:
        yield
    except Interrupted as interrupted:
        if not stop.urgent:
            for run in runs:
                run.save()
        commands = [f"resume with `{run.resume_command()}`" for run in runs if run.resumable]
        raise Interrupted(interrupted.signum, hint=" and ".join(commands) or None) from None
    except DivergedError as error:
        for run in runs:
            if run.unsaved_updates:
                run.save()
        others = f"; the completed updates of all {len(runs)} models are saved" if len(runs) > 1 else ""
        raise DivergedError(error.message, hint=f"{error.hint}{others}") from error
    except (DataError, StoreError) as error:
        with contextlib.suppress(StoreError):  # the disk that failed may be that of the models
            for run in runs:
                if run.unsaved_updates:
                    run.save()
        resume = " and ".join(f"`{run.resume_command()}`" for run in runs if run.resumable)
        hints = [error.hint, f"resume with {resume}" if resume else None]
        raise type(error)(error.message, hint="; then ".join(filter(None, hints)) or None) from error


@contextlib.contextmanager
def _naming(run: TrainingRun) -> Iterator[None]:
    """Name the model in the error if its training diverges."""
    try:
        yield
    except DivergedError as error:
        raise DivergedError(f"model `{run.training.name}`: {error.message}", hint=error.hint) from error


@contextlib.contextmanager
def _memory_hint(runs: Sequence[TrainingRun], n_episodes: int, *, within: TrainingRun | None = None) -> Iterator[None]:
    """If the device runs out of memory, save what is complete and raise an error whose hint needs less memory.

    Args:
        runs: the runs to save.
        n_episodes: the number of episodes that the block computes.
        within: the run whose update is being applied. It is not saved: its parameters and moments may be half updated.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        for run in runs:
            if run is not within and run.unsaved_updates:
                run.save()
        training = runs[0].training
        device, engine = training.train.images.device, training.outer.engine
        at_once = max(engine.episodes_at_once, workers(device, engine.episode_chunk))
        raise out_of_memory(
            device,
            at_once=min(at_once, n_episodes),
            smaller="a smaller --n-query, --filters or --image-size, or --device cpu",
            saved=[run.resume_command() for run in runs if run.resumable],
        ) from error
