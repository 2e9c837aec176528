"""The loop of a probe: draw an episode, measure every model under every condition, stop when precise enough."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from nilr import distributed
from nilr.config.evaluation import ProbeSettings
from nilr.episodes import PackedImages
from nilr.errors import DivergedError
from nilr.meta.engine.workers import in_order
from nilr.meta.model import Model
from nilr.probes.conditions import META_INIT, Quantity, Subject, read_episode
from nilr.probes.edits import edited, rates_of_part
from nilr.probes.tasks import TaskPairs
from nilr.recipes.common.episodes import EpisodeSize, batch_stats, inner_steps, split_commas
from nilr.recipes.probe.controls import join_bodies, kind_of_control
from nilr.recipes.probe.plan import ProbePlan
from nilr.recipes.probe.stopping import first_look
from nilr.reporting import Reporter
from nilr.sections.values import Values

Measured = dict[str, dict[Quantity, float]]
"""One episode, by the subject's name."""

# All classes of a split take as much memory as dozens of episodes.
_WIDE_AT_ONCE = 4


def judge(
    settings: ProbeSettings,
    subjects: Mapping[str, Subject],
    plans: Mapping[str, ProbePlan],
    pairs: TaskPairs,
    reporter: Reporter,
    *,
    all_classes: TaskPairs | None = None,
    next_look: Callable[[Mapping[str, Values], int], int | None],
) -> dict[str, Values]:
    """Return the values of every model and control, by name.

    `all_classes` draws the evaluations of all classes of a split, if there are some. `next_look` takes all values and
    the number of episodes so far. It returns the number of episodes before the next look, or None to stop.
    """
    wide = {} if all_classes is None else _measure_all_classes(settings, subjects, plans, all_classes, reporter)
    quantities = _quantities(subjects, plans, all_classes=False)
    measure = _measurement(subjects, quantities, pairs)

    def collect(name: str) -> Values:
        return Values(wide.get(name, {}) | _by_quantity(episodes, name), settings.interval, settings.seed)

    episodes: list[Measured] = []
    target: int | None = first_look(settings)
    while target is not None:
        reporter.stage("probe", target, done=len(episodes), unit="episodes")
        device, at_most = pairs.judged.images.device, settings.episode_chunk
        for episode in in_order(measure, range(len(episodes), target), device=device, at_most=at_most):
            episodes.append(episode)
            reporter.advance()
        values = join_bodies({name: collect(name) for name in subjects})
        target = distributed.gather(next_look(values, len(episodes)))[0]
    return values


def _measure_all_classes(
    settings: ProbeSettings,
    subjects: Mapping[str, Subject],
    plans: Mapping[str, ProbePlan],
    pairs: TaskPairs,
    reporter: Reporter,
) -> dict[str, dict[Quantity, Tensor]]:
    """Return the values of linear classifiers of all classes, (n_tasks,), by the subject's name."""
    measure = _measurement(subjects, _quantities(subjects, plans, all_classes=True), pairs)
    reporter.stage("universality", settings.universality_tasks, unit="tasks")
    device, at_most = pairs.judged.images.device, min(_WIDE_AT_ONCE, settings.episode_chunk or _WIDE_AT_ONCE)
    tasks = []
    for task in in_order(measure, range(settings.universality_tasks), device=device, at_most=at_most):
        tasks.append(task)
        reporter.advance()
    return {name: _by_quantity(tasks, name) for name in subjects}


def _quantities(
    subjects: Iterable[str], plans: Mapping[str, ProbePlan], *, all_classes: bool
) -> dict[str, list[Quantity]]:
    return {name: plans[kind_of_control(name)].quantities(all_classes=all_classes) for name in subjects}


def _by_quantity(episodes: Sequence[Measured], name: str) -> dict[Quantity, Tensor]:
    quantities = episodes[0][name]
    return {q: torch.tensor([episode[name][q] for episode in episodes], dtype=torch.float64) for q in quantities}


def _measurement(
    subjects: Mapping[str, Subject],
    quantities: Mapping[str, Sequence[Quantity]],
    pairs: TaskPairs,
) -> Callable[[int], Measured]:
    """Return what measures all quantities of all subjects on episode number `i`."""
    conditions = {quantity.condition for measured in quantities.values() for quantity in measured}
    adapted = {condition.task for condition in conditions if condition != META_INIT}

    def measure(i: int) -> Measured:
        tasks = pairs.draw(i, adapted)
        values = {}
        for name, subject in subjects.items():
            try:
                values[name] = read_episode(subject, tasks, quantities[name])
            except DivergedError as error:
                raise DivergedError(f"model `{name}`, episode {i}: {error.message}", hint=error.hint) from error
        return values

    return measure


def make_subject(settings: ProbeSettings, model: Model, plan: ProbePlan) -> Subject:
    """Return a model as it is measured."""
    inner_lr = rates_of_part(model.inner_lr, model.params, split_commas(settings.adapt_part))
    edits = dict.fromkeys(quantity.condition.edit for quantity in plan.quantities())
    return Subject(
        params=model.params,
        inner_lr=inner_lr,
        inner_steps=inner_steps(settings, model),
        engine=model.engine,
        batch_stats=batch_stats(settings, model),
        query_batch=settings.query_batch,
        edits={edit: edited(inner_lr, model.params, edit, seed=settings.seed) for edit in edits},
        seed=settings.seed,
    )


def task_pairs(settings: ProbeSettings, size: EpisodeSize, images: PackedImages, judged: PackedImages) -> TaskPairs:
    """Return what draws the episodes: A from `images`, B from `judged`; EpisodeError if they have too few classes."""
    task_b = settings.task_b if images is judged else "any"
    drawn = {"seed": settings.seed, "split": settings.split, **dataclasses.asdict(size)}
    pairs = TaskPairs.of(judged, images, task_b, **drawn)
    if task_b == "disjoint" and settings.protocol in ("cross-task", "all"):
        pairs.adapted.check_classes_left(size.n_way)
    return pairs
