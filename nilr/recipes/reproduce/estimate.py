"""The time that the rest of an experiment takes, from a few updates and adaptations timed as `nilr bench` does."""

import math

import torch

from nilr.config.commands import BenchSettings
from nilr.config.evaluation import ProbeSettings
from nilr.config.meta_train import TrainSettings
from nilr.meta.engine.registry import choose_engine
from nilr.models.registry import body_arguments, build_learner
from nilr.recipes.bench.plan import BenchPlan
from nilr.recipes.bench.worker import Job, work_of
from nilr.recipes.common.settings import resolve
from nilr.recipes.reproduce.plan import ExperimentPlan, PlannedModel, Unfinished
from nilr.reporting import Reporter
from nilr.store import newest_manifest
from nilr.words import counted


def estimate_seconds(
    plan: ExperimentPlan, unfinished: Unfinished, device: torch.device, jobs: int, threads: int, reporter: Reporter
) -> float:
    """Report what is left to do, and return roughly how many seconds it takes."""
    if not unfinished.measurements:
        reporter.note("all trainings and probes are finished")
        return 0.0
    updates = {model.name: _updates_left(plan, model) for model in unfinished.trainings}
    probes = {
        name: [measurement for measurement in measurements if isinstance(measurement, ProbeSettings)]
        for name, measurements in unfinished.measurements.items()
    }
    all_threads = torch.get_num_threads()
    torch.set_num_threads(threads)
    seconds = _sum_seconds(plan, device, updates, probes)
    torch.set_num_threads(all_threads)
    seconds /= 1 if device.type == "cuda" else min(jobs, all_threads)
    n_probes = sum(len(of_model) for of_model in probes.values())
    reporter.note(
        f"to do: {len(updates)} of {counted(len(plan.models), 'training')} "
        f"({counted(sum(updates.values()), 'update')}), {counted(n_probes, 'probe')}: "
        f"about {counted(max(1, round(seconds / 60)), 'minute')} on this machine at its present load"
    )
    return seconds


def _updates_left(plan: ExperimentPlan, model: PlannedModel) -> int:
    planned = resolve(model.training)[0].outer_steps
    manifest = newest_manifest(plan.store.model_dir(model.name))
    return planned - (0 if manifest is None else min(manifest.outer_step, planned))


def _sum_seconds(
    plan: ExperimentPlan, device: torch.device, updates: dict[str, int], probes: dict[str, list[ProbeSettings]]
) -> float:
    """Return the seconds of all updates, validations and probes by model, one after the other.

    A probe adapts once for every protocol and edit; the time of its readings is not counted.
    """
    timed: dict[Job, float] = {}

    def seconds_of(job: Job) -> float:
        if job not in timed:
            timed[job] = work_of(job, device, lambda note: None)()[0]  # the training reports its notes itself
        return timed[job]

    seconds = 0.0
    for model in plan.models:
        if model.name not in updates and not probes.get(model.name):
            continue
        settings = resolve(model.training)[0]
        update, evaluation = _bench_jobs(plan, device, settings)
        if left := updates.get(model.name, 0):
            seconds += left * seconds_of(update)
        validations = math.ceil(left / settings.eval_every) * settings.eval_episodes if settings.eval_every else 0
        adaptations = sum(probe.n_episodes * 2 * len(probe.rates) for probe in probes.get(model.name, ()))
        seconds += (validations + adaptations) * seconds_of(evaluation) / evaluation.episodes
    return seconds


def _bench_jobs(plan: ExperimentPlan, device: torch.device, settings: TrainSettings) -> tuple[Job, Job]:
    image_size = plan.data.image_size
    arguments = body_arguments(settings.arch, settings)
    learner = build_learner(settings.arch, n_way=settings.n_way, image_size=image_size, **arguments)
    engine = choose_engine(settings.engine, learner, device, settings.precision).name
    computing = plan.settings.model_dump(include={"device", "threads", "precision"})
    return BenchPlan(BenchSettings(image_size=image_size, **computing), device).jobs(settings, engine)
