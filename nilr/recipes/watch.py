"""Watch trainings from their files alone: histories, and the locks of the store."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from pydantic import Field, ValidationError

from nilr.checkpoint import Manifest
from nilr.config.commands import ModelStatus, WatchSettings
from nilr.config.meta_train import TrainSettings
from nilr.errors import CheckpointError, StoreError
from nilr.history import Line, read_history, training_status
from nilr.reporting import Reporter
from nilr.results.records import Mean, Record
from nilr.store import HISTORY, Store, holds_model, newest_manifest

_RECENT = 20  # lines of the history that the pace is measured from


class Watched(Record):
    """What the files of one training say."""

    name: str
    status: ModelStatus
    algo: str | None = None
    outer_step: int = 0
    outer_steps: int | None = None
    elapsed_seconds: float | None = None  # of the process that trains; only of a running training
    updates_per_second: float | None = None  # lately
    seconds_left: float | None = None
    query_loss: list[float] = Field(default_factory=list)
    # of the queries after adaptation, at each logged update
    accuracy: list[float] = Field(default_factory=list)
    validation: list[float] = Field(default_factory=list)
    last_validation: Mean | None = None
    last_validated_at: int | None = None
    best_validation: float | None = None
    best_at: int | None = None
    share_negative: float | None = None
    share_negative_by_layer: dict[str, float] = Field(default_factory=dict)
    skipped: int = 0
    problem: str | None = None  # the error that ended the training

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.status != "running"


@dataclass
class Watch:
    """Reads the same trainings again and again."""

    store: Store
    names: list[str]
    interval: float
    once: bool

    def states(self) -> Iterator[list[Watched]]:
        """Yield the states of all trainings, every `interval` seconds until all have ended."""
        while True:
            states = [self._read(name) for name in self.names]
            yield states
            if self.once or all(state.ended for state in states):
                return
            time.sleep(self.interval)

    def _read(self, name: str) -> Watched:
        directory = self.store.model_dir(name)
        # before the files: the last lines are written before the lock is released
        since = self.store.in_use_since(name)
        lines = list[Line]()
        with contextlib.suppress(CheckpointError):
            lines += read_history(directory / HISTORY)
        return _describe(name, since, lines, newest_manifest(directory), saved=holds_model(directory))


def run(settings: WatchSettings, reporter: Reporter) -> Watch:
    """Find the trainings to watch: those that are named, or all that a process is working on, or the newest one."""
    store = Store(settings.home)
    if settings.models:
        for name in settings.models:
            store.require_model(name)
        return Watch(store, list(settings.models), settings.every, settings.once)
    names = [name for name in store.model_names() if (store.model_dir(name) / HISTORY).exists()]
    if not names:
        raise StoreError(f"there is no training in `{store.home / 'models'}`", hint=store.how_to_train())
    running = [name for name in names if store.in_use(name)]
    newest = max(names, key=lambda name: (store.model_dir(name) / HISTORY).stat().st_mtime)
    return Watch(store, running or [newest], settings.every, settings.once)


class _Times(NamedTuple):
    """What a process needs for an update and for a validation, in seconds; None if it is not measured yet."""

    update: float | None
    validation: float | None


def _measure(lines: Sequence[Line], since: float) -> _Times:
    """Measure recent updates and the newest validation from the times of the lines that a process has written."""
    timed = [(line.logged_at.timestamp(), line) for line in lines if line.logged_at is not None]
    steps = [
        (then - before, line.outer_step - earlier.outer_step, line.val_accuracy is not None)
        for (before, earlier), (then, line) in pairwise(timed)
        if before >= since
    ]
    updates = [(seconds, n) for seconds, n, validated in steps if not validated and n > 0][-_RECENT:]
    n_updates = sum(n for _, n in updates)
    update = sum(seconds for seconds, _ in updates) / n_updates if n_updates else None
    validations = [seconds - n * (update or 0) for seconds, n, validated in steps if validated]
    return _Times(update, max(0.0, validations[-1]) if validations else None)


def _seconds_left(step: int, total: int, validated_at: int, manifest: Manifest | None, times: _Times) -> float | None:
    """Return the time that the remaining updates and validations need; validations count as soon as one is measured."""
    if times.update is None:
        return None
    validations = 0
    with contextlib.suppress(ValidationError):
        if manifest is not None:
            settings = TrainSettings.from_stored(manifest.settings)
            validations = settings.model_copy(update={"outer_steps": total}).validations_after(validated_at)
    return (total - step) * times.update + validations * (times.validation or 0)


def _describe(name: str, since: float | None, lines: list[Line], manifest: Manifest | None, *, saved: bool) -> Watched:
    """Describe a training from its files.

    Args:
        name: of the model.
        since: when the process that trains it began; None if there is none.
        lines: the history.
        manifest: of the newest checkpoint.
        saved: whether there is a checkpoint or a training state.
    """
    validated = [line for line in lines if line.val_accuracy is not None]
    updates = [line for line in lines if line.query_loss is not None]
    total = next((line.outer_steps for line in reversed(lines) if line.outer_steps is not None), None)
    if total is None and manifest is not None and isinstance(found := manifest.settings.get("outer_steps"), int):
        total = found
    step = max((line.outer_step for line in lines), default=0)
    last = validated[-1] if validated else None
    best = max(validated, key=lambda line: line.val_accuracy.mean if line.val_accuracy else 0) if validated else None
    newest = updates[-1] if updates else None
    problem = lines[-1].failed if lines and since is None else None
    times = _Times(None, None) if since is None else _measure(lines, since)
    left = None if total is None else _seconds_left(step, total, last.outer_step if last else 0, manifest, times)
    status = training_status(
        step, step + 1 if total is None else total, running=since is not None, saved=saved, failed=problem is not None
    )
    return Watched(
        name=name,
        status=status,
        algo=str(manifest.algorithm.get("name")) if manifest else None,
        outer_step=step,
        outer_steps=total,
        elapsed_seconds=None if since is None else max(0.0, time.time() - since),
        updates_per_second=1 / times.update if times.update else None,
        seconds_left=left,
        query_loss=[line.query_loss for line in updates if line.query_loss is not None],
        accuracy=[line.accuracy_after for line in updates if line.accuracy_after is not None],
        validation=[line.val_accuracy.mean for line in validated if line.val_accuracy],
        last_validation=last.val_accuracy if last else None,
        last_validated_at=last.outer_step if last else None,
        best_validation=best.val_accuracy.mean if best and best.val_accuracy else None,
        best_at=best.outer_step if best else None,
        share_negative=newest.share_negative if newest else None,
        share_negative_by_layer=(newest.share_negative_by_layer if newest else None) or {},
        skipped=sum(line.skipped is not None for line in lines),
        problem=problem,
    )
