"""The time that the steps of an experiment take, from a few updates and adaptations timed as `nilr bench` does."""

import torch

from nilr.config.bench import BenchSettings
from nilr.config.evaluation import ProbeSettings
from nilr.config.meta_train import TrainSettings
from nilr.meta.engine.registry import choose_engine
from nilr.models.registry import body_arguments, build_learner
from nilr.recipes.bench.plan import BenchPlan
from nilr.recipes.bench.worker import Job, work_of
from nilr.recipes.common.settings import resolve
from nilr.recipes.reproduce.plan import TRAINING, ExperimentPlan
from nilr.reporting import Reporter

_GUESSED_UPDATES_PER_SECOND, _GUESSED_EPISODES_PER_SECOND = 5, 20


def estimate_costs(
    plan: ExperimentPlan, device: torch.device, threads: int, reporter: Reporter
) -> dict[str, dict[str, float]]:
    """Return the seconds of each step of each model, from its beginning, if nothing else runs.

    A probe adapts once for every protocol and edit; the time of its readings is not counted.
    """
    reporter.stage("timing updates and adaptations")
    timed: dict[Job, float] = {}

    def seconds_of(job: Job) -> float:
        if job not in timed:
            timed[job] = work_of(job, device, lambda note: None)()[0]  # the training reports its notes itself
        return timed[job]

    all_threads = torch.get_num_threads()
    torch.set_num_threads(threads)
    costs = {}
    for model in plan.models:
        settings = resolve(model.training)[0]
        update, evaluation = _bench_jobs(plan, device, settings)
        validated = settings.validations_after(0) * settings.eval_episodes
        episode = seconds_of(evaluation) / evaluation.episodes
        costs[model.name] = {TRAINING: settings.outer_steps * seconds_of(update) + validated * episode}
        for name, measurement in plan.measurements(model).items():
            adaptations = 2 * len(measurement.rates) if isinstance(measurement, ProbeSettings) else 1
            costs[model.name][name] = measurement.n_episodes * adaptations * episode
    torch.set_num_threads(all_threads)
    return costs


def guess_costs(plan: ExperimentPlan) -> dict[str, dict[str, float]]:
    """Return rough seconds of each step of each model, for machines that cannot be timed before the work."""
    return {
        model.name: {
            TRAINING: resolve(model.training)[0].outer_steps / _GUESSED_UPDATES_PER_SECOND,
            **{name: one.n_episodes / _GUESSED_EPISODES_PER_SECOND for name, one in plan.measurements(model).items()},
        }
        for model in plan.models
    }


def _bench_jobs(plan: ExperimentPlan, device: torch.device, settings: TrainSettings) -> tuple[Job, Job]:
    images = {"image_size": plan.data.image_size, "channels": plan.data.channels}
    arguments = body_arguments(settings.arch, settings)
    learner = build_learner(settings.arch, n_way=settings.n_way, **images, **arguments)
    engine = choose_engine(settings.engine, learner, device, settings.precision).name
    computing = plan.settings.model_dump(include={"device", "threads", "precision"})
    return BenchPlan(BenchSettings(**images, **computing), device).jobs(settings, engine)
