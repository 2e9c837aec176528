"""The files of one training: what is written to the model's directory, and when.

`training.safetensors` has everything that a resumed training needs: it equals the uninterrupted one bit for bit.
`last.safetensors` and `best.safetensors` (highest validation accuracy) are checkpoints; `history.jsonl` is the log.
"""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from nilr.checkpoint import read_manifest, save_checkpoint
from nilr.errors import CheckpointError, StoreError
from nilr.history import History
from nilr.models.registry import body_arguments
from nilr.recipes.common.settings import recorded_settings
from nilr.recipes.meta_train.training import Training
from nilr.store import BEST, LAST, TRAINING_STATE
from nilr.training_state import Progress, save_training_state

_SAVE_STEPS, _SAVE_SECONDS = 500, 300.0


class TrainingRun:
    """A training and its files.

    Attributes:
        history: the log.
    """

    def __init__(self, training: Training, directory: Path) -> None:
        self.training, self.directory = training, directory
        self.history = History(directory, training.settings.tensorboard)
        self._saved_at, self._saved_step = time.monotonic(), 0

    def restore(self, tensors: Mapping[str, Tensor], progress: Progress) -> None:
        """Continue from a stored training state."""
        if not tensors:
            raise StoreError(
                f"model `{self.training.name}` has no training state ({TRAINING_STATE}) to resume from",
                hint="use the model as it is, or train another one with --name",
            )
        self.training.restore(tensors, progress)
        self._saved_step = self._step_of_last()
        self.history.trim(outer_step=progress.outer_step, validated_at=progress.validated_at)

    @property
    def resumable(self) -> bool:
        """Whether there is a training state on disk."""
        return (self.directory / TRAINING_STATE).exists()

    @property
    def unsaved_updates(self) -> int:
        """The number of completed updates that are not on disk; more if the checkpoint `last` is out of date."""
        return self.training.progress.outer_step - self._saved_step if self.training.progress.outer_step else 0

    def save_is_due(self) -> bool:
        """Return whether enough updates or minutes have passed since the last save."""
        every = self.training.settings.save_every
        if every is not None:
            return self.unsaved_updates >= every
        return self.unsaved_updates >= _SAVE_STEPS or time.monotonic() - self._saved_at >= _SAVE_SECONDS

    def save(self) -> None:
        """Write the training state, then the checkpoint `last`; StoreError if a file cannot be written."""
        save_training_state(self.directory / TRAINING_STATE, self.training.outer.state(), self.training.state())
        self._save_checkpoint(LAST)
        self._saved_at, self._saved_step = time.monotonic(), self.training.progress.outer_step

    def save_best(self) -> None:
        """Write the checkpoint `best`; StoreError if the file cannot be written."""
        self._save_checkpoint(BEST)

    def resume_command(self) -> str:
        """Return the command that resumes this training."""
        settings = self.training.settings
        words = ["nilr", "meta-train", "--resume", self.training.name]
        if "/" in settings.data:
            words += ["--data", settings.data]
        if settings.home is not None:
            words += ["--home", str(settings.home)]
        return shlex.join(words)

    def _save_checkpoint(self, file: str) -> None:
        training, settings, outer, data = self.training, self.training.settings, self.training.outer, self.training.data
        arguments = {
            "n_way": settings.n_way,
            "image_size": data.image_size,
            **body_arguments(settings.arch, settings),
        }
        save_checkpoint(
            self.directory / file,
            params=outer.params,
            inner_lr=outer.inner_lr,
            architecture={"name": settings.arch, "arguments": arguments},
            algorithm=outer.algorithm.to_stored(),
            settings=recorded_settings(settings),
            data={"name": data.name, "digest": data.digest, "image_size": data.image_size},
            outer_step=training.progress.outer_step,
            metrics=training.recorded_metrics(),
            engine=outer.engine.name,
            parent=None,
        )

    def _step_of_last(self) -> int:
        """Return the update of the checkpoint `last`; -1 if it is missing or older than the last validation."""
        with contextlib.suppress(CheckpointError):
            last = read_manifest(self.directory / LAST)
            if last.metrics == self.training.recorded_metrics():
                return last.outer_step
        return -1
