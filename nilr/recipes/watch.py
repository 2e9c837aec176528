"""Watch trainings from their files alone: histories, and the locks of the store."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import Field

from nilr.checkpoint import Manifest
from nilr.config.models import ModelStatus, WatchSettings
from nilr.errors import CheckpointError, StoreError
from nilr.history import Line, planned_updates, read_history, training_status
from nilr.reporting import Reporter
from nilr.results.records import Mean, Record
from nilr.store import HISTORY, Store, newest_manifest


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

    def __post_init__(self) -> None:
        self._seen: dict[str, list[tuple[float, int]]] = {}

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
        path, lines = directory / HISTORY, list[Line]()
        with contextlib.suppress(CheckpointError):
            lines += read_history(path)
        manifest = newest_manifest(directory)
        pace = (None, None) if since is None else self._pace(name, path, lines, manifest, since)
        return _describe(name, directory, lines, manifest, pace, running=since is not None)

    def _pace(
        self, name: str, path: Path, lines: list[Line], manifest: Manifest | None, since: float
    ) -> tuple[float | None, float | None]:
        """Return for how many seconds a process has trained, and its updates per second.

        The first look compares the newest line with the newest save, or with the start of a process that has not
        saved yet; later looks compare the lines that they saw.
        """
        try:
            written = path.stat().st_mtime
        except OSError:
            return None, None
        seen = self._seen.setdefault(name, [])
        if not seen:
            saved = datetime.fromisoformat(manifest.saved_at).timestamp() if manifest else 0.0
            seen.append((max(saved, since), manifest.outer_step if manifest else 0))
        step = max((line.outer_step for line in lines), default=0)
        if seen[-1][1] < step:
            seen.append((written, step))
        del seen[:-20]
        (first, done), (last, newest) = seen[0], seen[-1]
        return max(0.0, time.time() - since), (newest - done) / (last - first) if last > first else None


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


def _describe(
    name: str,
    directory: Path,
    lines: list[Line],
    manifest: Manifest | None,
    pace: tuple[float | None, float | None],
    *,
    running: bool,
) -> Watched:
    validated = [line for line in lines if line.val_accuracy is not None]
    updates = [line for line in lines if line.query_loss is not None]
    total = next((line.outer_steps for line in reversed(lines) if line.outer_steps is not None), None)
    if total is None and manifest is not None:
        total = planned_updates(manifest)
    step = max([line.outer_step for line in lines] + ([manifest.outer_step] if manifest else []), default=0)
    elapsed, rate = pace
    left = (total - step) / rate if running and total is not None and rate else None
    last = validated[-1] if validated else None
    best = max(validated, key=lambda line: line.val_accuracy.mean if line.val_accuracy else 0) if validated else None
    newest = updates[-1] if updates else None
    unknown = total is None and manifest is None
    status, problem = training_status(directory, step, step + 1 if unknown else total, running=running)
    return Watched(
        name=name,
        status=status,
        algo=str(manifest.algorithm.get("name")) if manifest else None,
        outer_step=step,
        outer_steps=total,
        elapsed_seconds=elapsed,
        updates_per_second=rate,
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
