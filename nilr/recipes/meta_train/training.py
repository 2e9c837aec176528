"""One training: its outer loop, progress, metrics and files. Of several processes, only the first one writes files.

`training.safetensors` has everything that a resumed training needs: it equals the uninterrupted one bit for bit.
`last.safetensors` and `best.safetensors` (highest validation accuracy) are checkpoints; `history.jsonl` is the log.
"""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from torch import Tensor

from nilr import __version__, distributed
from nilr.checkpoint import read_manifest, save_checkpoint
from nilr.config.meta_train import TrainSettings
from nilr.episodes import EpisodeSampler
from nilr.errors import CheckpointError, DivergedError, StoreError
from nilr.files import path_argument
from nilr.history import History, read_history
from nilr.loggers import Loggers
from nilr.meta.evaluation import evaluate
from nilr.meta.inner_lr import share_negative, share_negative_by_layer
from nilr.meta.outer_loop import OuterLoop
from nilr.meta.updates import Update
from nilr.metrics import accuracy, mean_interval
from nilr.models.import_path import is_import_path
from nilr.recipes.common.episodes import split_commas
from nilr.recipes.common.settings import recorded_settings, stored_architecture
from nilr.reporting import Reporter
from nilr.results.commands import TrainMetrics
from nilr.results.records import DataUsed, Mean, Reference
from nilr.store import HISTORY, LAST, TRAINING_STATE, without_state
from nilr.tensorfile import digest_tensors
from nilr.training_state import Progress, TrainingState, save_training_state

_MAX_SKIPS_IN_A_ROW = 10
_SAVE_STEPS, _SAVE_SECONDS = 500, 300.0


class Training:
    """One training, whose files are in the directory of its model."""

    def __init__(
        self,
        directory: Path,
        settings: TrainSettings,
        outer: OuterLoop,
        data: DataUsed,
        train: EpisodeSampler,
        val: EpisodeSampler | None,
        reporter: Reporter,
        reference: Reference | None = None,
    ) -> None:
        self.directory, self.name, self.settings, self.outer, self.data = (
            directory,
            directory.name,
            settings,
            outer,
            data,
        )
        self.train, self.val, self.reporter, self.reference = train, val, reporter, reference
        self.progress = Progress()
        self._writes = distributed.rank() == 0
        self.history, self.loggers = History(directory if self._writes else None), Loggers()
        self._seconds, self._updates = 0.0, 0
        self._saved_at, self._saved_step = time.monotonic(), 0

    def apply(self, update: Update, seconds: float) -> dict[str, Any] | None:
        """Apply a computed update, or skip one that is not finite if the settings allow it.

        Returns:
            The update's line of the history, if it is logged.

        Raises:
            DivergedError: a number is not finite, and the update must not be skipped. Nothing has changed then.
        """
        began, step = time.monotonic(), self.progress.outer_step
        done = step + 1
        logs = done % self.settings.log_every == 0 or done in (1, self.settings.outer_steps)
        before = None
        if logs:
            logits = self.outer.engine.adapted_logits(
                self.outer.params, {}, update.episodes, steps=0, inductive=self.outer.settings.inductive
            )
            before = accuracy(logits, update.episodes.query_y).mean().item()
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

    def validate(self, on_episode: Callable[[int], None]) -> tuple[dict[str, Any], bool]:
        """Evaluate the model on the validation split; `on_episode` takes the number of completed episodes.

        Returns:
            The validation's line of the history, and whether the model is the best one so far.
        """
        if self.val is None:
            raise ValueError("a training without validation episodes cannot be validated")
        outer, completed = self.outer, itertools.count(1)
        accuracies = evaluate(
            outer.engine,
            outer.params,
            outer.inner_lr,
            self.val,
            n_episodes=self.settings.eval_episodes,
            steps=outer.algorithm.eval_inner_steps,
            inductive=outer.settings.inductive,
            on_episode=lambda: on_episode(next(completed)),
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
        self.reporter.metric(val_accuracy=interval.mean)
        return {"outer_step": step, "val_accuracy": figures}, improved

    def restore(self, tensors: Mapping[str, Tensor], progress: Progress) -> None:
        """Continue from a stored training state."""
        if not tensors:
            raise without_state(self.name)
        self.outer.load_state(tensors)
        self.progress = progress
        self._saved_step = -1  # unless the checkpoint `last` exists and is as new as the last validation
        with contextlib.suppress(CheckpointError):
            last = read_manifest(self.directory / LAST)
            if last.metrics == self.recorded_metrics():
                self._saved_step = last.outer_step
        self.history.trim(
            outer_step=progress.outer_step,
            validated_at=progress.validated_at,
            outer_steps=self.settings.outer_steps,
        )

    def open_loggers(self, directory: Path) -> None:
        """Open the loggers of --log, whose files are in `directory`; NilrError if one of a new training cannot open."""
        if not self.settings.log:
            return
        history = []
        with contextlib.suppress(CheckpointError):
            history = [line.model_dump() for line in read_history(self.directory / HISTORY)]
        self.loggers.open(
            split_commas(self.settings.log),
            self.directory,
            directory,
            {"data": self.data.name, "nilr": __version__, **recorded_settings(self.settings)},
            self.reporter,
            outer_step=self.progress.outer_step,
            history=history,
        )

    def log(self, line: Mapping[str, Any]) -> None:
        """Append a line to the history, and to the loggers at the next save; StoreError if it cannot be written."""
        self.history.append(line)
        self.loggers.add(line)

    def log_failure(self, message: str) -> None:
        """Append the error that ends the training to the history, if it can be written."""
        with contextlib.suppress(StoreError):
            self.history.append({"outer_step": self.progress.outer_step, "failed": message})

    def log_final(self) -> None:
        """Log the metrics of a complete training, unless an earlier process has logged them."""
        if self.loggers.logged:
            metrics = self.metrics().model_dump(exclude={"outer_step", "by_model"})
            final = {f"final/{name}": value for name, value in metrics.items()}
            self.loggers.add({"outer_step": self.progress.outer_step, **final})
            self.loggers.flush()

    def close_loggers(self) -> None:
        """Close the loggers. Lines since the last save are dropped; a resumed training logs them again."""
        self.loggers.close(complete=self.progress.finished(self.settings))

    @property
    def resumable(self) -> bool:
        """Whether there is a training state on disk."""
        return (self.directory / TRAINING_STATE).exists()

    @property
    def unsaved_updates(self) -> int:
        """The number of completed updates that are not on disk; more if the checkpoint `last` is out of date."""
        return self.progress.outer_step - self._saved_step if self.progress.outer_step else 0

    def save_is_due(self) -> bool:
        """Return whether enough updates or minutes have passed since the last save."""
        every = self.settings.save_every
        if every is not None:
            return self.unsaved_updates >= every
        return self.unsaved_updates >= _SAVE_STEPS or time.monotonic() - self._saved_at >= _SAVE_SECONDS

    def save(self) -> None:
        """Write the training state, then the checkpoint `last`; StoreError if a file cannot be written."""
        if self._writes:
            state = TrainingState(
                settings=recorded_settings(self.settings),
                data=self.data.name,
                data_digest=self.data.digest,
                progress=self.progress,
                reference=self.reference,
            )
            save_training_state(self.directory / TRAINING_STATE, self.outer.state(), state)
        self.write_checkpoint(LAST)
        self.loggers.flush()
        self._saved_at, self._saved_step = time.monotonic(), self.progress.outer_step

    def write_checkpoint(self, file: str) -> None:
        """Write the checkpoint with this file name; StoreError if the file cannot be written."""
        if not self._writes:
            return
        settings, outer, data = self.settings, self.outer, self.data
        save_checkpoint(
            self.directory / file,
            params=outer.params,
            inner_lr=outer.inner_lr,
            architecture=stored_architecture(settings, data),
            algorithm=outer.algorithm.to_stored(),
            settings=recorded_settings(settings),
            data=data.model_dump(exclude={"split", "n_classes"}),
            outer_step=self.progress.outer_step,
            metrics=self.recorded_metrics(),
            engine=outer.engine.name,
            parent=None,
            **({"reference": self.reference.model_dump()} if self.reference else {}),
        )

    def check_processes(self) -> None:
        """Check that all processes train the same model, bit for bit.

        Raises:
            NilrError: they differ.
        """
        if distributed.size() == 1:
            return
        distributed.check_same(
            recorded_settings(self.settings),
            pack=self.data.digest,
            engine=self.outer.engine.name,
            model=digest_tensors({name: value.cpu() for name, value in self.outer.state().items()}),
        )

    def resume_command(self) -> str:
        """Return the command that resumes this training, with the settings that its files do not contain."""
        settings = self.settings
        words = ["--resume", path_argument(settings.resume) if "/" in settings.resume else self.name]
        if settings.data is not None and "/" in settings.data:
            words += ["--data", path_argument(settings.data)]
        if is_import_path(settings.arch):
            words += ["--arch", settings.arch]
        if settings.log:
            words += ["--log", ",".join(settings.log)]
        if settings.log_dir is not None:
            words += ["--log-dir", path_argument(settings.log_dir)]
        return settings.command("meta-train", *words)

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

    def _skip(self, error: DivergedError) -> dict[str, Any]:
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
