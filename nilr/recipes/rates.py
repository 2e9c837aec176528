"""Rates: how the inner rates of models are distributed, and what they make of the gradients of real episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nilr.config import RatesSettings
from nilr.episodes import EpisodeSampler
from nilr.errors import DataError, NilrError, StoreError
from nilr.meta.engine.workers import in_order
from nilr.models.parameters import layer
from nilr.probes.rate_statistics import Walk, larger, signal, spread, walk, without_signal
from nilr.recipes.common.episodes import EpisodeSize, episode_size, inner_steps
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
from nilr.reporting import Reporter
from nilr.results.probing import Histogram, ModelRates, RateFigures, RatesMetrics, TensorRates
from nilr.results.records import ModelUsed
from nilr.results.result import Result
from nilr.runtime import environment, prepare
from nilr.sections.values import mean_where_defined
from nilr.store import Store


@dataclass(frozen=True)
class Seen:
    """What the episodes showed of one model: a walk each, and every element's largest gradient; empty without any."""

    walks: Sequence[Walk] = ()
    largest: Mapping[str, Tensor] = field(default_factory=dict)


@with_memory_hint("a smaller --n-shot, or --device cpu")
def run(settings: RatesSettings, reporter: Reporter) -> Result[RatesMetrics]:
    """Look at the inner rates of one or several models.

    Raises:
        NilrError: a model cannot be used; the pack that was asked for cannot be, or cannot give such episodes.
    """
    outcome = Outcome(settings)
    store = Store(settings.home)
    device = prepare(settings.device, settings.threads, settings.precision)
    models = load_models(store, settings.models, device=device, engine=settings.engine, precision=settings.precision)
    used = list(models.values())
    split, notes = _open(settings, store, used, device)
    size = episode_size(settings, used) if split else None
    metrics = {}
    for name, model in models.items():
        steps = inner_steps(settings, model)
        seen = _look(settings, model, split, size, steps, reporter) if split and size and steps else Seen()
        metrics[name] = model_rates(model, seen, steps)
    return outcome.result(
        metrics,
        config={
            **settings.model_dump(mode="json", exclude={"home", "models"}),
            **(dataclasses.asdict(size) if size else {}),
            "inner_steps": {name: figures.inner_steps for name, figures in metrics.items()},
            "data": split.used.name if split else None,
        },
        models=[model.used for model in used],
        data=split.used if split else None,
        notes=[*notes, *between_seeds([model.used for model in used], list(metrics.values()))],
        environment=environment(device, used[0].engine.name),
    )


def _open(
    settings: RatesSettings, store: Store, models: Sequence[LoadedModel], device: torch.device
) -> tuple[OpenSplit | None, list[str]]:
    """Return the split that the episodes come from, or None and what is left out without it.

    Raises:
        NilrError: the pack that was asked for cannot be used.
    """
    reason = "--n-episodes is 0"
    if settings.n_episodes:
        try:
            split = open_split(find_evaluation_pack(store, settings.data, models[0]), settings.split, device)
            for model in models:
                require_image_size(model, split.used)
            return split, []
        except (StoreError, DataError) as error:
            if settings.data is not None:
                raise
            reason = error.message
    return None, [
        "Left out, since they take episodes: gradient-weighted ascent, step norm, cosine, and which parameters receive "
        f"no signal ({reason})."
    ]


def _look(
    settings: RatesSettings,
    model: LoadedModel,
    split: OpenSplit,
    size: EpisodeSize,
    steps: int,
    reporter: Reporter,
) -> Seen:
    # An episode's support does not depend on the number of its queries.
    sampler = EpisodeSampler(split.images, size.n_way, size.n_shot, 0, settings.seed, settings.split)

    def one(i: int) -> tuple[Walk, Mapping[str, Tensor]]:
        episode = sampler.draw([i])[0]
        support = (episode.support_x, episode.support_y)
        return walk(model.engine, model.params, model.inner_lr, support, steps=steps)

    reporter.stage(f"rates of {model.ref.name}", settings.n_episodes, unit="episodes")
    walks, largest = [], dict[str, Tensor]()
    device, at_most = split.images.device, settings.episode_chunk
    for taken, gradients in in_order(one, range(settings.n_episodes), device=device, at_most=at_most):
        walks.append(taken)
        largest = larger(largest, gradients)
        reporter.advance()
    return Seen(walks, largest)


def model_rates(model: LoadedModel, seen: Seen, steps: int) -> ModelRates:
    """Return the figures of one model.

    Raises:
        NilrError: nothing that has a rate receives a gradient.
    """
    silent = without_signal(seen.largest)
    names = [name for name in sorted(model.inner_lr, key=_place) if name not in silent]
    if not names:
        raise NilrError(f"no parameter of model `{model.ref.name}` has a rate and receives a gradient")

    def figures(chosen: Iterable[str]) -> dict[str, Any]:
        return rate_figures(model.inner_lr, list(chosen), seen.walks)

    return ModelRates(
        inner_steps=steps,
        all=RateFigures(**figures(names)),
        kinds={
            group: RateFigures(**figures(of)) for group, of in _grouped(names, model.learner.kinds.__getitem__).items()
        },
        layers={group: RateFigures(**figures(of)) for group, of in _grouped(names, layer).items()},
        tensors={
            name: TensorRates(
                **figures([name]),
                layer=layer(name),
                kind=model.learner.kinds[name],
                no_signal=int((seen.largest[name] == 0).sum()) if seen.walks else None,
            )
            for name in names
        },
        left_out=silent,
        not_moved=sorted(set(model.params) - set(model.inner_lr), key=_place),
    )


def rate_figures(inner_lr: Mapping[str, Tensor], names: Sequence[str], walks: Sequence[Walk]) -> dict[str, Any]:
    """Return the fields of `RateFigures` for the named tensors, taken together."""
    found = spread(inner_lr[name] for name in names)
    exact = dataclasses.asdict(found)
    histogram = Histogram(edges=exact.pop("edges"), counts=exact.pop("counts"))
    quantiles = {str(level): value for level, value in exact.pop("quantiles").items()}
    seen = {name: mean_where_defined(value) for name, value in vars(signal(walks, names)).items()} if walks else {}
    return {**exact, **seen, "quantiles": quantiles, "histogram": histogram}


def between_seeds(used: Sequence[ModelUsed], metrics: Sequence[ModelRates]) -> list[str]:
    """Say how the share of negative rates differs between models that were trained alike but for their seed."""
    shares: dict[str, dict[int, float]] = {}
    algos = {}
    for model, figures in zip(used, metrics, strict=True):
        if model.recipe is not None and model.seed is not None:
            shares.setdefault(model.recipe, {})[model.seed] = figures.all.share_negative
            algos[model.recipe] = model.algo
    return [
        f"Share of negative rates over {len(values)} seeds of {algos[recipe]}: {100 * mean:.2f} % on average, standard "
        f"deviation between seeds {100 * std:.2f} points."
        for recipe, found in shares.items()
        if len(found) > 1
        for values in [torch.tensor(list(found.values()), dtype=torch.float64)]
        for mean, std in [(values.mean().item(), values.std(correction=1).item())]
    ]


def _grouped(names: Iterable[str], group: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(group(name), []).append(name)
    return groups


def _place(name: str) -> tuple[bool, str]:
    return layer(name) == "head", name
