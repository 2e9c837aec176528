"""Probe: features judged by labelled neighbours, before and after adaptation, on the same task and on another one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nilr.claims import describe_probe
from nilr.config import ProbeSettings
from nilr.errors import DataError
from nilr.probes.conditions import META_INIT
from nilr.recipes.common.episodes import edit_names, episode_size, inner_steps, split_commas, unmoved_notes
from nilr.recipes.common.loading import (
    LoadedModel,
    OpenSplit,
    find_evaluation_pack,
    load_models,
    open_split,
    require_image_size,
)
from nilr.recipes.common.memory import with_memory_hint
from nilr.recipes.common.outcome import Outcome
from nilr.recipes.probe.controls import RAW_PIXELS, UNTRAINED, against_untrained
from nilr.recipes.probe.judging import Readings, judge, task_pairs
from nilr.recipes.probe.plan import ACCURACY, Plan, asked_layers, asked_rules, check_request, plan
from nilr.recipes.probe.stopping import correct, next_look, precision_note
from nilr.recipes.probe.summary import episode_values, summarise
from nilr.reporting import Reporter
from nilr.results.probing import ProbeMetrics
from nilr.results.result import Result
from nilr.runtime import environment, prepare
from nilr.store import Store


@with_memory_hint("a smaller --n-query or --n-shot, or --device cpu")
def run(settings: ProbeSettings, reporter: Reporter) -> Result[ProbeMetrics]:
    """Judge one or several models on the same episodes.

    Raises:
        NilrError: a model or a pack cannot be used, or cannot give such episodes.
    """
    check_request(settings)
    outcome = Outcome("probe", settings)
    store = Store(settings.home)
    device = prepare(settings.device, settings.threads, settings.precision)
    models = load_models(store, settings.models, device=device, engine=settings.engine, precision=settings.precision)
    used = list(models.values())
    size = episode_size(settings, used)
    plans = _plans(settings, models, size.n_way)
    split, judged = _open_splits(settings, store, used, device)

    def figures(readings: Mapping[str, Readings]) -> ProbeMetrics:
        return {
            name: summarise(values, plans[name].places, interval=settings.interval, seed=settings.seed)
            for name, values in readings.items()
        }

    readings = judge(
        settings,
        models,
        plans,
        task_pairs(settings, size, split.images, judged.images),
        reporter,
        more=lambda so_far, done: next_look(settings, figures(so_far), done),
    )
    metrics = correct(figures(readings))
    return outcome.result(
        metrics,
        config={
            **_config(settings, models),
            **dataclasses.asdict(size),
            "data": split.used.name,
            "data_b": None if judged is split else judged.used.name,
        },
        models=[model.used for model in used],
        data=split.used,
        data_b=None if judged is split else judged.used,
        per_episode={name: episode_values(values, plans[name].places) for name, values in readings.items()},
        notes=_notes(settings, models, metrics, readings),
        environment=environment(device, used[0].engine.name),
    )


def _config(settings: ProbeSettings, models: Mapping[str, LoadedModel]) -> dict[str, Any]:
    """Return the settings as they were understood."""
    return {
        **settings.model_dump(mode="json", exclude={"home", "models"}),
        "inner_steps": {name: inner_steps(settings, model) for name, model in models.items()},
        "rates": list(edit_names(settings.rates)),
        "adapt_part": list(split_commas(settings.adapt_part)),
        "neighbours": list(asked_rules(settings.neighbours)),
        "layers": list(split_commas(settings.layers)),
    }


def _plans(settings: ProbeSettings, models: Mapping[str, LoadedModel], n_way: int) -> dict[str, Plan]:
    """Return what is read of each model, and of each control."""
    plans = {
        name: plan(
            settings, layers=asked_layers(settings, model), n_way=n_way, inner_steps=inner_steps(settings, model)
        )
        for name, model in models.items()
    }
    if settings.controls:
        first = next(iter(plans.values()))
        plans |= {UNTRAINED: first.of_control(layers=True), RAW_PIXELS: first.of_control(layers=False)}
    return plans


def _open_splits(
    settings: ProbeSettings, store: Store, models: Sequence[LoadedModel], device: torch.device
) -> tuple[OpenSplit, OpenSplit]:
    """Return the split that is adapted to in cross-task, and the one that is judged: one and the same, or two packs'.

    Raises:
        NilrError: a pack cannot be used, has images of another size, or is named twice.
    """
    split = open_split(find_evaluation_pack(store, settings.data, models[0]), settings.split, device)
    judged = split
    if settings.data_b is not None:
        judged = open_split(store.find_data(settings.data_b), settings.split, device)
        if judged.used.digest == split.used.digest:
            raise DataError(
                f"`{settings.data_b}` (--data-b) holds the images of `{split.used.name}`", hint="leave --data-b out"
            )
    for model in models:
        require_image_size(model, split.used)
        require_image_size(model, judged.used)
    return split, judged


def _notes(
    settings: ProbeSettings,
    models: Mapping[str, LoadedModel],
    metrics: ProbeMetrics,
    readings: Mapping[str, Readings],
) -> list[str]:
    """Return what a reader should know; the findings on the paper's signs come last."""
    parts = split_commas(settings.adapt_part)
    notes = unmoved_notes(models, parts)
    if settings.controls:
        notes.append(against_untrained({name: values[META_INIT][ACCURACY] for name, values in readings.items()}))
    precision = precision_note(metrics, until_ci=settings.until_ci)
    if precision is not None:
        notes.append(precision)
    # The paper's models adapt in all their parts.
    claimants = {name: model.algorithm.name for name, model in models.items() if "all" in parts}
    return [*notes, describe_probe(claimants, metrics)]
