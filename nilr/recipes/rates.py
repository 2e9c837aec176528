"""`nilr rates`: the distribution of a model's inner rates, and their effect on the gradients of real episodes."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nilr.config.evaluation import RatesSettings
from nilr.episodes import EpisodeSampler, PackedImages
from nilr.errors import DataError, EpisodeError, NilrError, StoreError, UsageError
from nilr.meta.engine.workers import in_order
from nilr.meta.model import Model
from nilr.models.learner import Params
from nilr.models.parameters import layer
from nilr.probes.gradient_statistics import (
    Curvature,
    GradientSums,
    JackknifeEstimate,
    chance,
    effective_step,
    first_step_curvature,
)
from nilr.probes.rate_statistics import Walk, larger, signal, spread, walk, without_signal
from nilr.recipes.common.episodes import EpisodeSize, episode_size, inner_steps
from nilr.recipes.common.evaluation_pack import open_evaluation_split, training_pack_notes
from nilr.recipes.common.loading import LoadedModel, load_models
from nilr.recipes.common.memory import with_memory_hint
from nilr.recipes.common.outcome import Outcome
from nilr.recipes.common.overlaps import find_overlaps
from nilr.recipes.common.packs import OpenSplit
from nilr.reporting import Reporter
from nilr.results.probe import (
    Consistency,
    EffectiveStep,
    ModelRates,
    RateFigures,
    RatesMetrics,
    SignConsistency,
    TensorRates,
)
from nilr.results.records import Mean, ModelUsed, Overlap
from nilr.results.result import Result
from nilr.runtime import environment, prepare
from nilr.sections.values import mean_of, mean_where_defined
from nilr.store import Store
from nilr.words import as_flag


class Measured(NamedTuple):
    """What the episodes of one model gave; everything is empty without episodes or steps."""

    walks: Sequence[Walk] = ()
    largest: Mapping[str, Tensor] = {}  # |gradient| of every element
    gradients: GradientSums | None = None  # of the first step, if requested
    curvatures: Sequence[Curvature] = ()  # along the first step, if requested


@with_memory_hint("a smaller --n-shot, or --device cpu")
def run(settings: RatesSettings, reporter: Reporter) -> Result[RatesMetrics]:
    """Describe the inner rates of one or several models."""
    check_settings(settings)
    outcome = Outcome(settings)
    store = Store(settings.home)
    device = prepare(settings.device, settings.threads, settings.precision)
    models = load_models(store, settings.models, settings, device=device)
    loaded = list(models.values())
    split, overlaps, notes = _open_split(settings, store, models, device)
    size = episode_size(settings, loaded) if split else None
    for model in loaded:
        if size and (outputs := len(model.params["head.bias"])) != size.n_way:
            raise EpisodeError(
                f"model `{model.ref.name}` has a head for {outputs} classes, and its rates are not those of a head for "
                f"{size.n_way}",
                hint=f"use --n-way {outputs}",
            )
    metrics, per_episode = {}, {}
    for name, model in models.items():
        steps = inner_steps(settings, model)
        measured = Measured()
        if split and size and steps:
            reporter.stage(f"rates of {model.ref.name}", settings.n_episodes, unit="episodes")
            measured = walk_episodes(settings, model, split.images, size, steps, reporter)
        metrics[name] = describe_rates(model.ref.name, model, measured, steps)
        if measured.curvatures:
            slopes, curvatures = map(list, zip(*measured.curvatures, strict=True))
            per_episode[name] = {"effective_step": {"slope": slopes, "curvature": curvatures}}
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
        overlaps=overlaps,
        per_episode=per_episode,
        notes=[*notes, *_seed_notes([model.used for model in loaded], list(metrics.values()))],
        environment=environment(device, loaded[0].engine.name),
    )


def check_settings(settings: RatesSettings) -> None:
    """Check that what needs gradients has episodes and inner steps; UsageError if it has not."""
    for flag in ("consistency", "effective_step"):
        for lacking in ("n_episodes", "inner_steps"):
            if getattr(settings, flag) and getattr(settings, lacking) == 0:
                flags = [as_flag(name) for name in (flag, lacking)]
                raise UsageError(f"{flags[0]} needs gradients, and {flags[1]} is 0", hint=f"omit {flags[1]}")
    if settings.consistency and settings.n_episodes == 1:
        raise UsageError("--consistency compares episodes, and --n-episodes is 1", hint="raise --n-episodes")


def _open_split(
    settings: RatesSettings, store: Store, models: Mapping[str, LoadedModel], device: torch.device
) -> tuple[OpenSplit | None, list[Overlap], list[str]]:
    """Return the split that gives the episodes, or None, with what it shares, and notes on it or on what is missing."""
    reason = "--n-episodes is 0"
    if settings.n_episodes:
        try:
            opened = open_evaluation_split(store, settings.data, settings.split, list(models.values()), device)
            overlaps, notes = find_overlaps(store, models, [opened])
            return opened, overlaps, [*training_pack_notes(models, opened.used), *notes]
        except (StoreError, DataError) as error:
            if settings.data is not None or settings.consistency or settings.effective_step:
                raise
            reason = error.message
    return (
        None,
        [],
        [
            "Omitted, because they need episodes: gradient-weighted ascent, step norm, cosine, and parameters without "
            f"signal ({reason})."
        ],
    )


def walk_episodes(
    settings: RatesSettings,
    model: Model,
    images: PackedImages,
    size: EpisodeSize,
    steps: int,
    reporter: Reporter,
) -> Measured:
    """Run the inner loop on each episode."""
    # The support set of an episode does not depend on the number of queries.
    sampler = EpisodeSampler(images, size.n_way, size.n_shot, 0, settings.seed, settings.split)

    def walk_episode(i: int) -> tuple[tuple[Walk, Params, Params], Curvature | None]:
        episode = sampler.draw([i])[0]
        support = episode.support_x, episode.support_y
        walked = walk(model.engine, model.params, model.inner_lr, support, steps=steps)
        if not settings.effective_step:
            return walked, None
        return walked, first_step_curvature(model.learner, model.params, model.inner_lr, support)

    walks, largest, curvatures = [], Params(), []
    sums = GradientSums(settings.n_episodes) if settings.consistency else None
    device, at_most = images.device, settings.episode_chunk
    for (taken, gradients, first), curvature in in_order(
        walk_episode, range(settings.n_episodes), device=device, at_most=at_most
    ):
        walks.append(taken)
        largest = larger(largest, gradients)
        if sums is not None:
            sums.add(first)
        if curvature is not None:
            curvatures.append(curvature)
        reporter.advance()
    return Measured(walks, largest, sums, curvatures)


def describe_rates(label: str, model: Model, measured: Measured, steps: int) -> ModelRates:
    """Return the distribution of a model's rates and their effect; `label` names the model in an error."""
    kinds, walks, largest = model.learner.kinds, measured.walks, measured.largest
    silent = without_signal(largest)
    names = [name for name in sorted(model.inner_lr, key=_body_first) if name not in silent]
    if not names:
        raise NilrError(f"no parameter of model `{label}` has both a rate and a gradient")

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
        consistency=_consistency(model, measured, names),
        consistency_by_chance=chance(len(walks)) if measured.gradients else None,
        effective_step=_effective_step(measured.curvatures),
    )


def _consistency(model: Model, measured: Measured, names: Sequence[str]) -> dict[str, Consistency] | None:
    """Return the consistency of the first step's gradients, of all elements and by layer."""
    if measured.gradients is None:
        return None
    found = {}
    for group in ("all", *dict.fromkeys(map(layer, names))):
        chosen = [name for name in names if group in ("all", layer(name))]
        figures = measured.gradients.consistency(model.inner_lr, model.params, chosen)
        means = {key: _mean(figure, len(measured.walks)) for key, figure in figures.items()}
        signs = {
            sign: SignConsistency(consistency=means.pop(f"consistency_{sign}"), shared=means.pop(f"shared_{sign}"))
            for sign in ("positive", "negative")
            if f"shared_{sign}" in means
        }
        found[group] = Consistency(**signs, **means)
    return found


def _effective_step(curvatures: Sequence[Curvature]) -> EffectiveStep | None:
    if not curvatures:
        return None
    slope, curvature = torch.tensor(curvatures, dtype=torch.float64).T
    ratio = effective_step(curvatures)
    return EffectiveStep(
        slope=mean_of(slope),
        curvature=mean_of(curvature),
        ratio=_mean(ratio, len(curvatures)) if ratio else None,
        overshoots=mean_of((slope + curvature / 2 > 0).double()),
    )


def _mean(estimate: JackknifeEstimate, n_episodes: int) -> Mean:
    return Mean(mean=estimate.mean, ci95=estimate.ci95, n_episodes=n_episodes)


def _describe(inner_lr: Mapping[str, Tensor], names: Sequence[str], walks: Sequence[Walk]) -> dict[str, Any]:
    """Return the fields of `RateFigures` for the named tensors, taken together."""
    effect = {name: mean_where_defined(value) for name, value in signal(walks, names).items()} if walks else {}
    return spread(inner_lr[name] for name in names) | effect


def _difference(model: ModelRates) -> float | None:
    difference = model.consistency["all"].difference if model.consistency else None
    return 100 * difference.mean if difference else None


def _ratio(model: ModelRates) -> float | None:
    return model.effective_step.ratio.mean if model.effective_step and model.effective_step.ratio else None


# what is compared over seeds: its words, the units of its mean and of its spread, and how to read it
_OVER_SEEDS: tuple[tuple[str, str, str, Callable[[ModelRates], float | None]], ...] = (
    ("Share of negative rates", " %", " points", lambda model: 100 * model.all.share_negative),
    ("Gradient that episodes share, negative minus positive rates,", " points", " points", _difference),
    ("Effective first step", "", "", _ratio),
)


def _seed_notes(used: Sequence[ModelUsed], metrics: Sequence[ModelRates]) -> list[str]:
    """Describe the spread of figures between seeds of one recipe."""
    first = {model.recipe: model for model in reversed(used) if model.recipe is not None}
    algorithms = [model.algo for model in first.values()]
    names = {
        recipe: model.algo if algorithms.count(model.algo) == 1 else f"{model.algo} ({model.name}, ...)"
        for recipe, model in first.items()
    }
    notes = []
    for words, unit, of_spread, figure in _OVER_SEEDS:
        groups: dict[str, dict[int, float]] = {}
        for model, found in zip(used, metrics, strict=True):
            value = figure(found)
            if model.recipe is not None and model.seed is not None and value is not None:
                groups.setdefault(model.recipe, {})[model.seed] = value
        notes += [
            f"{words} over {len(by_seed)} seeds of {names[recipe]}: {mean(by_seed.values()):.2f}{unit} on average, "
            f"standard deviation between seeds {stdev(by_seed.values()):.2f}{of_spread}."
            for recipe, by_seed in groups.items()
            if len(by_seed) > 1 and any(by_seed.values())
        ]
    return notes


def _body_first(name: str) -> tuple[bool, str]:
    return layer(name) == "head", name
