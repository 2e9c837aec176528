"""Adapt: a model and one support set -> adapted parameters, and what they make of the query images."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from nilr.checkpoint import Adaptation, save_checkpoint
from nilr.config import AdaptSettings
from nilr.data.labelled import LabelledImages, read_labelled
from nilr.episodes import Episode, EpisodeSampler, PackedImages
from nilr.errors import DivergedError, EpisodeError, StoreError, UsageError
from nilr.probes.edits import NORM_MATCHED, adapt, edited, rates_of_part
from nilr.probes.features import episode_features
from nilr.recipes.common.episodes import edit_names, episode_size, inner_steps, split_commas, unmoved_notes
from nilr.recipes.common.loading import LoadedModel, find_evaluation_pack, load_model, open_split, require_image_size
from nilr.recipes.common.memory import with_memory_hint
from nilr.recipes.common.outcome import Outcome
from nilr.reporting import Reporter
from nilr.results.making import AdaptMetrics, Prediction
from nilr.results.records import DataUsed
from nilr.results.result import Result
from nilr.runtime import environment, prepare
from nilr.store import BEST, HISTORY, LAST, TRAINING_STATE, Store, holds_model


@dataclass(frozen=True)
class Task:
    """One episode with names.

    Attributes:
        episode: support and query; a query label of -1 means that the image has none.
        classes: name of each class, by label.
        query_names: name of each query image.
        data: the pack it was drawn from, or None for the user's own images.
    """

    episode: Episode
    classes: list[str]
    query_names: list[str]
    data: DataUsed | None


@with_memory_hint("fewer images (--n-query, --n-shot, --query), or --device cpu", at_once=1)
def run(settings: AdaptSettings, reporter: Reporter) -> Result[AdaptMetrics]:
    """Adapt one model to one episode or to the user's own images, and store the adapted model.

    Raises:
        NilrError: the model, the images or the store cannot be used.
    """
    outcome = Outcome(settings)
    rates = _one_edit(settings)
    store = Store(settings.home)
    device = prepare(settings.device, settings.threads, settings.precision)
    model = load_model(store, settings.model, device=device, engine=settings.engine, precision=settings.precision)
    task = _own_images(settings, model, device) if settings.support else _seeded_episode(settings, store, model, device)
    how = Adaptation(
        rates=rates, adapt_part=list(split_commas(settings.adapt_part)), inner_steps=inner_steps(settings, model)
    )
    steps = f"{how.inner_steps} step{'s' if how.inner_steps != 1 else ''}"
    reporter.note(f"adapting `{model.ref.name}` to {len(task.episode.support_y)} images in {steps}")
    adapted = _adapt(model, task.episode, how, settings.seed)
    metrics = _metrics(model, adapted, task, settings)
    drawn = {} if settings.support else dataclasses.asdict(episode_size(settings, [model]))
    name = _store_adapted(store, settings, model, adapted, metrics, how)
    return outcome.result(
        metrics,
        config={
            **settings.model_dump(mode="json", exclude={"home", "model", "support", "query", "force"}),
            **drawn,
            "data": task.data.name if task.data else None,
            **how.model_dump(),
            "support": settings.support.name if settings.support else None,
            "query": settings.query.name if settings.query else None,
            "name": name,
        },
        models=[model.used],
        data=task.data,
        notes=[*unmoved_notes({model.ref.name: model}, how.adapt_part), f"the adapted model is `{name}`"],
        environment=environment(device, model.engine.name),
    )


def _one_edit(settings: AdaptSettings) -> str:
    names = edit_names(settings.rates)
    if len(names) > 1:
        raise UsageError(
            f"`nilr adapt` adapts once, and --rates names {len(names)}: {', '.join(names)}",
            hint="give one of them; `nilr probe` compares several",
        )
    return names[0]


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


def _seeded_episode(settings: AdaptSettings, store: Store, model: LoadedModel, device: torch.device) -> Task:
    if settings.query is not None:
        raise UsageError("--query needs --support", hint="give a folder per class with --support")
    size = episode_size(settings, [model])
    split = open_split(find_evaluation_pack(store, settings.data, model), settings.split, device)
    require_image_size(model, split.used)
    sampler = EpisodeSampler(split.images, size.n_way, size.n_shot, size.n_query, settings.seed, settings.split)
    classes, images = sampler.choose([settings.episode])
    filenames = split.packed.filenames()
    query = images[0, :, size.n_shot :].flatten().tolist()
    return Task(
        episode=sampler.load(classes, images)[0],
        classes=[split.packed.class_names[i] for i in classes[0].tolist()],
        query_names=[filenames[i] for i in query],
        data=split.used,
    )


def _own_images(settings: AdaptSettings, model: LoadedModel, device: torch.device) -> Task:
    if settings.support is None:
        raise UsageError("--query needs --support")
    if "episode" in settings.explicit():
        raise UsageError("--episode and --support are two sources of one task", hint="give one of them")
    size = model.checkpoint.manifest.data.image_size
    support = read_labelled(settings.support, size)
    if any(label is None for label in support.labels):
        raise EpisodeError(
            f"`{settings.support}` has images outside class folders", hint="put each in a folder per class"
        )
    classes = sorted({label for label in support.labels if label is not None})
    outputs = len(model.params["head.bias"])
    if len(classes) != outputs:
        raise EpisodeError(
            f"`{settings.support}` has {len(classes)} classes, and model `{model.ref.name}` tells {outputs} apart",
            hint=f"give {outputs} class folders, or a model trained with --n-way {len(classes)}",
        )
    query = _read_query(settings.query, size, classes) if settings.query else None
    return Task(
        episode=Episode(
            support_x=_images(support, device),
            support_y=_numbers(support, classes, device),
            query_x=_images(query, device) if query else torch.empty(0, 3, size, size, device=device),
            query_y=_numbers(query, classes, device) if query else torch.empty(0, dtype=torch.int64, device=device),
        ),
        classes=classes,
        query_names=query.names if query else [],
        data=None,
    )


def _read_query(path: Path, size: int, classes: list[str]) -> LabelledImages:
    query = read_labelled(path, size)
    strangers = sorted({label for label in query.labels if label is not None and label not in classes})
    if strangers and len(strangers) < len(set(query.labels)):
        raise EpisodeError(
            f"`{path}` has folders that are no class of the support: {', '.join(strangers)}",
            hint=f"the classes are {', '.join(classes)}; put images without a label outside of folders",
        )
    return query


def _images(images: LabelledImages, device: torch.device) -> Tensor:
    n = len(images.images)
    return PackedImages(torch.tensor(images.images, device=device), (n,)).gather(torch.arange(n, device=device))


def _numbers(images: LabelledImages, classes: list[str], device: torch.device) -> Tensor:
    """Return each image's label; -1 where it has none among the classes."""
    number: dict[str | None, int] = {name: i for i, name in enumerate(classes)}
    return torch.tensor([number.get(label, -1) for label in images.labels], device=device)


def _metrics(model: LoadedModel, adapted: Mapping[str, Tensor], task: Task, settings: AdaptSettings) -> AdaptMetrics:
    episode = task.episode
    figures: dict[str, Any] = {}
    probabilities = {}
    for moment, params in (("before", model.params), ("after", adapted)):
        support, query = _logits(model, params, episode, settings)
        if not bool(torch.cat([support, query]).isfinite().all()):
            raise DivergedError(
                f"the logits of model `{model.ref.name}` are not finite {moment} adaptation",
                hint="take smaller --rates or fewer --inner-steps",
            )
        figures[f"support_loss_{moment}"] = cross_entropy(support, episode.support_y).item()
        probabilities[moment] = query.softmax(1).cpu()
        figures[f"accuracy_{moment}"] = _accuracy(query, episode.query_y)
    return AdaptMetrics(
        classes=task.classes,
        support_images=len(episode.support_y),
        query_images=len(episode.query_y),
        predictions=_predictions(task, probabilities),
        **figures,
    )


@torch.no_grad()
def _logits(
    model: LoadedModel, params: Mapping[str, Tensor], episode: Episode, settings: AdaptSettings
) -> tuple[Tensor, Tensor]:
    # no batch statistics can be taken of no images
    batch_stats = settings.batch_stats if len(episode.query_y) else "together"
    features = episode_features(lambda x: model.engine.features(params, x), episode, batch_stats=batch_stats)
    support, query = (linear(x, params["head.weight"], params["head.bias"]) for x in features)
    return support, query


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
    """Save the adapted parameters as a model of its own, with its parent and its rates, and return its name."""
    manifest = model.checkpoint.manifest
    figures: dict[str, JsonValue] = metrics.model_dump(mode="json", exclude={"predictions"})
    name = settings.name or store.fresh_model_name(f"{model.ref.name}-adapted")
    path = store.model_dir(name) / LAST
    try:
        with store.lock(name):
            if holds_model(path.parent) and not settings.force:
                raise StoreError(f"model `{name}` exists in `{store.home}`", hint="take another --name, or --force")
            save_checkpoint(
                path,
                params=adapted,
                inner_lr=model.inner_lr,
                **manifest.model_dump(
                    include={"architecture", "algorithm", "settings", "data", "outer_step", "engine"}
                ),
                metrics=figures,
                parent={"name": model.ref.name, "digest": model.checkpoint.digest, "adaptation": how.model_dump()},
            )
            for other in (BEST, TRAINING_STATE, HISTORY):
                (path.parent / other).unlink(missing_ok=True)  # of a trained model that --force replaces
    finally:
        # Where nothing could be saved, no empty model stays behind.
        with contextlib.suppress(OSError):
            path.parent.rmdir()
    return name
