"""What an experiment trains and asks, seed by seed, and what of it is done already."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nilr.checkpoint import Manifest, read_manifest
from nilr.commands import result_types
from nilr.config.experiments import EXPERIMENTS, Experiment, Run
from nilr.config.judging import ProbeSettings, RatesSettings, TaskSettings
from nilr.config.reproducing import ReproduceSettings
from nilr.config.training import TrainSettings
from nilr.errors import NilrError
from nilr.history import completed_updates
from nilr.models.registry import body_arguments
from nilr.recipes.common.settings import recipe_digest, recorded_settings, resolve
from nilr.results.records import DataUsed
from nilr.results.result import Result
from nilr.store import TRAINING_STATE, Store, newest_manifest
from nilr.training_state import load_training_state

_COMPUTING = {"device", "threads", "episode_chunk", "engine", "precision"}
# Where a look happens; none of these changes what it measures.
_PLACE = {"home", "data", "models", "device", "threads", "episode_chunk", "engine", "record_paths"}


@dataclass(frozen=True)
class Trained:
    """One training of a run."""

    run: Run
    seed: int
    model: str
    settings: TrainSettings


@dataclass(frozen=True)
class Plan:
    """An experiment as the user's flags have it.

    Attributes:
        settings: the command's.
        store: where all of it lives.
        pack: the pack's name or path.
    """

    settings: ReproduceSettings
    store: Store
    pack: str

    @property
    def experiment(self) -> Experiment:
        """The preset's."""
        return EXPERIMENTS[self.settings.preset]

    @property
    def name(self) -> str:
        """What models and the folder are called after."""
        return self.settings.name or self.settings.preset

    @property
    def folder(self) -> Path:
        """Where the results and the report of the experiment stand."""
        return self.store.home / "reproduce" / self.name

    @cached_property
    def trainings(self) -> list[Trained]:
        """All of them, in order: run by run, each over all seeds."""
        seeds = self.settings.seeds or self.experiment.seeds
        first = self.settings.seed
        return [
            self._training(run, seed)
            for run in self.experiment.runs
            for seed in range(first, first + max(1, seeds - run.fewer_seeds))
        ]

    @property
    def _place(self) -> dict[str, Any]:
        given = self.settings.model_dump(include={*_COMPUTING, "record_paths"})
        return {"home": self.store.home, "data": self.pack, **given}

    def _training(self, run: Run, seed: int) -> Trained:
        name = f"{self.name}-{run.name}-s{seed}"
        flags = self.settings.model_dump(include={"outer_steps", "filters"}, exclude_none=True)
        values = {**self.experiment.train, **run.train, **flags, **self._place}
        return Trained(run, seed, name, TrainSettings(**values, seed=seed, name=name, resume="auto"))

    def probe(self, training: Trained) -> ProbeSettings:
        """Return how a model is probed; that of a claimed run's first seed more closely."""
        first = training.run.claimed and training.seed == self.settings.seed
        closer = self.experiment.closer if first else {}
        return self._probe(training, {"rates": training.run.edits, **closer}, self.experiment.n_episodes)

    def choices(self, training: Trained) -> dict[str, ProbeSettings]:
        """Return how a model that the paper's signs are about is probed under each other choice."""
        choices = self.experiment.choices if training.run.claimed else {}
        n_episodes = self.experiment.n_episodes_again
        return {name: self._probe(training, choice, n_episodes) for name, choice in choices.items()}

    def _probe(self, training: Trained, asked: Mapping[str, Any], n_episodes: int) -> ProbeSettings:
        n_episodes = self.settings.n_episodes or n_episodes
        seed = self.settings.seed
        return ProbeSettings(**self._place, models=(training.model,), n_episodes=n_episodes, seed=seed, **asked)

    def rates(self, training: Trained) -> RatesSettings:
        """Return how a model's rates are looked at."""
        n_episodes = min(100, self.settings.n_episodes or self.experiment.n_episodes)
        return RatesSettings(**self._place, models=(training.model,), n_episodes=n_episodes, seed=self.settings.seed)

    def manifest(self, training: Trained, data: DataUsed) -> Manifest | None:
        """Return the manifest of a training that is finished, with these very settings on this very pack."""
        with contextlib.suppress(NilrError, OSError):
            directory = self.store.model_dir(training.model)
            found = newest_manifest(directory)
            if found is None:
                return None
            settings, row = resolve(training.settings)
            arguments: dict[str, Any] = {
                "n_way": settings.n_way,
                "image_size": data.image_size,
                **body_arguments(settings.arch, settings),
            }
            asked = recipe_digest(
                {"name": settings.arch, "arguments": arguments},
                row.to_stored(),
                recorded_settings(settings),
                data.digest,
            )
            trained = recipe_digest(found.architecture.model_dump(), found.algorithm, found.settings, found.data.digest)
            same = asked == trained and found.settings.get("seed") == training.seed
            if same and completed_updates(directory, found) == settings.outer_steps and _validated(directory, settings):
                return found
        return None

    def kept(self, training: Trained, look: ProbeSettings | RatesSettings, data: DataUsed) -> Path:
        """Return where a look at a trained model is kept: its name holds a digest of all that it depends on.

        Raises:
            NilrError: the model is not there.
        """
        command = command_of(look)
        model = read_manifest(self.store.find_model(training.model).file).tensors_sha256
        return self.folder / f"{training.model}.{command}-{look_digest(look, [model], data.digest)}.json"


def _validated(directory: Path, settings: TrainSettings) -> bool:
    """Tell whether no validation is left; a model without a training state is imported, with its training finished."""
    state = directory / TRAINING_STATE
    return not settings.eval_every or not state.exists() or load_training_state(state)[1].progress.finished(settings)


def command_of(look: ProbeSettings | RatesSettings) -> str:
    """Return the name of the command with these settings."""
    return "probe" if isinstance(look, ProbeSettings) else "rates"


def look_digest(look: TaskSettings, models: Sequence[str], data: str) -> str:
    """Return a digest of what is asked, of which models, on which pack; settings at their default say nothing."""
    asked = look.model_dump(mode="json", exclude=_PLACE, exclude_defaults=True)
    return hashlib.sha256(json.dumps([asked, list(models), data], sort_keys=True).encode()).hexdigest()[:12]


def read_kept(path: Path, command: str) -> Result[Any] | None:
    """Return a result that was kept; None where there is none that can be read."""
    try:
        return result_types()[command].model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def model_runs(trainings: Sequence[Trained]) -> Mapping[str, list[Trained]]:
    """Return the trainings of each run."""
    runs: dict[str, list[Trained]] = {}
    for training in trainings:
        runs.setdefault(training.run.name, []).append(training)
    return runs
