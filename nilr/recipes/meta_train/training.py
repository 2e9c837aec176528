"""One training: its state, and what of it is on disk.

In the model's directory stand `training.safetensors` (all that resuming needs), `last.safetensors`, `best.safetensors`
(highest validation accuracy) and `history.jsonl`. A resumed run equals the uninterrupted one bit for bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from torch import Tensor

from nilr.checkpoint import Manifest, read_manifest, save_checkpoint, save_training_state
from nilr.config import TrainSettings
from nilr.episodes import Episode, EpisodeSampler
from nilr.errors import CheckpointError, DivergedError, StoreError
from nilr.history import History
from nilr.meta.evaluation import evaluate
from nilr.meta.inner_lr import share_negative, share_negative_by_layer
from nilr.meta.outer_loop import OuterLoop
from nilr.meta.updates import Update
from nilr.metrics import accuracy, mean_interval
from nilr.models.registry import body_arguments
from nilr.recipes.common.settings import recorded_settings
from nilr.reporting import Reporter
from nilr.results.making import TrainMetrics
from nilr.results.records import DataUsed, Mean
from nilr.signals import StopRequest
from nilr.store import BEST, LAST, TRAINING_STATE
from nilr.training_state import Progress

_SAVE_STEPS, _SAVE_SECONDS = 500, 300.0
_SKIPS_IN_A_ROW = 10


class Training:
    """A training in one model directory.

    Args:
        settings: resolved.
        outer: the state of the outer loop.
        data: the pack trained on.
        train: gives the episodes to train on.
        val: gives the episodes to validate on; None for no validation.
        directory: the model's.
        reporter: told of the progress.
    """

    def __init__(
        self,
        settings: TrainSettings,
        outer: OuterLoop,
        data: DataUsed,
        train: EpisodeSampler,
        val: EpisodeSampler | None,
        *,
        directory: Path,
        reporter: Reporter,
    ) -> None:
        self.settings, self.outer, self.data = settings, outer, data
        self.train, self.val, self.directory, self.reporter = train, val, directory, reporter
        self.progress = Progress()
        self._saved_at, self._saved_step = time.monotonic(), 0
        self._seconds, self._updates = 0.0, 0
        self._history = History(directory, settings.tensorboard)

    def begin(self) -> None:
        """Take away the history of a training that was killed before it saved anything."""
        self._history.begin()

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, JsonValue]) -> None:
        """Take over the training state that `read_training_state` gave.

        Raises:
            StoreError: there is none: no tensors.
            CheckpointError: the training state cannot be used.
        """
        if not tensors:
            raise StoreError(
                f"model `{self.directory.name}` has no training state ({TRAINING_STATE}) to go on from",
                hint="use it as it is, or train under another --name",
            )
        self.outer.load_state(tensors)
        stored: Any = values["progress"]
        self.progress = Progress(**stored)
        self._saved_step = self._step_of_last()
        self._history.trim(outer_step=self.progress.outer_step, validated_at=self.progress.validated_at)

    def validate_if_due(self, stop: StopRequest) -> None:
        """Judge the model on the validation split where it is time to.

        Raises:
            Interrupted: a signal arrived.
        """
        if self.val is not None and self._validation_is_due():
            self._validate(self.val, stop)

    def save_if_due(self, *, finished: bool = False) -> None:
        """Save where it is time to, or where the training is finished and its last updates are not on disk."""
        since = self.progress.outer_step - self._saved_step
        if finished:
            due = since != 0
        elif self.settings.save_every is not None:
            due = since >= self.settings.save_every
        else:
            due = since >= _SAVE_STEPS or time.monotonic() - self._saved_at >= _SAVE_SECONDS
        if due:
            self.save()

    def save(self) -> None:
        """Write the training state, then the checkpoint `last`."""
        values: dict[str, JsonValue] = {
            "settings": recorded_settings(self.settings),
            "data": self.data.name,
            "data_digest": self.data.digest,
            "progress": dataclasses.asdict(self.progress),
        }
        save_training_state(self.directory / TRAINING_STATE, self.outer.state(), values)
        self._save_checkpoint(LAST)
        self._saved_at, self._saved_step = time.monotonic(), self.progress.outer_step

    def save_finished(self) -> None:
        """Save the updates that are finished, where they are not on disk."""
        if self.progress.outer_step and self._saved_step != self.progress.outer_step:
            self.save()

    def close(self) -> None:
        """Close what listens to the training."""
        self._history.close()

    def metrics(self) -> TrainMetrics:
        """Return what a result says of the training."""
        progress, logged = self.progress, self.progress.logged
        best = dict(progress.best) if progress.best else None
        return TrainMetrics(
            outer_step=progress.outer_step,
            query_loss=logged.get("query_loss"),
            accuracy_before=logged.get("accuracy_before"),
            accuracy_after=logged.get("accuracy_after"),
            best_outer_step=best.pop("outer_step") if best else None,
            best_val_accuracy=Mean(**best) if best else None,
            last_val_accuracy=Mean(**progress.last_val) if progress.last_val else None,
            share_negative=logged.get("share_negative"),
            skipped_updates=progress.skipped,
            seconds_per_update=self._seconds / self._updates if self._updates else None,
        )

    def complete(self, update: Update, seconds: float) -> None:
        """Take an update that was computed, and log it where it is time to.

        Raises:
            DivergedError: a number is not finite, and the update may not be left out; nothing has been changed then.
        """
        began, step = time.monotonic(), self.progress.outer_step
        done = step + 1
        logs = done % self.settings.log_every == 0 or done in (1, self.settings.outer_steps)
        before = self._accuracy_before(update.episodes) if logs else None
        first_episode = step * self.settings.meta_batch_size
        try:
            self.outer.apply(update.gradient, update.report, outer_step=step, first_episode=first_episode)
        except DivergedError as error:
            self._leave_out(error)
            return
        self.progress = dataclasses.replace(self.progress, skipped_in_a_row=0)
        figures: dict[str, float | None] = {
            "query_loss": update.report.query_loss,
            "accuracy_after": update.report.accuracy,
        }
        if logs:
            figures["accuracy_before"] = before
            rates = self.outer.inner_lr if self.outer.algorithm.learns_rates else None
            figures["share_negative"] = share_negative(rates) if rates else None
            by_layer = share_negative_by_layer(rates) if rates else None
            self._history.append({"outer_step": done, **figures, "share_negative_by_layer": by_layer})
            self.progress = dataclasses.replace(self.progress, logged=figures)
        self.progress = dataclasses.replace(self.progress, outer_step=done)
        self._seconds, self._updates = self._seconds + seconds + time.monotonic() - began, self._updates + 1
        self.reporter.metric(**figures)

    def _leave_out(self, error: DivergedError) -> None:
        """Count an update as left out; where it may not be, raise."""
        progress, in_a_row = self.progress, self.progress.skipped_in_a_row + 1
        skips = self.settings.on_nan == "skip"
        if not skips or in_a_row > _SKIPS_IN_A_ROW:
            after = f", after {_SKIPS_IN_A_ROW} updates left out in a row" if skips else ""
            raise DivergedError(error.message + after, hint=error.hint) from error
        done = progress.outer_step + 1
        self._history.append({"outer_step": done, "skipped": error.message})
        self.progress = dataclasses.replace(
            progress, outer_step=done, skipped=progress.skipped + 1, skipped_in_a_row=in_a_row
        )
        self.reporter.note(f"model `{self.directory.name}`: update {done} is left out: {error.message}")

    def _accuracy_before(self, episodes: Episode) -> float:
        outer = self.outer
        logits = outer.engine.adapted_logits(outer.params, {}, episodes, steps=0)
        return accuracy(logits, episodes.query_y).mean().item()

    def _validation_is_due(self) -> bool:
        step, every = self.progress.outer_step, self.settings.eval_every
        if step == 0 or self.progress.validated_at >= step:
            return False
        return step % every == 0 or step >= self.settings.outer_steps

    def _validate(self, val: EpisodeSampler, stop: StopRequest) -> None:
        outer, done = self.outer, 0
        if not (self.directory / TRAINING_STATE).exists():
            self.save()  # a kill must not leave the best checkpoint alone, with nothing to go on from

        def on_episode() -> None:
            nonlocal done
            done += 1
            self.reporter.metric(validation=done / self.settings.eval_episodes)
            stop.raise_if_set()

        accuracies = evaluate(
            outer.engine,
            outer.params,
            outer.inner_lr,
            val,
            n_episodes=self.settings.eval_episodes,
            steps=outer.algorithm.eval_inner_steps,
            on_episode=on_episode,
        )
        step, interval = self.progress.outer_step, mean_interval(accuracies)
        figures = {"mean": interval.mean, "ci95": interval.ci95, "n_episodes": interval.n}
        best = self.progress.best
        improved = best is None or interval.mean > best["mean"]
        self.progress = dataclasses.replace(
            self.progress,
            validated_at=step,
            last_val=figures,
            best={"outer_step": step, **figures} if improved else best,
        )
        if improved:
            self._save_checkpoint(BEST)
        self._history.append({"outer_step": step, "val_accuracy": figures})
        self.save()
        self.reporter.metric(validation=None, val_accuracy=interval.mean)

    def _save_checkpoint(self, filename: str) -> Manifest:
        settings, outer = self.settings, self.outer
        return save_checkpoint(
            self.directory / filename,
            params=outer.params,
            inner_lr=outer.inner_lr,
            architecture={
                "name": settings.arch,
                "arguments": {
                    "n_way": settings.n_way,
                    "image_size": self.data.image_size,
                    **body_arguments(settings.arch, settings),
                },
            },
            algorithm=outer.algorithm.to_stored(),
            settings=recorded_settings(settings),
            data={"name": self.data.name, "digest": self.data.digest, "image_size": self.data.image_size},
            outer_step=self.progress.outer_step,
            metrics=self._recorded_metrics(),
            engine=outer.engine.name,
            parent=None,
        )

    def resuming(self) -> str:
        """Return the command that goes on with this training."""
        words = ["nilr", "meta-train", "--resume", self.directory.name]
        if "/" in self.settings.data:
            words += ["--data", self.settings.data]
        if self.settings.home is not None:
            words += ["--home", str(self.settings.home)]
        return shlex.join(words)

    def _step_of_last(self) -> int:
        """Return the update of `last`; -1 where there is none, or a kill left one from before the last validation."""
        with contextlib.suppress(CheckpointError):
            last = read_manifest(self.directory / LAST)
            if last.metrics == self._recorded_metrics():
                return last.outer_step
        return -1

    def _recorded_metrics(self) -> dict[str, JsonValue]:
        metrics: dict[str, JsonValue] = self.metrics().model_dump(mode="json", exclude={"seconds_per_update"})
        return metrics
