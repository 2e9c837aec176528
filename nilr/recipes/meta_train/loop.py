"""The training loop, for one training or for several that differ only in their seed."""

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence

from nilr import distributed
from nilr.errors import (
    DataError,
    DivergedError,
    Interrupted,
    LostProcessError,
    NilrError,
    StoreError,
    is_out_of_memory,
)
from nilr.meta.updates import Updates
from nilr.recipes.common.memory import episodes_at_once, out_of_memory
from nilr.recipes.meta_train.progress import TrainingProgress
from nilr.recipes.meta_train.training import Training
from nilr.signals import StopRequest
from nilr.store import BEST


def train_together(trainings: Sequence[Training], stop: StopRequest) -> None:
    """Run all trainings to their last update.

    After a kill, some may be behind; they catch up first. Each one ends as if it had been trained alone.

    Args:
        trainings: they differ only in their seed. The first one's reporter shows the progress.
        stop: set by a signal.

    Raises:
        Interrupted: a signal arrived. All trainings are saved, except after a second signal.
        DivergedError: a number is not finite. The completed updates of all trainings are saved.
        DataError, StoreError, LostProcessError: the pack cannot be read any more, a model cannot be saved, or another
            process is lost. The completed updates of all trainings are saved as far as possible.
        DeviceError: the device ran out of memory. Completed updates are saved; if an update was being applied, its
            training keeps its last save.
    """
    settings, progress = trainings[0].settings, TrainingProgress(trainings)
    updates: Updates | None = None
    with _saving_on_failure(trainings, stop):
        while True:
            for training in trainings:
                if training.validation_is_due():
                    _validate(training, stop, progress)
            step = progress.completed
            if step >= settings.outer_steps:
                break
            behind = [training for training in trainings if training.progress.outer_step == step]
            outers = [training.outer for training in behind]
            if updates is None or updates.outers != outers:
                updates = Updates(outers, [training.train for training in behind], settings.meta_batch_size)
            _update(behind, updates, step)
            progress.updated()
            for training in behind:
                if training.save_is_due():
                    training.save()
            _raise_if_stopped(stop)
        _save_updates(trainings)


def _raise_if_stopped(stop: StopRequest) -> None:
    """Raise `Interrupted` in all processes if one of them has received a signal."""
    for signum in distributed.gather(stop.signum):
        if signum is not None:
            raise Interrupted(signum)


def _save_updates(trainings: Iterable[Training]) -> None:
    for training in trainings:
        if training.unsaved_updates:
            training.save()


def _validate(training: Training, stop: StopRequest, progress: TrainingProgress) -> None:
    if not training.resumable:
        training.save()  # so that a kill never leaves the best checkpoint without a training state

    def on_episode(completed: int) -> None:
        progress.validated(training, completed)
        _raise_if_stopped(stop)

    training.check_processes()
    with _naming(training), _memory_hint([training], training.settings.eval_episodes):
        line, improved = training.validate(on_episode)
    if improved:
        training.write_checkpoint(BEST)
    training.log(line)
    training.save()


def _update(trainings: Sequence[Training], updates: Updates, step: int) -> None:
    """Compute one update of each training, and apply and log it."""
    began = time.monotonic()
    n_episodes = trainings[0].settings.meta_batch_size
    with _memory_hint(trainings, n_episodes * len(trainings)):
        computed = updates.compute(step)
    seconds = (time.monotonic() - began) / len(trainings)
    for training, update in zip(trainings, computed, strict=True):
        with _naming(training), _memory_hint(trainings, n_episodes, within=training):
            line = training.apply(update, seconds)
        if line is not None:
            total = {} if step else {"outer_steps": training.settings.outer_steps}  # for `models ls` before a save
            training.log(line | total)


@contextlib.contextmanager
def _saving_on_failure(trainings: Sequence[Training], stop: StopRequest) -> Iterator[None]:
    """Save what is complete if the block is interrupted or fails, and complete the hint."""
    try:
        yield
    except Interrupted as interrupted:
        if not stop.urgent:
            for training in trainings:
                training.save()
        raise Interrupted(interrupted.signum, hint=_resume_hint(trainings)) from None
    except DivergedError as error:
        _save_updates(trainings)
        others = f"; the completed updates of all {len(trainings)} models are saved" if len(trainings) > 1 else ""
        raise DivergedError(error.message, hint=f"{error.hint}{others}") from error
    except (DataError, StoreError, LostProcessError) as error:
        with contextlib.suppress(StoreError):  # the disk that failed may be that of the models
            _save_updates(trainings)
        for training in trainings:
            training.log_failure(error.message)
        hints = filter(None, (error.hint, _resume_hint(trainings)))
        raise type(error)(error.message, hint="; then ".join(hints) or None) from error
    except NilrError:
        raise
    except Exception as error:
        for training in trainings:
            training.log_failure(f"internal: {type(error).__name__}: {error}")
        raise


def _resume_hint(trainings: Sequence[Training]) -> str | None:
    commands = [f"resume with `{training.resume_command()}`" for training in trainings if training.resumable]
    return " and ".join(commands) or None


@contextlib.contextmanager
def _naming(training: Training) -> Iterator[None]:
    """Name the model in the error if its training diverges, and log the error."""
    try:
        yield
    except DivergedError as error:
        training.log_failure(error.message)
        raise DivergedError(f"model `{training.name}`: {error.message}", hint=error.hint) from error


@contextlib.contextmanager
def _memory_hint(trainings: Sequence[Training], n_episodes: int, *, within: Training | None = None) -> Iterator[None]:
    """If the device runs out of memory, save what is complete and raise an error whose hint needs less memory.

    Args:
        trainings: the trainings to save.
        n_episodes: the number of episodes that the block computes.
        within: the training whose update is being applied. It is not saved: its tensors may be half updated.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        _save_updates(training for training in trainings if training is not within)
        device, engine = trainings[0].train.images.device, trainings[0].outer.engine
        keeps = trainings[0].outer.algorithm.order == 2 and not engine.recompute
        recompute = "--recompute on, " if keeps else ""
        problem = out_of_memory(
            device,
            at_once=min(episodes_at_once(engine, device), n_episodes),
            smaller=f"{recompute}a smaller --n-query, --filters, --widths or --image-size, or --device cpu",
            saved=[training.resume_command() for training in trainings if training.resumable],
        )
        for training in trainings:
            training.log_failure(problem.message)
        raise problem from error
