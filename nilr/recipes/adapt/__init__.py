"""`nilr adapt`: one model and one support set -> an adapted model, and predictions for the query images."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nilr.checkpoint import Adaptation
from nilr.config.evaluation import AdaptSettings
from nilr.errors import DivergedError, UsageError
from nilr.files import check_output
from nilr.probes.edits import NORM_MATCHED, adapt, edited, rates_of_part
from nilr.probes.features import BatchStats
from nilr.recipes.adapt.judging import Judged, Support, judge_batch, judge_each, measure_support, support_loss
from nilr.recipes.adapt.predictions import accuracy, make_predictions, write_predictions
from nilr.recipes.adapt.saving import store_adapted, stored_support
from nilr.recipes.adapt.tasks import MANY, Task, draw_task, read_later_task, read_task
from nilr.recipes.common.episodes import (
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
from nilr.recipes.common.evaluation_pack import open_evaluation_split, training_pack_notes
from nilr.recipes.common.loading import LoadedModel, load_model
from nilr.recipes.common.memory import with_memory_hint
from nilr.recipes.common.outcome import Outcome
from nilr.recipes.common.overlaps import find_overlaps
from nilr.reporting import Reporter
from nilr.results.commands import AdaptMetrics
from nilr.results.result import Result
from nilr.runtime import environment, prepare
from nilr.store import Store
from nilr.words import as_flag, counted

# Settings without effect on a model that is adapted already.
_OF_ADAPTATION = ("episode", "name", "force", "save", "head", "rates", "adapt_part", "inner_steps", "batch_stats")


@with_memory_hint("fewer images (--n-query, --n-shot, --query), or --device cpu", at_once=1)
def run(settings: AdaptSettings, reporter: Reporter) -> Result[AdaptMetrics]:
    """Adapt a model to one episode or to the user's own images, and store the adapted model.

    With query images alone, classify them with a model that is adapted already.
    """
    outcome = Outcome(settings)
    edits = edit_names(settings.rates)
    if len(edits) > 1:
        raise UsageError(
            f"`adapt` uses one edit of the rates; --rates has {len(edits)}: {', '.join(edits)}",
            hint="select one; `probe` compares several",
        )
    if settings.name is not None and not settings.save:
        raise UsageError("--name names the adapted model, and --no-save stores none", hint="omit one of them")
    if settings.predictions is not None:
        check_output(settings.predictions, "--predictions")
    store = Store(settings.home)
    device = prepare(settings.device, settings.threads, settings.precision)
    how: dict[str, Any] = {"engine": settings.engine, "precision": settings.precision, "code": settings.arch}
    model = load_model(store, settings.model, device=device, **how)
    if settings.query and not settings.support:
        done = _classify_later(settings, model, reporter)
    else:
        done = _adapt_and_judge(settings, store, model, edits[0], reporter)
    if settings.predictions is not None:
        write_predictions(settings.predictions, done.metrics)
    return outcome.result(
        done.metrics,
        config={
            **settings.model_dump(mode="json", exclude={"home", "model", "support", "query", "force", "predictions"}),
            "data": done.task.data.name if done.task.data else None,
            **done.resolved,
            "support": settings.support.name if settings.support else None,
            "query": [path.name for path in settings.query],
            "name": done.name,
        },
        models=[model.used],
        data=done.task.data,
        overlaps=done.task.overlaps,
        notes=done.notes,
        environment=environment(device, model.engine.name),
    )


class Done(NamedTuple):
    """What was judged, with resolved settings and notes for the result."""

    metrics: AdaptMetrics
    task: Task
    resolved: dict[str, Any]
    notes: list[str]
    name: str | None = None  # of the adapted model; None if it is not stored


def _adapt_and_judge(settings: AdaptSettings, store: Store, model: LoadedModel, edit: str, reporter: Reporter) -> Done:
    task, size = _task(settings, store, model, reporter)
    how = Adaptation(
        rates=edit, adapt_part=list(split_commas(settings.adapt_part)), inner_steps=inner_steps(settings, model)
    )
    statistics = settings.batch_stats or ("inductive" if settings.support else batch_stats(settings, model))
    start = with_head(model, len(task.classes), settings.head)
    images, steps = counted(len(task.support_y), "image"), counted(how.inner_steps, "step")
    reporter.note(f"adapting `{model.ref.name}` to {images} in {steps}")
    adapted = _adapt(start, task, how, settings.seed)
    metrics, support = _evaluate(start, adapted, task, statistics, reporter)
    name = store_adapted(store, settings, start, adapted, support, metrics, how) if settings.save else None
    named = {model.ref.name: model}
    notes = [
        *(training_pack_notes(named, task.data) if task.data else []),
        *task.notes,
        *head_notes(named, len(task.classes), settings.head),
        *unmoved_notes(named, how.adapt_part),
        *(dependence_notes([statistics]) if task.queries.names else []),
        f"the adapted model is `{name}`" if name else "the adapted model is not stored",
    ]
    return Done(metrics, task, {**size, "batch_stats": statistics, **how.model_dump()}, notes, name)


def _task(settings: AdaptSettings, store: Store, model: LoadedModel, reporter: Reporter) -> tuple[Task, dict[str, int]]:
    """Return the task, and for an episode of a pack its size."""
    if settings.support:
        return read_task(settings.support, settings, model, reporter), {}
    size = episode_size(settings, [model])
    device = model.params["head.bias"].device
    split = open_evaluation_split(store, settings.data, settings.split, [model], device)
    overlaps, notes = find_overlaps(store, {model.ref.name: model}, [split])
    task = dataclasses.replace(draw_task(settings, size, split), overlaps=overlaps, notes=notes)
    return task, dataclasses.asdict(size)


def _adapt(model: LoadedModel, task: Task, how: Adaptation, seed: int) -> Mapping[str, Tensor]:
    inner_lr = rates_of_part(model.inner_lr, model.params, how.adapt_part)
    return adapt(
        model.engine,
        model.params,
        edited(inner_lr, model.params, how.rates, seed=seed),
        (task.support_x, task.support_y),
        steps=how.inner_steps,
        norm_matched=how.rates == NORM_MATCHED,
    )


@torch.no_grad()
def _classify_later(settings: AdaptSettings, model: LoadedModel, reporter: Reporter) -> Done:
    """Classify images with a model that is adapted already."""
    kept = model.checkpoint.manifest.support
    if kept is None:
        raise UsageError(
            f"--query needs --support, or an adapted model, and `{model.ref.name}` is not one",
            hint="add --support, a directory with one folder per class",
        )
    unused = [name for name in _OF_ADAPTATION if name in settings.explicit()]
    if unused:
        flag = "--no-save" if unused[0] == "save" else as_flag(unused[0])
        raise UsageError(
            f"`{model.ref.name}` is adapted already, and without --support no step is taken: {flag} has no effect",
            hint=f"omit {flag}, or add --support to adapt it again",
        )
    task, support = read_later_task(settings, model, kept.classes, reporter), stored_support(model)
    _announce(task, reporter, times=1)
    judged = judge_each(model.engine, model.params, support, task.queries, reporter.advance)
    metrics = AdaptMetrics(
        classes=task.classes,
        support_images=len(support.labels),
        query_images=len(task.queries.names),
        support_loss_after=support_loss(model.params, support),
        **_accuracies("after", judged, task),
        predictions=make_predictions(task.classes, task.queries, None, judged),
    )
    return Done(metrics, task, {"batch_stats": "inductive", "inner_steps": 0}, [*task.notes, "no step is taken"])


@torch.no_grad()
def _evaluate(
    model: LoadedModel, adapted: Mapping[str, Tensor], task: Task, statistics: BatchStats, reporter: Reporter
) -> tuple[AdaptMetrics, Support]:
    """Return losses, accuracies and predictions before and after adaptation, and the support after it."""
    moments = {}
    _announce(task, reporter, times=2)
    for moment, params in (("before", model.params), ("after", adapted)):
        try:
            support = measure_support(model.engine, params, task)
            if statistics == "inductive" or not task.queries.names:
                judged = judge_each(model.engine, params, support, task.queries, reporter.advance)
            else:
                judged = judge_batch(model.engine, params, task, statistics)
            moments[moment] = support, judged, support_loss(params, support)
        except DivergedError as error:
            message = f"{error.message} of model `{model.ref.name}` {moment} adaptation"
            raise DivergedError(message, hint=error.hint) from error
    (_, before, loss_before), (support, after, loss_after) = moments.values()
    metrics = AdaptMetrics(
        classes=task.classes,
        support_images=len(task.support_y),
        query_images=len(task.queries.names),
        support_loss_before=loss_before,
        support_loss_after=loss_after,
        **_accuracies("before", before, task),
        **_accuracies("after", after, task),
        predictions=make_predictions(task.classes, task.queries, before, after),
    )
    return metrics, support


def _announce(task: Task, reporter: Reporter, *, times: int) -> None:
    if len(task.queries.names) > MANY:
        reporter.stage("classify", times * len(task.queries.names), unit="images")


def _accuracies(moment: str, judged: Judged, task: Task) -> dict[str, float | None]:
    return {
        f"accuracy_{moment}": accuracy(judged.labels, task.queries.labels),
        f"nearest_accuracy_{moment}": accuracy(judged.nearest, task.queries.labels),
    }
