"""The loop of one training, or of several that differ in nothing but their seed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

import torch

from nilr.errors import DivergedError, Interrupted
from nilr.meta.engine.workers import workers
from nilr.meta.updates import Updates
from nilr.recipes.common.memory import out_of_memory
from nilr.recipes.meta_train.training import Training
from nilr.signals import StopRequest
from nilr.store import TRAINING_STATE


def train_together(trainings: Sequence[Training], stop: StopRequest) -> None:
    """Train all to their last update, validating and saving on the way.

    Those that are behind, after a kill, catch up first; each comes to what it would have come to alone.

    Args:
        trainings: of one recipe; the first one's reporter hears of the progress.
        stop: set by a signal.

    Raises:
        Interrupted: a signal arrived; everything is saved, or after a second signal what was saved before stays.
        DivergedError: a number of one is not finite; the finished updates of all are saved.
        DeviceError: the device has too little memory; every finished update is saved, or what was saved before stays.
    """
    reporter, total = trainings[0].reporter, trainings[0].settings.outer_steps
    reporter.stage("meta-train", total, done=_least(trainings), unit="updates")
    updates: Updates | None = None
    try:
        while True:
            for training in trainings:
                with _naming(training), _memory([training], training.settings.eval_episodes):
                    training.validate_if_due(stop)
            step = _least(trainings)
            if step >= total:
                break
            behind = [training for training in trainings if training.progress.outer_step == step]
            if updates is None or updates.outers != [training.outer for training in behind]:
                updates = _updates(behind)
            _update(behind, updates, step)
            reporter.advance()
            stop.raise_if_set()
    except Interrupted as interrupted:
        for training in trainings if not stop.urgent else ():
            training.save()
        raise Interrupted(interrupted.signum, hint=_how_to_go_on(trainings)) from None
    except DivergedError as error:
        for training in trainings:
            training.save_finished()
        others = f"; the finished updates of all {len(trainings)} models are saved" if len(trainings) > 1 else ""
        raise DivergedError(error.message, hint=f"{error.hint}{others}") from error
    for training in trainings:
        training.save_if_due(finished=True)


def _least(trainings: Sequence[Training]) -> int:
    return min(training.progress.outer_step for training in trainings)


def _updates(trainings: Sequence[Training]) -> Updates:
    outers, samplers = [training.outer for training in trainings], [training.train for training in trainings]
    return Updates(outers, samplers, trainings[0].settings.meta_batch_size)


def _update(trainings: Sequence[Training], updates: Updates, step: int) -> None:
    began = time.monotonic()
    with _memory(trainings, sum(training.settings.meta_batch_size for training in trainings)):
        computed = updates.compute(step)
    seconds = (time.monotonic() - began) / len(trainings)
    for training, update in zip(trainings, computed, strict=True):
        with _naming(training), _memory(trainings, training.settings.meta_batch_size, within=training):
            training.complete(update, seconds)
        training.save_if_due()


@contextlib.contextmanager
def _naming(training: Training) -> Iterator[None]:
    """Let the error of a training that diverges name its model."""
    try:
        yield
    except DivergedError as error:
        raise DivergedError(f"model `{training.directory.name}`: {error.message}", hint=error.hint) from error


@contextlib.contextmanager
def _memory(trainings: Sequence[Training], n_episodes: int, *, within: Training | None = None) -> Iterator[None]:
    """Save what is finished where a device runs out of memory over so many episodes, and say what takes less.

    Within an outer step of one training, its parameters and moments may be half of one update and half of the next:
    what was saved of it before stays then.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        for training in trainings:
            if training is not within:
                training.save_finished()
        first = trainings[0]
        device, engine = first.train.images.device, first.outer.engine
        at_once = max(engine.episodes_at_once, workers(device, engine.episode_chunk))
        raise out_of_memory(
            device,
            at_once=min(at_once, n_episodes),
            smaller="a smaller --n-query, --filters or --image-size, or --device cpu",
            saved=[training.resuming() for training in trainings if (training.directory / TRAINING_STATE).exists()],
        ) from error


def _how_to_go_on(trainings: Sequence[Training]) -> str | None:
    saved = [training for training in trainings if (training.directory / TRAINING_STATE).exists()]
    return " and ".join(f"go on with `{training.resuming()}`" for training in saved) or None
