"""The state of one training: outer loop, progress and metrics. Nothing here reads or writes a file."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import JsonValue
from torch import Tensor

from nilr.config.meta_train import TrainSettings
from nilr.episodes import Episode, EpisodeSampler
from nilr.errors import DivergedError
from nilr.meta.evaluation import evaluate
from nilr.meta.inner_lr import share_negative, share_negative_by_layer
from nilr.meta.outer_loop import OuterLoop
from nilr.meta.updates import Update
from nilr.metrics import accuracy, mean_interval
from nilr.recipes.common.settings import recorded_settings
from nilr.reporting import Reporter
from nilr.results.commands import TrainMetrics
from nilr.results.records import DataUsed, Mean
from nilr.training_state import Progress, TrainingState

_MAX_SKIPS_IN_A_ROW = 10

HistoryLine = dict[str, Any]


class Training:
    """The state of one training."""

    def __init__(
        self,
        name: str,
        settings: TrainSettings,
        outer: OuterLoop,
        data: DataUsed,
        train: EpisodeSampler,
        val: EpisodeSampler | None,
        reporter: Reporter,
    ) -> None:
        self.name, self.settings, self.outer, self.data = name, settings, outer, data
        self.train, self.val, self.reporter = train, val, reporter
        self.progress = Progress()
        self._seconds, self._updates = 0.0, 0

    def apply(self, update: Update, seconds: float) -> HistoryLine | None:
        """Apply a computed update, or skip one that is not finite if the settings allow it.

        Returns:
            The update's line of the history, if it is logged.

        Raises:
            DivergedError: a number is not finite, and the update must not be skipped. Nothing has changed then.
        """
        began, step = time.monotonic(), self.progress.outer_step
        done = step + 1
        logs = done % self.settings.log_every == 0 or done in (1, self.settings.outer_steps)
        before = self._accuracy_before(update.episodes) if logs else None
        first_episode = step * self.settings.meta_batch_size
        try:
            self.outer.apply(update.gradient, update.report, outer_step=step, first_episode=first_episode)
        except DivergedError as error:
            return self._skip(error)
        figures: dict[str, float | None] = {
            "query_loss": update.report.query_loss,
            "accuracy_after": update.report.accuracy,
        }
        line = None
        if logs:
            rates = self.outer.inner_lr if self.outer.algorithm.learns_rates else None
            figures |= {"accuracy_before": before, "share_negative": share_negative(rates) if rates else None}
            by_layer = share_negative_by_layer(rates) if rates else None
            line = {"outer_step": done, **figures, "share_negative_by_layer": by_layer}
        logged = figures if logs else self.progress.logged
        self.progress = dataclasses.replace(self.progress, outer_step=done, skipped_in_a_row=0, logged=logged)
        self._seconds, self._updates = self._seconds + seconds + time.monotonic() - began, self._updates + 1
        self.reporter.metric(**figures)
        return line

    def validation_is_due(self) -> bool:
        """Return whether the model must be validated before the next update."""
        step, every = self.progress.outer_step, self.settings.eval_every
        if self.val is None or step == 0 or self.progress.validated_at >= step:
            return False
        return step % every == 0 or step >= self.settings.outer_steps

    def validate(self, raise_if_stopped: Callable[[], None]) -> tuple[HistoryLine, bool]:
        """Evaluate the model on the validation split.

        Returns:
            The validation's line of the history, and whether the model is the best one so far.
        """
        if self.val is None:
            raise ValueError("a training without validation episodes cannot be validated")
        outer, done = self.outer, 0

        def on_episode() -> None:
            nonlocal done
            done += 1
            self.reporter.metric(validation=done / self.settings.eval_episodes)
            raise_if_stopped()

        accuracies = evaluate(
            outer.engine,
            outer.params,
            outer.inner_lr,
            self.val,
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
        self.reporter.metric(validation=None, val_accuracy=interval.mean)
        return {"outer_step": step, "val_accuracy": figures}, improved

    def state(self) -> TrainingState:
        """Return the values that a resumed training needs, beside the tensors of the outer loop."""
        return TrainingState(
            settings=recorded_settings(self.settings),
            data=self.data.name,
            data_digest=self.data.digest,
            progress=self.progress,
        )

    def restore(self, tensors: Mapping[str, Tensor], progress: Progress) -> None:
        """Continue from a stored state; CheckpointError if the tensors do not fit this training."""
        self.outer.load_state(tensors)
        self.progress = progress

    def metrics(self) -> TrainMetrics:
        """Return the metrics for the result."""
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

    def recorded_metrics(self) -> dict[str, JsonValue]:
        """Return the metrics for a checkpoint: those that do not depend on the machine's speed."""
        metrics: dict[str, JsonValue] = self.metrics().model_dump(mode="json", exclude={"seconds_per_update"})
        return metrics

    def _skip(self, error: DivergedError) -> HistoryLine:
        progress, in_a_row = self.progress, self.progress.skipped_in_a_row + 1
        skips = self.settings.on_nan == "skip"
        if not skips or in_a_row > _MAX_SKIPS_IN_A_ROW:
            after = f", after {_MAX_SKIPS_IN_A_ROW} skipped updates in a row" if skips else ""
            raise DivergedError(error.message + after, hint=error.hint) from error
        done = progress.outer_step + 1
        self.progress = dataclasses.replace(
            progress, outer_step=done, skipped=progress.skipped + 1, skipped_in_a_row=in_a_row
        )
        self.reporter.note(f"model `{self.name}`: update {done} is skipped: {error.message}")
        return {"outer_step": done, "skipped": error.message}

    def _accuracy_before(self, episodes: Episode) -> float:
        logits = self.outer.engine.adapted_logits(self.outer.params, {}, episodes, steps=0)
        return accuracy(logits, episodes.query_y).mean().item()
