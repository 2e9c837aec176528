"""Probe: features judged by labelled neighbours, before and after adaptation, on the same task and on another one."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nilr.config import PROTOCOLS, ProbeSettings, Protocol
from nilr.episodes import EpisodeSampler, PackedImages
from nilr.meta.engine.workers import in_order
from nilr.metrics import mean_interval, paired_difference
from nilr.probes.protocols import Judge, Subject, TaskPairs, judge_episode
from nilr.recipes.controls import against_untrained, control_judges
from nilr.recipes.judging import EpisodeSize, episode_size, inner_steps
from nilr.recipes.loading import LoadedModel, judged_data, load_model, open_split, require_same_size
from nilr.recipes.outcome import Outcome
from nilr.recipes.verdict import verdict
from nilr.reporting import Reporter
from nilr.results import Delta, Mean, ModelProbe, ProbeMetrics, ProtocolMetrics, Result
from nilr.runtime import environment, prepare
from nilr.store import Store

Accuracies = dict[Protocol, Tensor]


def run(settings: ProbeSettings, reporter: Reporter) -> Result[ProbeMetrics]:
    """Judge one or several models on the same episodes.

    Raises:
        NilrError: a model or a pack cannot be used, or cannot give such episodes.
    """
    outcome = Outcome("probe")
    store = Store(settings.home)
    device = prepare(settings.device, settings.threads)
    models = _load(store, settings, device)
    used = list(models.values())
    size = episode_size(settings, used)
    split = open_split(judged_data(store, settings.data, used[0]), settings.split, device)
    for model in used:
        require_same_size(model, split.used)
    accuracies = _judge(settings, models, size, split.images, reporter)
    metrics = {name: summarise(values) for name, values in accuracies.items()}
    notes = [verdict({name: model.algorithm.name for name, model in models.items()}, metrics)]
    if settings.controls:
        notes.insert(0, against_untrained({name: values["meta-init"] for name, values in accuracies.items()}))
    return outcome.result(
        metrics,
        config={
            **settings.model_dump(mode="json", exclude={"home", "models"}),
            **dataclasses.asdict(size),
            "inner_steps": {name: inner_steps(settings, model) for name, model in models.items()},
            "data": split.used.name,
        },
        models=[model.used for model in used],
        data=split.used,
        per_episode={name: {p: v.tolist() for p, v in values.items()} for name, values in accuracies.items()},
        notes=notes,
        environment=environment(device, used[0].engine.name),
    )


def _load(store: Store, settings: ProbeSettings, device: torch.device) -> dict[str, LoadedModel]:
    """Return the models by the names that the result gives them, each file once.

    That is NAME; NAME@CHECKPOINT where NAME stands twice; with a number after it where paths share that too.
    """
    references: Sequence[str | None] = settings.models or (None,)
    loaded = [load_model(store, reference, device=device, engine=settings.engine) for reference in references]
    models = list({model.ref.file.resolve(): model for model in loaded}.values())
    names = [model.ref.name for model in models]
    labels = [
        name if names.count(name) == 1 else f"{name}@{model.ref.checkpoint}"
        for name, model in zip(names, models, strict=True)
    ]
    return {
        label if labels.index(label) == i else f"{label} ({labels[: i + 1].count(label)})": model
        for i, (label, model) in enumerate(zip(labels, models, strict=True))
    }


def _judge(
    settings: ProbeSettings,
    models: Mapping[str, LoadedModel],
    size: EpisodeSize,
    images: PackedImages,
    reporter: Reporter,
) -> dict[str, Accuracies]:
    """Return per-episode accuracies (n_episodes,) by model or control, and protocol."""
    protocols = [p for p in PROTOCOLS if settings.protocol in ("all", p) or p == "meta-init"]

    def sampler(stream: str) -> EpisodeSampler:
        return EpisodeSampler(images, size.n_way, size.n_shot, size.n_query, settings.seed, stream)

    pairs = TaskPairs(sampler(settings.split), sampler(f"{settings.split}/task-a"), settings.task_b)
    judge = Judge(settings.neighbours, settings.distance, settings.batch_stats)
    subjects = {
        name: Subject(model.learner, model.params, model.inner_lr, inner_steps(settings, model), model.engine)
        for name, model in models.items()
    }
    controls = control_judges(next(iter(models.values())), judge, settings.seed) if settings.controls else {}
    judged: dict[str, dict[Protocol, list[float]]] = {name: defaultdict(list) for name in [*subjects, *controls]}

    def one(i: int) -> dict[str, dict[Protocol, float]]:
        episode_b, episode_a = pairs.draw(i, cross="cross-task" in protocols)
        of_models = {
            name: judge_episode(subject, judge, episode_b, episode_a, protocols) for name, subject in subjects.items()
        }
        return of_models | {name: {"meta-init": accuracy(episode_b)} for name, accuracy in controls.items()}

    reporter.stage("probe", settings.n_episodes, unit="episodes")
    for outcome in in_order(one, range(settings.n_episodes), device=images.device):
        for name, by_protocol in outcome.items():
            for protocol, value in by_protocol.items():
                judged[name][protocol].append(value)
        reporter.advance()
    return {
        name: {protocol: torch.tensor(values, dtype=torch.float64) for protocol, values in by_protocol.items()}
        for name, by_protocol in judged.items()
    }


def summarise(accuracies: Accuracies) -> ModelProbe:
    """Return means with intervals, and deltas paired to meta-init, of per-episode accuracies by protocol."""
    reference = accuracies["meta-init"]
    return ModelProbe.model_validate(
        {
            protocol: ProtocolMetrics(
                accuracy=_mean(values), delta=None if protocol == "meta-init" else _delta(values, reference)
            )
            for protocol, values in accuracies.items()
        }
    )


def _mean(values: Tensor) -> Mean:
    interval = mean_interval(values)
    return Mean(mean=interval.mean, ci95=interval.ci95, n_episodes=interval.n)


def _delta(values: Tensor, reference: Tensor) -> Delta:
    difference = paired_difference(values, reference)
    return Delta(mean=difference.mean, ci95=difference.ci95, p=difference.p, verdict=difference.verdict)
