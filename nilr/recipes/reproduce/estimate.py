"""How long what is left of an experiment will take, from a few updates and adaptations timed as `nilr bench` does."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from nilr.config.benching import BenchSettings
from nilr.config.judging import ProbeSettings
from nilr.meta.engine.registry import choose_engine
from nilr.models.registry import body_arguments, build_learner
from nilr.recipes.bench.plan import BenchPlan
from nilr.recipes.bench.worker import Job, work_of
from nilr.recipes.common.settings import resolve
from nilr.recipes.reproduce.plan import Plan, Trained
from nilr.results.records import DataUsed

Probes = Sequence[tuple[Trained, ProbeSettings]]


def seconds_left(
    plan: Plan, data: DataUsed, device: torch.device, train: Sequence[tuple[Trained, int]], probe: Probes
) -> float:
    """Return about how many seconds the trainings and the probes take.

    A probe adapts once for every protocol and edit; what it reads of the outcome is not counted.

    Args:
        plan: the experiment.
        data: the pack.
        device: where it runs.
        train: the trainings that are left, each with its updates.
        probe: the probes that are left, each with its model's training.
    """
    timed: dict[Job, float] = {}

    def each(job: Job) -> float:
        if job not in timed:
            timed[job] = work_of(job, device, lambda note: None)()[0]  # a training tells its notes itself
        return timed[job]

    seconds = 0.0
    for training, updates in train:
        settings = resolve(training.settings)[0]
        update, evaluation = _jobs(plan, data, device, training)
        validations = math.ceil(updates / settings.eval_every) if settings.eval_every else 0
        episode = each(evaluation) / evaluation.episodes
        seconds += updates * each(update) + validations * settings.eval_episodes * episode
    for training, asked in probe:
        _, evaluation = _jobs(plan, data, device, training)
        adaptations = asked.n_episodes * 2 * len(asked.rates)
        seconds += adaptations * each(evaluation) / evaluation.episodes
    return seconds


def _jobs(plan: Plan, data: DataUsed, device: torch.device, training: Trained) -> tuple[Job, Job]:
    settings = resolve(training.settings)[0]
    arguments = body_arguments(settings.arch, settings)
    learner = build_learner(settings.arch, n_way=settings.n_way, image_size=data.image_size, **arguments)
    engine = choose_engine(settings.engine, learner, device, settings.precision).name
    own = plan.settings.model_dump(include={"device", "threads", "precision"})
    bench = BenchSettings(image_size=data.image_size, **own)
    return BenchPlan(bench, device).jobs(settings, engine)
