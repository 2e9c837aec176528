"""The models of an experiment: their trainings, what is measured of each, and what is finished."""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nilr.checkpoint import read_manifest
from nilr.commands import result_types, schema_of
from nilr.config.base import listed_seeds
from nilr.config.evaluation import ProbeSettings, RatesSettings
from nilr.config.experiments import EXPERIMENTS, Experiment, Run
from nilr.config.meta_train import REFERENCES, TrainSettings
from nilr.config.reproduce import ReproduceSettings
from nilr.errors import EpisodeError, NilrError
from nilr.history import completed_updates
from nilr.models.import_path import is_import_path
from nilr.recipes import meta_train, probe, rates
from nilr.recipes.common.loading import find_reference, recipe_of
from nilr.recipes.common.settings import for_body, recipe_digest, recorded_settings, resolve, stored_architecture
from nilr.reporting import Reporter
from nilr.results.records import DataUsed
from nilr.results.result import Result, write_result
from nilr.store import TRAINING_STATE, Store, newest_manifest
from nilr.training_state import load_training_state
from nilr.words import slug

Measurement = ProbeSettings | RatesSettings

TRAINING = "training"  # the name of a model's first step; the others have the names of its measurements

# Settings that do not change what is measured.
_PLACE = {"home", "data", "models", "device", "threads", "episode_chunk", "engine", "record_paths"}


@dataclass(frozen=True)
class PlannedModel:
    """One model of an experiment: a run with one seed, and the settings of its training."""

    run: Run
    seed: int
    name: str
    training: TrainSettings

    @property
    def reference(self) -> str | None:
        """The name of the model whose rates the training uses, if any: it must be trained before."""
        return self.training.reference


@dataclass(frozen=True)
class ExperimentPlan:
    """An experiment with the user's flags."""

    settings: ReproduceSettings  # of the command
    store: Store  # the store that holds everything
    pack: str  # name or path of the pack
    data: DataUsed  # the pack

    @property
    def experiment(self) -> Experiment:
        """The preset's experiment."""
        return EXPERIMENTS[self.settings.preset]

    @property
    def name(self) -> str:
        """The name of the experiment and its folder."""
        return experiment_name(self.settings)

    @property
    def folder(self) -> Path:
        """The folder of the results and the report."""
        return experiment_folder(self.settings, self.store)

    @cached_property
    def models(self) -> list[PlannedModel]:
        """All models, run by run, each over all seeds."""
        return [
            self._model(run, seed)
            for run in self.experiment.runs
            for seed in self.seeds[: max(1, len(self.seeds) - run.fewer_seeds)]
        ]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the experiment; some runs have fewer."""
        return listed_seeds(self.settings.seeds or self.experiment.seeds, self.settings.seed)

    def _model(self, run: Run, seed: int) -> PlannedModel:
        def named(run: str) -> str:
            return f"{self.settings.name or self.experiment.models or self.name}-{run}-s{seed}"

        name = named(run.name)
        flags = self.settings.model_dump(include={"outer_steps", "arch", "filters", "widths"}, exclude_none=True)
        references = {setting: named(run.train[setting]) for setting in REFERENCES if setting in run.train}
        train = {**self.experiment.train, **run.train, **references}
        values = {**for_body(flags.get("arch", TrainSettings().arch), train), **flags, **self._place}
        return PlannedModel(run, seed, name, TrainSettings(**values, seed=seed, name=name, resume="auto"))

    @property
    def _place(self) -> dict[str, Any]:
        shared = {"device", "threads", "episode_chunk", "engine", "precision", "record_paths"}
        return {"home": self.store.home, "data": self.pack, **self.settings.model_dump(include=shared)}

    def measurements(self, model: PlannedModel) -> dict[str, Measurement]:
        """Return the settings of everything that is measured of a model.

        Returns:
            "probe", which measures more of a claimed run's first seed; "rates"; and for a claimed run a probe for each
            other choice, by the choice's name.
        """
        experiment, settings = self.experiment, self.settings
        arch = settings.arch
        code = (arch,) if arch is not None and is_import_path(arch) else ()
        common = {**self._place, "models": (model.name,), "seed": settings.seed, "arch": code}
        first = model.run.claimed and model.seed == self.seeds[0]
        probe = {"rates": model.run.edits, **experiment.probe, **(experiment.closer if first else {})}
        n_episodes = settings.n_episodes or experiment.n_episodes
        again = settings.n_episodes or experiment.n_episodes_again
        choices = experiment.choices if model.run.claimed else {}
        return {
            "probe": ProbeSettings(**common, n_episodes=n_episodes, **probe),
            "rates": RatesSettings(**common, n_episodes=min(100, n_episodes)),
            **{name: ProbeSettings(**common, n_episodes=again, **choice) for name, choice in choices.items()},
        }

    def check_classes(self) -> None:
        """Check that the evaluated split has the classes of two disjoint tasks; EpisodeError if not."""
        needed, classes = 2 * max(model.training.n_way for model in self.models), self.data.n_classes
        if classes is not None and classes < needed:
            raise EpisodeError(
                f"two disjoint tasks need {needed} classes, but `{self.data.split}` of `{self.data.name}` has "
                f"{classes}",
                hint="use a pack with more classes in this split",
            )

    def is_trained(self, model: PlannedModel) -> bool:
        """Return whether a training with these settings on this pack is finished, with all its validations."""
        directory = self.store.model_dir(model.name)
        with contextlib.suppress(NilrError, OSError):
            found = newest_manifest(directory)
            if found is None:
                return False
            settings, algorithm = resolve(model.training)
            architecture = stored_architecture(settings, self.data)
            recorded, reference = recorded_settings(settings), find_reference(self.store, settings)
            used = reference[1] if reference else None
            recipe = recipe_digest(
                architecture, algorithm.to_stored(), recorded, self.data.digest, used.recipe if used else None
            )
            same = recipe == recipe_of(found) and found.settings.get("seed") == model.seed and used == found.reference
            finished = completed_updates(directory, found) == settings.outer_steps
            return same and finished and _is_validated(directory, settings)
        return False

    def result_path(self, model: PlannedModel, measurement: Measurement, question: str = "") -> Path:
        """Return the file of a measurement.

        Its name holds the question of a probe, and a digest of everything that the result depends on.
        """
        tensors = read_manifest(self.store.find_model(model.name).file).tensors_sha256
        digest = measurement_digest(measurement, [tensors], self.data.digest)
        return self.folder / f"{model.name}.{schema_of(measurement)}-{question}{digest}.json"


def experiment_name(settings: ReproduceSettings) -> str:
    """Return the experiment's name: the user's, or else the preset's."""
    return settings.name or settings.preset


def experiment_folder(settings: ReproduceSettings, store: Store) -> Path:
    """Return the folder of the experiment's results and its report."""
    return store.home / "reproduce" / experiment_name(settings)


def _is_validated(directory: Path, settings: TrainSettings) -> bool:
    # an imported model has no training state, and its training is finished
    state = directory / TRAINING_STATE
    return not settings.eval_every or not state.exists() or load_training_state(state)[1].progress.finished(settings)


def measurement_digest(measurement: Measurement, models: Sequence[str], data: str) -> str:
    """Return a digest of a measurement, its models and its pack; settings at their default do not count."""
    settings = measurement.model_dump(mode="json", exclude=_PLACE, exclude_defaults=True)
    return hashlib.sha256(json.dumps([settings, list(models), data], sort_keys=True).encode()).hexdigest()[:12]


def finished_shares(plan: ExperimentPlan) -> dict[str, dict[str, float]]:
    """Return, by model and step, what is finished: 1.0, or less for a training that has begun."""
    shares = {}
    for model in plan.models:
        trained = plan.is_trained(model)
        shares[model.name] = {TRAINING: 1.0 if trained else _trained_share(plan, model)}
        for name, measurement in plan.measurements(model).items():
            shares[model.name][name] = float(trained and _find(plan, model, measurement) is not None)
    return shares


def _trained_share(plan: ExperimentPlan, model: PlannedModel) -> float:
    with contextlib.suppress(NilrError, OSError):
        manifest = newest_manifest(plan.store.model_dir(model.name))
        if manifest is not None:
            return min(manifest.outer_step / resolve(model.training)[0].outer_steps, 0.99)  # a validation is missing
    return 0.0


def stored_files(plan: ExperimentPlan) -> list[Path] | None:
    """Return the files of all measurements, unread; None if some step is not finished."""
    found = []
    for model in plan.models:
        if not plan.is_trained(model):
            return None
        for measurement in plan.measurements(model).values():
            paths = _candidates(plan, model, measurement)
            if not paths:
                return None
            found += paths
    return found


def train(plan: ExperimentPlan, model: PlannedModel, reporter: Reporter) -> None:
    """Train a model, unless that is finished."""
    if not plan.is_trained(model):
        trained = meta_train.run(model.training, reporter)
        write_result(plan.folder / f"{model.name}.meta-train.json", trained)


def measure(
    plan: ExperimentPlan, model: PlannedModel, measurement: Measurement, reporter: Reporter
) -> tuple[Path, Result[Any]]:
    """Return a result and its file; measure and write it unless the file exists."""
    found = _find(plan, model, measurement)
    if found is not None:
        return found
    result: Result[Any] = (
        probe.run(measurement, reporter) if isinstance(measurement, ProbeSettings) else rates.run(measurement, reporter)
    )
    path = plan.result_path(model, measurement, f"{slug(result.question)}-" if result.question else "")
    write_result(path, result)
    return path, result


def _find(plan: ExperimentPlan, model: PlannedModel, measurement: Measurement) -> tuple[Path, Result[Any]] | None:
    """Return a stored result with its file, whatever question its name has; None if there is no valid one."""
    for path in _candidates(plan, model, measurement):
        if (result := _read(path, measurement)) is not None:
            return path, result
    return None


def _candidates(plan: ExperimentPlan, model: PlannedModel, measurement: Measurement) -> list[Path]:
    return sorted(plan.folder.glob(plan.result_path(model, measurement, "*").name))


def _read(path: Path, measurement: Measurement) -> Result[Any] | None:
    """Return a stored result; None if it is missing or invalid."""
    try:
        return result_types()[schema_of(measurement)].model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
