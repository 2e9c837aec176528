"""`nilr probe`: evaluate features by labelled neighbours, before and after adaptation, on the same and another task."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nilr import distributed
from nilr.claims import claimed_signs, describe_probe, with_signs
from nilr.config.evaluation import ProbeSettings
from nilr.errors import DataError
from nilr.probes.conditions import Subject
from nilr.probes.tasks import TaskPairs
from nilr.recipes.common.episodes import (
    EpisodeSize,
    batch_stats,
    dependence_notes,
    edit_names,
    episode_size,
    head_notes,
    inner_steps,
    split_commas,
    unmoved_notes,
    with_head,
)
from nilr.recipes.common.loading import LoadedModel, OpenSplit, load_models, open_evaluation_split, training_pack_notes
from nilr.recipes.common.memory import with_memory_hint
from nilr.recipes.common.outcome import Outcome
from nilr.recipes.common.overlaps import find_overlaps
from nilr.recipes.probe.controls import UNTRAINED, build_controls, compare_with_untrained
from nilr.recipes.probe.loop import judge, make_subject, task_pairs
from nilr.recipes.probe.plan import (
    ProbePlan,
    check_settings,
    check_size,
    plan_controls,
    plan_model,
    requested_rules,
    resolve_request,
)
from nilr.recipes.probe.stopping import correct, next_look, precision_note
from nilr.recipes.probe.universality import draw_all_classes, open_all_classes, universality_notes
from nilr.report.figures import seeds
from nilr.report.reading import Source
from nilr.report.subjects import probed
from nilr.reporting import Reporter
from nilr.results.probe import ProbeMetrics
from nilr.results.question import describe_question
from nilr.results.records import DataUsed
from nilr.results.result import Result
from nilr.runtime import environment, prepare
from nilr.sections.values import Values
from nilr.store import Store


class Inputs(NamedTuple):
    """What a probe works on: everything is checked, and nothing evaluated."""

    models: dict[str, LoadedModel]
    size: EpisodeSize
    plans: dict[str, ProbePlan]  # of the models, and of controls
    split: OpenSplit  # of episode A
    judged: OpenSplit  # of episode B
    pairs: TaskPairs
    wide: OpenSplit | None  # of --universality
    device: torch.device


def open_inputs(settings: ProbeSettings, store: Store) -> Inputs:
    """Check the settings, and open models and packs.

    Raises:
        NilrError: the settings contradict, or name something that is missing or does not fit.
    """
    check_settings(settings)
    device = prepare(settings.device, settings.threads, settings.precision)
    models = load_models(store, settings.models, settings, device=device)
    loaded = list(models.values())
    size = episode_size(settings, loaded)
    check_size(settings, size.n_query)
    plans = {name: plan_model(resolve_request(settings, model, size.n_way)) for name, model in models.items()}
    if settings.controls:
        plans |= plan_controls(next(iter(plans.values())))
    split, judged = _open_splits(settings, store, loaded, device)
    pairs = task_pairs(settings, size, split.images, judged.images)
    wide = open_all_classes(settings, store, loaded, device)
    return Inputs(models, size, plans, split, judged, pairs, wide, device)


@with_memory_hint("a smaller --n-query or --n-shot, or --device cpu")
def run(settings: ProbeSettings, reporter: Reporter) -> Result[ProbeMetrics]:
    """Evaluate one or several models on the same episodes."""
    outcome = Outcome(settings)
    store = Store(settings.home)
    models, size, plans, split, judged, pairs, wide, device = open_inputs(settings, store)
    loaded = list(models.values())
    headed = {name: with_head(model, size.n_way, settings.head) for name, model in models.items()}
    subjects = {name: make_subject(settings, model, plans[name]) for name, model in headed.items()}
    if settings.controls:
        first = next(iter(subjects))
        subjects |= build_controls(headed[first], subjects[first], settings.seed, settings.untrained_bodies)
    metrics, values = measure(
        settings, subjects, plans, pairs, reporter, all_classes=draw_all_classes(settings, pairs, wide)
    )
    data_b = None if judged is split else judged.used
    config = _resolved(settings, models, size, {"data": split.used, "data_b": data_b})
    claims = {name: claimed_signs(model.used, judged.used, config) for name, model in models.items()}
    overlaps, overlap_notes = find_overlaps(store, models, [judged, *([wide] if wide else [])], settings.data)
    result = outcome.result(
        with_signs(claims, metrics),
        config=config,
        models=[model.used for model in loaded],
        question=describe_question(
            config, [model.used for model in loaded], split.used, data_b, own_steps=_own_steps(loaded)
        ),
        data=split.used,
        data_b=data_b,
        overlaps=overlaps,
        per_episode={name: plans[name].layout(of_model.listed) for name, of_model in values.items()},
        notes=[
            *training_pack_notes(models, judged.used),
            *overlap_notes,
            *head_notes(models, size.n_way, settings.head),
            *universality_notes(settings, split, wide),
            *_permutation_notes(settings, size.n_way),
            *_notes(settings, models, metrics, {name: values[name][plan.before] for name, plan in plans.items()}),
            describe_probe(claims, metrics, judged.used),
        ],
        environment=environment(device, loaded[0].engine.name),
    )
    return result.model_copy(update={"notes": [*_over_seeds(result), *result.notes]})


def measure(
    settings: ProbeSettings,
    subjects: Mapping[str, Subject],
    plans: Mapping[str, ProbePlan],
    pairs: TaskPairs,
    reporter: Reporter,
    *,
    all_classes: TaskPairs | None = None,
) -> tuple[ProbeMetrics, dict[str, Values]]:
    """Return the metrics of every subject, corrected for their number, and the values of every episode."""
    values = judge(
        settings,
        subjects,
        plans,
        pairs,
        reporter,
        all_classes=all_classes,
        next_look=lambda so_far, done: next_look(settings, _summarise(plans, so_far), done),
    )
    return correct(_summarise(plans, values)), values


def _summarise(plans: Mapping[str, ProbePlan], values: Mapping[str, Values]) -> ProbeMetrics:
    return {name: plans[name].summarise(of_model) for name, of_model in values.items()}


def _over_seeds(result: Result[ProbeMetrics]) -> list[str]:
    """Return a note on what several seeds of one recipe show together; none if there is no such recipe."""
    found = seeds.rows(probed([Source("", "", result.command, result)]))
    return [f"Over seeds, exploratory: {seeds.sentence(found)}"] if found else []


def _resolved(
    settings: ProbeSettings, models: Mapping[str, LoadedModel], size: EpisodeSize, packs: Mapping[str, DataUsed | None]
) -> dict[str, Any]:
    """Return the settings with lists split at commas and defaults filled in."""
    statistics = {name: batch_stats(settings, model) for name, model in models.items()}
    return {
        **settings.model_dump(mode="json", exclude={"home", "models", "fail_below"}),
        "inner_steps": {name: inner_steps(settings, model) for name, model in models.items()},
        "batch_stats": statistics.popitem()[1] if len(set(statistics.values())) == 1 else statistics,
        "rates": list(edit_names(settings.rates)),
        "adapt_part": list(split_commas(settings.adapt_part)),
        "neighbours": list(requested_rules(settings)),
        "layers": list(split_commas(settings.layers)),
        **dataclasses.asdict(size),
        **{name: pack.name if pack else None for name, pack in packs.items()},
    }


def _open_splits(
    settings: ProbeSettings, store: Store, models: Sequence[LoadedModel], device: torch.device
) -> tuple[OpenSplit, OpenSplit]:
    """Return the split of episode A and that of episode B; NilrError if processes differ in what they measure."""
    splits = _open_both(settings, store, models, device)
    distributed.check_same(
        settings.model_dump(mode="json"),
        models=[model.used.digest for model in models],
        pack=[split.used.digest for split in splits],
    )
    return splits


def _open_both(
    settings: ProbeSettings, store: Store, models: Sequence[LoadedModel], device: torch.device
) -> tuple[OpenSplit, OpenSplit]:
    """Return the split of episode A and that of episode B: the same one, or one of --data-b."""
    split = open_evaluation_split(store, settings.data, settings.split, models, device)
    if settings.data_b is None:
        return split, split
    judged = open_evaluation_split(store, settings.data_b, settings.split, models, device)
    if judged.used.digest == split.used.digest:
        raise DataError(
            f"--data-b `{settings.data_b}` has the same images as `{split.used.name}`", hint="omit --data-b"
        )
    return split, judged


def _permutation_notes(settings: ProbeSettings, n_way: int) -> list[str]:
    """Return a note if there are fewer permutations of the labels than requested."""
    wanted, exist = settings.permutations or 0, math.factorial(n_way)
    return [f"--permutations {wanted}: {n_way} labels have {exist}; these are used."] if wanted > exist else []


def _own_steps(models: Sequence[LoadedModel]) -> list[int]:
    return [model.algorithm.eval_inner_steps for model in models]


def _notes(
    settings: ProbeSettings,
    models: Mapping[str, LoadedModel],
    metrics: ProbeMetrics,
    before: Mapping[str, Tensor],
) -> list[str]:
    """Return remarks on the result; `before` has the accuracies before adaptation by name."""
    parts = split_commas(settings.adapt_part)
    notes = unmoved_notes(models, parts)
    if settings.controls:
        bodies = metrics[UNTRAINED].over_bodies[requested_rules(settings)[0]]
        notes.append(compare_with_untrained(before, bodies))
    precision = precision_note(metrics, until_ci=settings.until_ci)
    if precision is not None:
        notes.append(precision)
    return [*notes, *dependence_notes(batch_stats(settings, model) for model in models.values())]
