"""What a bench does: the trainings it stands for, as jobs for processes."""

from __future__ import annotations

import torch

from nilr.config import BenchSettings, TrainSettings
from nilr.recipes.bench.worker import Job, Task
from nilr.recipes.common.settings import resolve

# What a bench shares with a training; an algorithm or a preset decides where the user did not.
_SHARED = ("arch", "filters", "n_way", "n_shot", "n_query", "meta_batch_size", "inner_steps", "eval_inner_steps")


class Plan:
    """Makes jobs.

    Args:
        settings: of the bench.
        device: where it computes.
    """

    def __init__(self, settings: BenchSettings, device: torch.device) -> None:
        self._settings = settings
        self._given = {name: value for name, value in settings.explicit().items() if name in _SHARED}
        at_once = torch.get_num_threads() if device.type == "cpu" else 1
        self._eval_episodes = max(4, 2 * at_once)  # so that no thread is idle

    def training(self, *, algo: str | None = None, preset: str | None = None) -> TrainSettings:
        """Return what such a training would be run with, under the bench's own flags.

        Raises:
            UnknownNameError: no such algorithm.
        """
        named = {name: value for name, value in (("algo", algo), ("preset", preset)) if value is not None}
        return resolve(TrainSettings(**named, **self._given))[0]

    def jobs(self, training: TrainSettings, engine: str) -> tuple[Job, Job]:
        """Return a training's update and evaluation."""
        row = resolve(training)[1]
        update = self._job("update", training, engine, training.meta_batch_size, row.inner_steps)
        return update, self._job("evaluation", training, engine, self._eval_episodes, row.eval_inner_steps)

    def convolution(self, engine: str) -> Job:
        """Return the job that measures plain convolutions."""
        return self._job("convolution", self.training(algo="maml"), engine, 1, 1)

    def _job(self, task: Task, training: TrainSettings, engine: str, episodes: int, steps: int) -> Job:
        return Job(
            task=task,
            engine=engine,
            algorithm=resolve(training)[1],
            arch=training.arch,
            filters=training.filters,
            image_size=self._settings.image_size,
            n_way=training.n_way,
            n_shot=training.n_shot,
            n_query=training.n_query,
            episodes=episodes,
            steps=steps,
            seed=self._settings.seed,
            precision=self._settings.precision,
            device=self._settings.device,
            threads=self._settings.threads,
        )
