"""`nilr rates`: the distribution of a model's inner rates, and their effect on the gradients of real episodes."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor

from nilr.config.evaluation import RatesSettings
from nilr.episodes import EpisodeSampler
from nilr.errors import DataError, EpisodeError, NilrError, StoreError
from nilr.meta.engine.workers import in_order
from nilr.models.parameters import layer
from nilr.probes.rate_statistics import Walk, larger, signal, spread, walk, without_signal
from nilr.recipes.common.episodes import EpisodeSize, episode_size, inner_steps
from nilr.recipes.common.loading import LoadedModel, OpenSplit, load_models, open_evaluation_split, training_pack_notes
from nilr.recipes.common.memory import with_memory_hint
from nilr.recipes.common.outcome import Outcome
from nilr.reporting import Reporter
from nilr.results.probe import ModelRates, RateFigures, RatesMetrics, TensorRates
from nilr.results.records import ModelUsed
from nilr.results.result import Result
from nilr.runtime import environment, prepare
from nilr.sections.values import mean_where_defined
from nilr.store import Store


@with_memory_hint("a smaller --n-shot, or --device cpu")
def run(settings: RatesSettings, reporter: Reporter) -> Result[RatesMetrics]:
    """Describe the inner rates of one or several models."""
    outcome = Outcome(settings)
    store = Store(settings.home)
    device = prepare(settings.device, settings.threads, settings.precision)
    models = load_models(store, settings.models, device=device, engine=settings.engine, precision=settings.precision)
    loaded = list(models.values())
    split, notes = _open_split(settings, store, models, device)
    size = episode_size(settings, loaded) if split else None
    for model in loaded:
        if size and (outputs := len(model.params["head.bias"])) != size.n_way:
            raise EpisodeError(
                f"model `{model.ref.name}` has a head for {outputs} classes, and its rates are not those of a head for "
                f"{size.n_way}",
                hint=f"use --n-way {outputs}",
            )
    metrics = {}
    for name, model in models.items():
        steps = inner_steps(settings, model)
        measured = (
            _walk_episodes(settings, model, split, size, steps, reporter) if split and size and steps else ([], {})
        )
        metrics[name] = _model_rates(model, *measured, steps)
    return outcome.result(
        metrics,
        config={
            **settings.model_dump(mode="json", exclude={"home", "models"}),
            **(dataclasses.asdict(size) if size else {}),
            "inner_steps": {name: found.inner_steps for name, found in metrics.items()},
            "data": split.used.name if split else None,
        },
        models=[model.used for model in loaded],
        data=split.used if split else None,
        notes=[*notes, *_seed_notes([model.used for model in loaded], list(metrics.values()))],
        environment=environment(device, loaded[0].engine.name),
    )


def _open_split(
    settings: RatesSettings, store: Store, models: Mapping[str, LoadedModel], device: torch.device
) -> tuple[OpenSplit | None, list[str]]:
    """Return the split that gives the episodes, or None, with notes on its pack or on the missing statistics."""
    reason = "--n-episodes is 0"
    if settings.n_episodes:
        try:
            opened = open_evaluation_split(store, settings.data, settings.split, list(models.values()), device)
            return opened, training_pack_notes(models, opened.used)
        except (StoreError, DataError) as error:
            if settings.data is not None:
                raise
            reason = error.message
    return None, [
        "Omitted, because they need episodes: gradient-weighted ascent, step norm, cosine, and parameters without "
        f"signal ({reason})."
    ]


def _walk_episodes(
    settings: RatesSettings,
    model: LoadedModel,
    split: OpenSplit,
    size: EpisodeSize,
    steps: int,
    reporter: Reporter,
) -> tuple[list[Walk], dict[str, Tensor]]:
    """Return a walk for each episode, and the largest |gradient| of every element."""
    # The support set of an episode does not depend on the number of queries.
    sampler = EpisodeSampler(split.images, size.n_way, size.n_shot, 0, settings.seed, settings.split)

    def walk_episode(i: int) -> tuple[Walk, Mapping[str, Tensor]]:
        episode = sampler.draw([i])[0]
        return walk(model.engine, model.params, model.inner_lr, (episode.support_x, episode.support_y), steps=steps)

    reporter.stage(f"rates of {model.ref.name}", settings.n_episodes, unit="episodes")
    walks, largest = [], dict[str, Tensor]()
    device, at_most = split.images.device, settings.episode_chunk
    for taken, gradients in in_order(walk_episode, range(settings.n_episodes), device=device, at_most=at_most):
        walks.append(taken)
        largest = larger(largest, gradients)
        reporter.advance()
    return walks, largest


def _model_rates(model: LoadedModel, walks: Sequence[Walk], largest: Mapping[str, Tensor], steps: int) -> ModelRates:
    kinds = model.learner.kinds
    silent = without_signal(largest)
    names = [name for name in sorted(model.inner_lr, key=_body_first) if name not in silent]
    if not names:
        raise NilrError(f"no parameter of model `{model.ref.name}` has both a rate and a gradient")

    def grouped(group: Callable[[str], str]) -> dict[str, RateFigures]:
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(group(name), []).append(name)
        return {key: RateFigures(**_describe(model.inner_lr, of, walks)) for key, of in groups.items()}

    return ModelRates(
        inner_steps=steps,
        all=RateFigures(**_describe(model.inner_lr, names, walks)),
        kinds=grouped(kinds.__getitem__),
        layers=grouped(layer),
        tensors={
            name: TensorRates(
                **_describe(model.inner_lr, [name], walks),
                layer=layer(name),
                kind=kinds[name],
                no_signal=int((largest[name] == 0).sum()) if walks else None,
            )
            for name in names
        },
        left_out=silent,
        not_moved=sorted(set(model.params) - set(model.inner_lr), key=_body_first),
    )


def _describe(inner_lr: Mapping[str, Tensor], names: Sequence[str], walks: Sequence[Walk]) -> dict[str, Any]:
    """Return the fields of `RateFigures` for the named tensors, taken together."""
    effect = {name: mean_where_defined(value) for name, value in signal(walks, names).items()} if walks else {}
    return spread(inner_lr[name] for name in names) | effect


def _seed_notes(used: Sequence[ModelUsed], metrics: Sequence[ModelRates]) -> list[str]:
    """Describe the spread of the share of negative rates between seeds of one recipe."""
    shares: dict[tuple[str, str], dict[int, float]] = {}
    for model, found in zip(used, metrics, strict=True):
        if model.recipe is not None and model.seed is not None:
            shares.setdefault((model.recipe, model.algo), {})[model.seed] = found.all.share_negative
    return [
        f"Share of negative rates over {len(by_seed)} seeds of {algo}: {100 * mean(by_seed.values()):.2f} % on average,"
        f" standard deviation between seeds {100 * stdev(by_seed.values()):.2f} points."
        for (_, algo), by_seed in shares.items()
        if len(by_seed) > 1 and any(by_seed.values())
    ]


def _body_first(name: str) -> tuple[bool, str]:
    return layer(name) == "head", name
