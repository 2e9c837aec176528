"""Probe: features judged by labelled neighbours, before and after adaptation, on the same task and on another one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from nilr.config import ProbeSettings
from nilr.errors import UsageError
from nilr.probes.conditions import META_INIT
from nilr.recipes.controls import against_untrained
from nilr.recipes.intervals import correct, next_look, precision_note
from nilr.recipes.judging import asked_rates, episode_size, inner_steps, listed, unmoved
from nilr.recipes.loading import LoadedModel, judged_data, load_models, open_split, require_same_size
from nilr.recipes.outcome import Outcome
from nilr.recipes.probe_metrics import episode_values, summarise
from nilr.recipes.probing import ACCURACY, Readings, judge, plan, task_pairs
from nilr.recipes.verdict import verdict
from nilr.reporting import Reporter
from nilr.results import ProbeMetrics, Result
from nilr.runtime import environment, prepare
from nilr.store import Store


def run(settings: ProbeSettings, reporter: Reporter) -> Result[ProbeMetrics]:
    """Judge one or several models on the same episodes.

    Raises:
        NilrError: a model or a pack cannot be used, or cannot give such episodes.
    """
    if settings.until_ci is not None and settings.protocol == "meta-init":
        raise UsageError("--until-ci is about differences, and meta-init has none", hint="leave --protocol out")
    outcome = Outcome("probe", settings)
    planned = plan(settings)
    store = Store(settings.home)
    device = prepare(settings.device, settings.threads)
    models = load_models(store, settings.models, device=device, engine=settings.engine)
    used = list(models.values())
    size = episode_size(settings, used)
    split = open_split(judged_data(store, settings.data, used[0]), settings.split, device)
    for model in used:
        require_same_size(model, split.used)

    def figures(readings: Mapping[str, Readings]) -> ProbeMetrics:
        return {
            name: summarise(values, planned.rates, interval=settings.interval, seed=settings.seed)
            for name, values in readings.items()
        }

    readings = judge(
        settings,
        models,
        planned,
        task_pairs(settings, size, split.images),
        reporter,
        more=lambda so_far, done: next_look(settings, figures(so_far), done),
    )
    metrics = correct(figures(readings))
    return outcome.result(
        metrics,
        config={
            **settings.model_dump(mode="json", exclude={"home", "models"}),
            **dataclasses.asdict(size),
            "inner_steps": {name: inner_steps(settings, model) for name, model in models.items()},
            "rates": list(asked_rates(settings.rates)),
            "adapt_part": list(listed(settings.adapt_part)),
            "data": split.used.name,
        },
        models=[model.used for model in used],
        data=split.used,
        per_episode={name: episode_values(values, planned.rates) for name, values in readings.items()},
        notes=_notes(settings, models, metrics, readings),
        environment=environment(device, used[0].engine.name),
    )


def _notes(
    settings: ProbeSettings,
    models: Mapping[str, LoadedModel],
    metrics: ProbeMetrics,
    readings: Mapping[str, Readings],
) -> list[str]:
    """Return what a reader should know; the verdict comes last."""
    parts = listed(settings.adapt_part)
    notes = unmoved(models, parts)
    if settings.controls:
        notes.append(against_untrained({name: values[META_INIT][ACCURACY] for name, values in readings.items()}))
    precision = precision_note(metrics, until_ci=settings.until_ci)
    if precision is not None:
        notes.append(precision)
    # The paper's models adapt in all their parts.
    claimants = {name: model.algorithm.name for name, model in models.items() if "all" in parts}
    return [*notes, verdict(claimants, metrics)]
