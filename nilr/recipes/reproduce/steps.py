"""The steps of an experiment: train a model and measure it, unless that is finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from nilr.commands import result_types
from nilr.config.judging import ProbeSettings
from nilr.recipes import meta_train, probe, rates
from nilr.recipes.reproduce.plan import ExperimentPlan, Measurement, PlannedModel, command_of
from nilr.reporting import Reporter
from nilr.results.result import Result, write_result


class Unfinished(NamedTuple):
    """The part of an experiment that is not finished.

    Attributes:
        trainings: models to train, in order.
        measurements: measurements by model, in order; all those of a model that is not trained.
    """

    trainings: list[PlannedModel]
    measurements: dict[str, list[Measurement]]


def find_unfinished(plan: ExperimentPlan) -> Unfinished:
    """Return the trainings and measurements of an experiment that are not finished."""
    trainings = [model for model in plan.models if not plan.is_trained(model)]
    measurements = {}
    for model in plan.models:
        missing = list(plan.measurements(model).values())
        if model not in trainings:
            missing = [one for one in missing if _read(plan.result_path(model, one), one) is None]
        if missing:
            measurements[model.name] = missing
    return Unfinished(trainings, measurements)


def train(plan: ExperimentPlan, model: PlannedModel, reporter: Reporter) -> None:
    """Train a model, unless that is finished."""
    if not plan.is_trained(model):
        trained = meta_train.run(model.training, reporter)
        write_result(plan.folder / f"{model.name}.meta-train.json", trained)


def measure(
    plan: ExperimentPlan, model: PlannedModel, measurement: Measurement, reporter: Reporter
) -> tuple[Path, Result[Any]]:
    """Return a result and its file; measure and write it unless the file exists."""
    path = plan.result_path(model, measurement)
    result = _read(path, measurement)
    if result is None:
        if isinstance(measurement, ProbeSettings):
            result = probe.run(measurement, reporter)
        else:
            result = rates.run(measurement, reporter)
        write_result(path, result)
    return path, result


def _read(path: Path, measurement: Measurement) -> Result[Any] | None:
    """Return a stored result; None if it is missing or invalid."""
    try:
        return result_types()[command_of(measurement)].model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
