"""The jobs of a bench."""

import torch

from nilr.config.base import EpisodeSettings
from nilr.config.bench import BenchSettings
from nilr.config.meta_train import TrainSettings
from nilr.models.registry import body_arguments
from nilr.recipes.bench.worker import Job, Task
from nilr.recipes.common.settings import resolve


class BenchPlan:
    """Turns trainings into jobs."""

    def __init__(self, settings: BenchSettings, device: torch.device) -> None:
        self._settings = settings
        # Settings that the user does not set come from the algorithm or the preset.
        self._given = {k: v for k, v in settings.explicit().items() if k in EpisodeSettings.__annotations__}
        threads = torch.get_num_threads() if device.type == "cpu" else 1
        self._eval_episodes = max(4, 2 * threads)  # so that no thread is idle

    def training(self, *, algo: str | None = None, preset: str | None = None) -> TrainSettings:
        """Return the settings of a training with an algorithm or a preset, and with the bench's own flags."""
        named = {name: value for name, value in (("algo", algo), ("preset", preset)) if value is not None}
        return resolve(TrainSettings(**named, **self._given))[0]

    def jobs(self, training: TrainSettings, engine: str) -> tuple[Job, Job]:
        """Return a training's update and evaluation."""
        row = resolve(training)[1]
        update = self._job("update", training, engine, training.meta_batch_size, row.inner_steps)
        return update, self._job("evaluation", training, engine, self._eval_episodes, row.eval_inner_steps)

    def convolution(self, engine: str) -> Job:
        """Return the job that measures the network's convolutions alone."""
        return self._job("convolution", self.training(algo="maml"), engine, 1, 1)

    def _job(self, task: Task, training: TrainSettings, engine: str, episodes: int, steps: int) -> Job:
        bench = self._settings.model_dump(include={"image_size", "channels", "seed", "precision", "device", "threads"})
        shape = training.model_dump(include={"arch", "n_way", "n_shot", "n_query"})
        body = tuple(body_arguments(training.arch, training).items())
        row = resolve(training)[1]
        return Job(task=task, engine=engine, algorithm=row, episodes=episodes, steps=steps, body=body, **bench, **shape)
