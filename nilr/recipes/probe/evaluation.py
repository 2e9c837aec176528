"""Evaluate models, opened or in memory, and describe what was found."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from torch import Tensor

from nilr.claims import claimed_signs, describe_probe, with_signs
from nilr.config.evaluation import ProbeSettings
from nilr.meta.model import Model
from nilr.recipes.common.episodes import (
    EpisodeSize,
    batch_stats,
    dependence_notes,
    edit_names,
    head_notes,
    inner_steps,
    split_commas,
    unmoved_notes,
    with_head,
)
from nilr.recipes.common.evaluation_pack import training_pack_notes
from nilr.recipes.common.loading import LoadedModel
from nilr.recipes.common.outcome import Outcome
from nilr.recipes.common.packs import Split
from nilr.recipes.probe.controls import UNTRAINED, build_controls, compare_with_untrained
from nilr.recipes.probe.loop import judge, make_subject, task_pairs
from nilr.recipes.probe.plan import ProbePlan, requested_rules
from nilr.recipes.probe.stopping import correct, next_look, precision_note
from nilr.recipes.probe.universality import draw_all_classes, universality_notes
from nilr.report.figures import seeds
from nilr.report.reading import Source
from nilr.report.subjects import probed
from nilr.reporting import Reporter
from nilr.results.probe import ProbeMetrics
from nilr.results.question import describe_question
from nilr.results.records import DataUsed, Overlap
from nilr.results.result import Result
from nilr.runtime import environment
from nilr.sections.values import Values

AnyModel = TypeVar("AnyModel", bound=Model)
AnySplit = TypeVar("AnySplit", bound=Split)


class Inputs(NamedTuple, Generic[AnyModel, AnySplit]):
    """What a probe works on: everything is checked, and nothing evaluated."""

    models: Mapping[str, AnyModel]
    size: EpisodeSize
    plans: Mapping[str, ProbePlan]  # of the models, and of controls
    split: AnySplit  # of episode A
    judged: AnySplit  # of episode B
    wide: AnySplit | None  # of --universality


def evaluate(
    settings: ProbeSettings,
    inputs: Inputs[AnyModel, AnySplit],
    outcome: Outcome,
    reporter: Reporter,
    *,
    overlaps: Sequence[Overlap] = (),
    overlap_notes: Sequence[str] = (),
) -> Result[ProbeMetrics]:
    """Evaluate one or several models on the same episodes."""
    models, size, plans, split, judged, wide = inputs
    values = _measure(settings, inputs, reporter)
    metrics = correct(_summarise(plans, values))
    data_b = None if judged is split else judged.used
    config = _resolved(settings, models, size, {"data": split.used, "data_b": data_b})
    loaded = {name: model for name, model in models.items() if isinstance(model, LoadedModel)}
    used = [model.used for model in loaded.values()] if len(loaded) == len(models) else []
    claims = {name: claimed_signs(one, judged.used, config) for name, one in zip(models, used, strict=False)}
    own_steps = [model.algorithm.eval_inner_steps for model in models.values()]
    result = outcome.result(
        with_signs(claims, metrics),
        config=config,
        models=used,
        question=describe_question(config, used, split.used, data_b, own_steps=own_steps),
        data=split.used,
        data_b=data_b,
        overlaps=list(overlaps),
        per_episode={name: plans[name].layout(of_model.listed) for name, of_model in values.items()},
        notes=[
            *(training_pack_notes(loaded, judged.used) if judged.used else ()),
            *overlap_notes,
            *head_notes(models, size.n_way, settings.head),
            *universality_notes(settings, split, wide),
            *_permutation_notes(settings, size.n_way),
            *_notes(settings, models, metrics, {name: values[name][plan.before] for name, plan in plans.items()}),
            describe_probe(claims, metrics, judged.used),
        ],
        environment=environment(
            next(iter(models.values())).params["head.bias"].device,
            ", ".join(dict.fromkeys(model.engine.name for model in models.values())),
        ),
    )
    return result.model_copy(update={"notes": [*_over_seeds(result), *result.notes]})


def _measure(settings: ProbeSettings, inputs: Inputs[AnyModel, AnySplit], reporter: Reporter) -> dict[str, Values]:
    """Return the values of every model and control, by name."""
    models, size, plans, split, judged, wide = inputs
    headed = {name: with_head(model, size.n_way, settings.head) for name, model in models.items()}
    subjects = {name: make_subject(settings, model, plans[name]) for name, model in headed.items()}
    if settings.controls:
        first = next(iter(models))
        subjects |= build_controls(headed[first], subjects[first], settings.seed, settings.untrained_bodies)
    pairs = task_pairs(settings, size, split.images, judged.images)
    return judge(
        settings,
        subjects,
        plans,
        pairs,
        reporter,
        all_classes=draw_all_classes(settings, pairs, wide),
        next_look=lambda so_far, done: next_look(settings, _summarise(plans, so_far), done),
    )


def _summarise(plans: Mapping[str, ProbePlan], values: Mapping[str, Values]) -> ProbeMetrics:
    return {name: plans[name].summarise(of_model) for name, of_model in values.items()}


def _over_seeds(result: Result[ProbeMetrics]) -> list[str]:
    """Return a note on what several seeds of one recipe show together; none if there is no such recipe."""
    found = seeds.rows(probed([Source("", "", result.command, result)]))
    return [f"Over seeds, exploratory: {seeds.sentence(found)}"] if found else []


def _resolved(
    settings: ProbeSettings, models: Mapping[str, Model], size: EpisodeSize, packs: Mapping[str, DataUsed | None]
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


def _permutation_notes(settings: ProbeSettings, n_way: int) -> list[str]:
    """Return a note if there are fewer permutations of the labels than requested."""
    wanted, exist = settings.permutations or 0, math.factorial(n_way)
    return [f"--permutations {wanted}: {n_way} labels have {exist}; these are used."] if wanted > exist else []


def _notes(
    settings: ProbeSettings,
    models: Mapping[str, Model],
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
