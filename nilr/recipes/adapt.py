"""`nilr adapt`: one model and one support set -> an adapted model, and predictions for the query images."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from nilr.checkpoint import Adaptation, save_checkpoint
from nilr.config.base import BatchStats
from nilr.config.evaluation import AdaptSettings
from nilr.data.labelled import LabelledImages, read_labelled
from nilr.episodes import Episode, EpisodeSampler, PackedImages
from nilr.errors import DivergedError, EpisodeError, StoreError, UsageError
from nilr.probes.edits import NORM_MATCHED, adapt, edited, rates_of_part
from nilr.probes.features import episode_features
from nilr.recipes.common.episodes import batch_stats, edit_names, episode_size, inner_steps, split_commas, unmoved_notes
from nilr.recipes.common.loading import LoadedModel, load_model, open_evaluation_split, training_pack_notes
from nilr.recipes.common.memory import with_memory_hint
from nilr.recipes.common.outcome import Outcome
from nilr.reporting import Reporter
from nilr.results.commands import AdaptMetrics, Prediction
from nilr.results.records import DataUsed
from nilr.results.result import Result
from nilr.runtime import environment, prepare
from nilr.store import BEST, HISTORY, LAST, TRAINING_STATE, Store, holds_model
from nilr.words import counted

_DEPENDENT = (
    "With --batch-stats {}, each prediction depends on the other query images; with inductive, on none of them."
)


@dataclass(frozen=True)
class Task:
    """An episode with names."""

    episode: Episode  # support and query; the query label -1 means unknown
    classes: list[str]  # name of each class, by label
    query_names: list[str]  # name of each query image
    data: DataUsed | None  # the pack; None for the user's own images
    warnings: list[str] = field(default_factory=list)


@with_memory_hint("fewer images (--n-query, --n-shot, --query), or --device cpu", at_once=1)
def run(settings: AdaptSettings, reporter: Reporter) -> Result[AdaptMetrics]:
    """Adapt a model to one episode or to the user's own images, and store the adapted model."""
    outcome = Outcome(settings)
    edits = edit_names(settings.rates)
    if len(edits) > 1:
        raise UsageError(
            f"`adapt` uses one edit of the rates; --rates has {len(edits)}: {', '.join(edits)}",
            hint="select one; `probe` compares several",
        )
    if settings.name is not None and not settings.save:
        raise UsageError("--name names the adapted model, and --no-save stores none", hint="omit one of them")
    store = Store(settings.home)
    device = prepare(settings.device, settings.threads, settings.precision)
    model = load_model(store, settings.model, device=device, engine=settings.engine, precision=settings.precision)
    if settings.support:
        task, size = _read_task(settings.support, settings, model, device), {}
    else:
        task, size = _draw_task(settings, store, model, device), dataclasses.asdict(episode_size(settings, [model]))
    how = Adaptation(
        rates=edits[0], adapt_part=list(split_commas(settings.adapt_part)), inner_steps=inner_steps(settings, model)
    )
    images, steps = counted(len(task.episode.support_y), "image"), counted(how.inner_steps, "step")
    reporter.note(f"adapting `{model.ref.name}` to {images} in {steps}")
    adapted = _adapt(model, task.episode, how, settings.seed)
    statistics = settings.batch_stats or ("inductive" if settings.support else batch_stats(settings, model))
    metrics = _evaluate(model, adapted, task, statistics)
    name = _store_adapted(store, settings, model, adapted, metrics, how) if settings.save else None
    return outcome.result(
        metrics,
        config={
            **settings.model_dump(mode="json", exclude={"home", "model", "support", "query", "force"}),
            **size,
            "batch_stats": statistics,
            "data": task.data.name if task.data else None,
            **how.model_dump(),
            "support": settings.support.name if settings.support else None,
            "query": [path.name for path in settings.query],
            "name": name,
        },
        models=[model.used],
        data=task.data,
        notes=[
            *(training_pack_notes({model.ref.name: model}, task.data) if task.data else []),
            *task.warnings,
            *unmoved_notes({model.ref.name: model}, how.adapt_part),
            *([_DEPENDENT.format(statistics)] if settings.query and statistics != "inductive" else []),
            f"the adapted model is `{name}`" if name else "the adapted model is not stored",
        ],
        environment=environment(device, model.engine.name),
    )


def _adapt(model: LoadedModel, episode: Episode, how: Adaptation, seed: int) -> Mapping[str, Tensor]:
    inner_lr = rates_of_part(model.inner_lr, model.params, how.adapt_part)
    return adapt(
        model.engine,
        model.params,
        edited(inner_lr, model.params, how.rates, seed=seed),
        (episode.support_x, episode.support_y),
        steps=how.inner_steps,
        norm_matched=how.rates == NORM_MATCHED,
    )


def _draw_task(settings: AdaptSettings, store: Store, model: LoadedModel, device: torch.device) -> Task:
    if settings.query:
        raise UsageError("--query needs --support", hint="add --support, a directory with one folder per class")
    size = episode_size(settings, [model])
    split = open_evaluation_split(store, settings.data, settings.split, [model], device)
    sampler = EpisodeSampler(split.images, size.n_way, size.n_shot, size.n_query, settings.seed, settings.split)
    classes, images = sampler.choose([settings.episode])
    filenames = split.packed.filenames()
    return Task(
        episode=sampler.load(classes, images)[0],
        classes=[split.packed.class_names[i] for i in classes[0].tolist()],
        query_names=[filenames[i] for i in images[0, :, size.n_shot :].flatten().tolist()],
        data=split.used,
    )


def _read_task(path: Path, settings: AdaptSettings, model: LoadedModel, device: torch.device) -> Task:
    """Read the user's own images; `path` is the support set."""
    if "episode" in settings.explicit():
        raise UsageError("--episode and --support exclude each other", hint="omit one of them")
    made, size = model.checkpoint.manifest.data, model.checkpoint.manifest.data.image_size
    read = partial(
        read_labelled,
        size=size,
        resample="bilinear" if made.resample == "none" else made.resample,
        fit=made.fit,
        skip_broken=settings.skip_broken,
    )
    support = read([path])
    if any(label is None for label in support.labels):
        raise EpisodeError(f"`{path}` has images outside class folders", hint="put each in the folder of its class")
    classes = sorted({label for label in support.labels if label is not None})
    folders = [folder.rpartition("/")[2] for folder in {name.rpartition("/")[0] for name in support.names}]
    if twice := [name for name in classes if folders.count(name) > 1]:
        raise EpisodeError(
            f"`{path}` has several folders `{twice[0]}`", hint="use one folder of its own name per class"
        )
    outputs = len(model.params["head.bias"])
    if len(classes) != outputs:
        raise EpisodeError(
            f"`{path}` has {counted(len(classes), 'class')}, but model `{model.ref.name}` has a head for {outputs}",
            hint=f"use {outputs} class folders, or a model trained with --n-way {len(classes)}",
        )
    query = (
        _read_query(settings.query, read, classes)
        if settings.query
        else LabelledImages(np.empty((0, size, size, 3), np.uint8), [], [])
    )
    return Task(
        episode=Episode(
            support_x=_images(support, device),
            support_y=_numbers(support, classes, device),
            query_x=_images(query, device),
            query_y=_numbers(query, classes, device),
        ),
        classes=classes,
        query_names=query.names,
        data=None,
        warnings=[*support.warnings, *query.warnings],
    )


def _read_query(
    paths: Sequence[Path], read: Callable[[Sequence[Path]], LabelledImages], classes: list[str]
) -> LabelledImages:
    query = read(paths)
    unknown = sorted({label for label in query.labels if label is not None and label not in classes})
    if unknown and len(unknown) < len(set(query.labels)):
        raise EpisodeError(
            f"`{paths[0]}` has folders that are not a class of the support set: {', '.join(unknown)}",
            hint=f"the classes are {', '.join(classes)}; move images without a label out of the folders",
        )
    return query


def _images(images: LabelledImages, device: torch.device) -> Tensor:
    n = len(images.images)
    return PackedImages(torch.tensor(images.images, device=device), (n,)).gather(torch.arange(n, device=device))


def _numbers(images: LabelledImages, classes: list[str], device: torch.device) -> Tensor:
    """Return each image's label; -1 if its folder is not one of the classes."""
    number: dict[str | None, int] = {name: i for i, name in enumerate(classes)}
    return torch.tensor([number.get(label, -1) for label in images.labels], device=device, dtype=torch.int64)


@torch.no_grad()
def _evaluate(model: LoadedModel, adapted: Mapping[str, Tensor], task: Task, statistics: BatchStats) -> AdaptMetrics:
    """Return losses, accuracies and predictions with the model's head, before and after adaptation."""
    episode = task.episode
    metrics: dict[str, Any] = {}
    probabilities = {}
    for moment, params in (("before", model.params), ("after", adapted)):
        support, query = (
            linear(x, params["head.weight"], params["head.bias"])
            for x in episode_features(
                model.engine,
                params,
                episode,
                # An empty query has no batch statistics.
                batch_stats=statistics if len(episode.query_y) else "together",
            )
        )
        if not bool(torch.cat([support, query]).isfinite().all()):
            raise DivergedError(
                f"the logits of model `{model.ref.name}` are not finite {moment} adaptation",
                hint="use smaller --rates or fewer --inner-steps",
            )
        metrics[f"support_loss_{moment}"] = cross_entropy(support, episode.support_y).item()
        metrics[f"accuracy_{moment}"] = _accuracy(query, episode.query_y)
        probabilities[moment] = query.softmax(1).cpu()
    return AdaptMetrics(
        classes=task.classes,
        support_images=len(episode.support_y),
        query_images=len(episode.query_y),
        predictions=_predictions(task, probabilities),
        **metrics,
    )


def _accuracy(logits: Tensor, labels: Tensor) -> float | None:
    known = labels >= 0
    return (logits.argmax(1) == labels)[known].double().mean().item() if bool(known.any()) else None


def _predictions(task: Task, probabilities: Mapping[str, Tensor]) -> list[Prediction]:
    before = probabilities["before"].argmax(1).tolist()
    labels = task.episode.query_y.tolist()
    return [
        Prediction(
            image=name,
            label=task.classes[labels[i]] if labels[i] >= 0 else None,
            before=task.classes[before[i]],
            after=task.classes[int(row.argmax())],
            probabilities=dict(zip(task.classes, row.tolist(), strict=True)),
        )
        for i, (name, row) in enumerate(zip(task.query_names, probabilities["after"], strict=True))
    ]


def _store_adapted(
    store: Store,
    settings: AdaptSettings,
    model: LoadedModel,
    adapted: Mapping[str, Tensor],
    metrics: AdaptMetrics,
    how: Adaptation,
) -> str:
    """Save the adapted parameters as a new model with its parent and its rates; return its name."""
    manifest = model.checkpoint.manifest
    name = settings.name or store.new_model_name(f"{model.ref.name}-adapted")
    path = store.model_dir(name) / LAST
    try:
        with store.lock(name):
            if holds_model(path.parent) and not settings.force:
                raise StoreError(
                    f"model `{name}` exists in `{store.home}`", hint="choose another --name, or replace it with --force"
                )
            save_checkpoint(
                path,
                params=adapted,
                inner_lr=model.inner_lr,
                **manifest.model_dump(
                    include={"architecture", "algorithm", "settings", "data", "outer_step", "engine"}
                ),
                metrics=metrics.model_dump(mode="json", exclude={"predictions"}),
                parent={"name": model.ref.name, "digest": model.checkpoint.digest, "adaptation": how.model_dump()},
            )
            for other in (BEST, TRAINING_STATE, HISTORY):
                (path.parent / other).unlink(missing_ok=True)  # files of the model that --force replaces
    finally:
        # Do not leave an empty model if saving failed.
        with contextlib.suppress(OSError):
            path.parent.rmdir()
    return name
