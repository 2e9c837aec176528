"""The probe's loop: episodes, each seen by every model under every condition, and read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nilr.config import PROTOCOLS, ProbeSettings
from nilr.episodes import EpisodeSampler, PackedImages
from nilr.meta.engine.workers import in_order
from nilr.probes.conditions import META_INIT, Condition, Reading, Subject, View, read_episode
from nilr.probes.edits import LEARNED, edited, rates_of_part
from nilr.probes.protocols import NeighbourAccuracy, TaskPairs
from nilr.recipes.controls import controls
from nilr.recipes.intervals import first_look
from nilr.recipes.judging import EpisodeSize, asked_rates, inner_steps, listed
from nilr.recipes.loading import LoadedModel
from nilr.reporting import Reporter

ACCURACY = "accuracy"

Readings = dict[Condition, dict[str, Tensor]]
"""Values (n_episodes,) float64 by condition and the reading's name."""


@dataclass(frozen=True)
class Plan:
    """What is read of each episode.

    Attributes:
        rates: the edits of the rates; the figures that stand first are those of the first one.
        conditions: how the models come to their parameters. What deltas refer to is always among them: meta-init, and
            the learned rates.
        readings: what is taken of each condition, by name.
    """

    rates: Sequence[str]
    conditions: Sequence[Condition]
    readings: Mapping[str, Reading]


def plan(settings: ProbeSettings) -> Plan:
    """Return what the settings ask to be read.

    Raises:
        UnknownNameError: they ask for rates that nilr does not know.
    """
    rates = tuple(dict.fromkeys([*asked_rates(settings.rates), LEARNED]))
    adapted = [p for p in PROTOCOLS if settings.protocol in ("all", p) and p != META_INIT.protocol]
    return Plan(
        rates=rates,
        conditions=[META_INIT, *(Condition(protocol, edit) for protocol in adapted for edit in rates)],
        readings={ACCURACY: NeighbourAccuracy(settings.neighbours, settings.distance)},
    )


def subject_of(settings: ProbeSettings, model: LoadedModel, rates: Iterable[str]) -> Subject:
    """Return a model as the probe adapts it.

    Raises:
        UnknownNameError: it has no such part as --adapt-part names.
    """
    inner_lr = rates_of_part(model.inner_lr, model.params, listed(settings.adapt_part))
    return Subject(
        learner=model.learner,
        params=model.params,
        inner_lr=inner_lr,
        inner_steps=inner_steps(settings, model),
        engine=model.engine,
        edits={name: edited(inner_lr, model.params, name, seed=settings.seed) for name in rates},
    )


def task_pairs(settings: ProbeSettings, size: EpisodeSize, images: PackedImages) -> TaskPairs:
    """Return what draws the episodes."""

    def sampler(stream: str, n_query: int) -> EpisodeSampler:
        return EpisodeSampler(images, size.n_way, size.n_shot, n_query, settings.seed, stream)

    # nothing is judged on A, so it has no queries
    return TaskPairs(sampler(settings.split, size.n_query), sampler(f"{settings.split}/task-a", 0), settings.task_b)


def judge(
    settings: ProbeSettings,
    models: Mapping[str, LoadedModel],
    planned: Plan,
    pairs: TaskPairs,
    reporter: Reporter,
    *,
    more: Callable[[Mapping[str, Readings], int], int | None],
) -> dict[str, Readings]:
    """Return what is read of every model and control, by its name; of a control at meta-init only.

    Args:
        settings: the probe's.
        models: by the names that the result gives them.
        planned: what is read.
        pairs: draws the episodes.
        reporter: told of every episode.
        more: called with all that was read and the number of episodes; says how many to read before it is asked again,
            or None when it is enough.
    """
    subjects = {name: subject_of(settings, model, planned.rates) for name, model in models.items()}
    beside = controls(next(iter(models.values())), settings.seed) if settings.controls else {}
    cross = any(condition.protocol == "cross-task" for condition in planned.conditions)

    def one(i: int) -> dict[str, dict[Condition, dict[str, float]]]:
        tasks = pairs.draw(i, cross=cross)
        seen = {
            name: read_episode(subject, tasks, planned.conditions, planned.readings, batch_stats=settings.batch_stats)
            for name, subject in subjects.items()
        }
        for name, control in beside.items():
            view = View(control, control.params, tasks.judged, settings.batch_stats)
            seen[name] = {META_INIT: {reading: take(view, view) for reading, take in planned.readings.items()}}
        return seen

    episodes: list[dict[str, dict[Condition, dict[str, float]]]] = []
    target: int | None = first_look(settings)
    while target is not None:
        reporter.stage("probe", target, done=len(episodes), unit="episodes")
        for outcome in in_order(one, range(len(episodes), target), device=pairs.judged.images.device):
            episodes.append(outcome)
            reporter.advance()
        readings = {name: _collected([episode[name] for episode in episodes]) for name in episodes[0]}
        target = more(readings, len(episodes))
    return readings


def _collected(episodes: Sequence[Mapping[Condition, Mapping[str, float]]]) -> Readings:
    return {
        condition: {
            name: torch.tensor([episode[condition][name] for episode in episodes], dtype=torch.float64)
            for name in values
        }
        for condition, values in episodes[0].items()
    }
