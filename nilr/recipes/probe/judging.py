"""The probe's loop: episodes, each seen by every model under every condition, and read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from nilr.config import ProbeSettings
from nilr.episodes import EpisodeSampler, PackedImages
from nilr.errors import DivergedError
from nilr.meta.engine.workers import in_order
from nilr.probes.conditions import META_INIT, Condition, Subject, read_episode, see
from nilr.probes.edits import edited, rates_of_part
from nilr.probes.protocols import TaskPairs
from nilr.recipes.common.episodes import EpisodeSize, inner_steps, split_commas
from nilr.recipes.common.loading import LoadedModel
from nilr.recipes.probe.controls import controls
from nilr.recipes.probe.plan import Plan
from nilr.recipes.probe.stopping import first_look
from nilr.reporting import Reporter

Readings = dict[Condition, dict[str, Tensor]]
"""Values (n_episodes,) float64 by condition and the reading's name; NaN is undefined."""


def subject_of(settings: ProbeSettings, model: LoadedModel, rates: Iterable[str]) -> Subject:
    """Return a model as the probe adapts it.

    Raises:
        UnknownNameError: it has no such part as --adapt-part names.
    """
    inner_lr = rates_of_part(model.inner_lr, model.params, split_commas(settings.adapt_part))
    return Subject(
        learner=model.learner,
        params=model.params,
        inner_lr=inner_lr,
        inner_steps=inner_steps(settings, model),
        engine=model.engine,
        edits={name: edited(inner_lr, model.params, name, seed=settings.seed) for name in rates},
    )


def task_pairs(settings: ProbeSettings, size: EpisodeSize, images: PackedImages, judged: PackedImages) -> TaskPairs:
    """Return what draws the episodes.

    Args:
        settings: the probe's.
        size: of the episodes.
        images: episode A is drawn from them.
        judged: episode B is drawn from them.
    """
    b = EpisodeSampler(judged, size.n_way, size.n_shot, size.n_query, settings.seed, settings.split)
    # nothing is judged on A, so it has no queries
    a = EpisodeSampler(images, size.n_way, size.n_shot, 0, settings.seed, f"{settings.split}/task-a")
    return TaskPairs(b, a, settings.task_b if images is judged else "any")


def judge(
    settings: ProbeSettings,
    models: Mapping[str, LoadedModel],
    plans: Mapping[str, Plan],
    pairs: TaskPairs,
    reporter: Reporter,
    *,
    more: Callable[[Mapping[str, Readings], int], int | None],
) -> dict[str, Readings]:
    """Return what is read of every model and control, by its name; of a control at meta-init only.

    Args:
        settings: the probe's.
        models: by the names that the result gives them.
        plans: what is read of each model and control, by its name.
        pairs: draws the episodes.
        reporter: told of every episode.
        more: called with all that was read and the number of episodes; says how many to read before it is asked again,
            or None when it is enough.
    """
    asked = {name: planned.asked() for name, planned in plans.items()}
    subjects = {name: subject_of(settings, model, plans[name].rates) for name, model in models.items()}
    beside = controls(next(iter(models.values())), settings.seed) if settings.controls else {}
    cross, shared = _other_tasks({condition for readings in asked.values() for condition in readings})

    def one(i: int) -> dict[str, dict[Condition, dict[str, float]]]:
        tasks = pairs.draw(i, cross=cross, shared=shared)
        seen = {}
        for name, subject in subjects.items():
            try:
                seen[name] = read_episode(subject, tasks, asked[name], batch_stats=settings.batch_stats)
            except DivergedError as error:
                raise DivergedError(f"model `{name}`, episode {i}: {error.message}", hint=error.hint) from error
        for name, control in beside.items():
            view = see(control, control.params, tasks.judged, asked[name].values(), settings.batch_stats)
            seen[name] = {META_INIT: {reading: take(view, view) for reading, take in asked[name][META_INIT].items()}}
        return seen

    episodes: list[dict[str, dict[Condition, dict[str, float]]]] = []
    target: int | None = first_look(settings)
    while target is not None:
        reporter.stage("probe", target, done=len(episodes), unit="episodes")
        device, at_most = pairs.judged.images.device, settings.episode_chunk
        for outcome in in_order(one, range(len(episodes), target), device=device, at_most=at_most):
            episodes.append(outcome)
            reporter.advance()
        readings = {name: _collected([episode[name] for episode in episodes]) for name in episodes[0]}
        target = more(readings, len(episodes))
    return readings


def _other_tasks(conditions: Iterable[Condition]) -> tuple[bool, list[int]]:
    """Tell whether a cross-task is asked for, and which numbers of shared classes."""
    asked = list(conditions)
    shared = {condition.shared for condition in asked if condition.shared is not None}
    return any(condition.task == "cross-task" for condition in asked), sorted(shared)


def _collected(episodes: Sequence[Mapping[Condition, Mapping[str, float]]]) -> Readings:
    return {
        condition: {
            name: torch.tensor([episode[condition][name] for episode in episodes], dtype=torch.float64)
            for name in values
        }
        for condition, values in episodes[0].items()
    }
