"""Measure models on many episodes: the results of `nilr probe` and `nilr rates`, of models in memory."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from nilr.config.base import BatchStats, Distance, TaskB
from nilr.config.evaluation import ProbeSettings, RatesSettings
from nilr.errors import UsageError
from nilr.library.arguments import check_name, checked_integer, checked_settings, naming_arguments, texts
from nilr.library.images import Images, check_images
from nilr.library.models import check_fit
from nilr.meta.model import Model
from nilr.recipes import rates as rates_recipe
from nilr.recipes.common.episodes import EpisodeSize, inner_steps
from nilr.recipes.common.loading import LoadedModel
from nilr.recipes.common.outcome import Outcome
from nilr.recipes.common.packs import Split
from nilr.recipes.probe.controls import RAW_PIXELS, UNTRAINED
from nilr.recipes.probe.evaluation import Inputs, evaluate
from nilr.recipes.probe.plan import check_settings, check_size, plan_all
from nilr.report import reading
from nilr.reporting import SilentReporter
from nilr.results.probe import ModelRates, ProbeMetrics, RatesMetrics
from nilr.results.records import ModelUsed
from nilr.results.result import Result
from nilr.runtime import environment
from nilr.sections import SECTIONS

Models = Model | Mapping[str, Model]

_SWITCHES = tuple(section.flag for section in SECTIONS if ProbeSettings.model_fields[section.flag].annotation is bool)


@naming_arguments
def probe(
    models: Models,
    images: Images,
    *,
    n_episodes: int = 200,
    n_way: int | None = None,
    n_shot: int = 1,
    n_query: int = 15,
    steps: int | None = None,
    rates: str | float | Iterable[str | float] = "learned",
    layers: str | Iterable[str] = (),
    sections: str | Iterable[str] = (),
    neighbours: str | Iterable[str] = "nearest",
    distance: Distance = "cosine",
    task_b: TaskB = "disjoint",
    batch_stats: BatchStats | None = None,
    data_b: Images | None = None,
    controls: bool = False,
    untrained_bodies: int = 5,
    universality: Images | None = None,
    universality_tasks: int = 20,
    universality_images: int = 50,
    seed: int = 0,
) -> Result[ProbeMetrics]:
    """Evaluate features by labelled neighbours, before adaptation and after adaptation to the same and another task.

    All models are evaluated on the same episodes, with the numbers of `nilr probe`.

    Args:
        models: a model, or several by name.
        images: to draw episodes from.
        n_episodes: number of episodes.
        n_way: classes per episode; by default those of the first model's head.
        n_shot: support images per class.
        n_query: query images per class.
        steps: inner steps; by default those of each model's algorithm in evaluation.
        rates: edits of the inner rates, such as "absolute", or numbers.
        layers: names of layers to evaluate too, or "all".
        sections: what else to measure: own_head, directions, harm, steps_curve, shared_classes, similarity, geometry or
            transfer.
        neighbours: rules of the neighbours: nearest, class-mean or attention.
        distance: cosine or euclidean.
        task_b: classes of the other task: disjoint, any or same-classes.
        batch_stats: apart, together or inductive; by default as each model was trained.
        data_b: other images, to evaluate on; the models are adapted to tasks of `images` for cross-task.
        controls: whether to evaluate raw pixels and untrained bodies too.
        untrained_bodies: number of untrained bodies.
        universality: images whose classes linear classifiers distinguish, all at once.
        universality_tasks: number of tasks to adapt to with `universality`.
        universality_images: images per class that `universality` fits, and of others that it evaluates.
        seed: of the episodes.

    Returns:
        A result; `metrics[name].same_task.accuracy.mean` is a fraction. `result_frame` and `plot` show all of it.

    Raises:
        NilrError: an argument is invalid, there are too few images, or a number is not finite.

    Examples:
        >>> import nilr
        >>> images = nilr.generate_images(per_class=6, image_size=16)
        >>> models = {algo: nilr.build_model(algo=algo, filters=4, image_size=16) for algo in ("maml", "metasgd")}
        >>> result = nilr.probe(models, images, n_episodes=3, n_query=3, sections=["harm"])
        >>> result.metrics["maml"].same_task.accuracy.n_episodes
        3
        >>> controlled = nilr.probe(models["maml"], images, n_episodes=3, n_query=3, controls=True, untrained_bodies=2)
        >>> list(controlled.metrics)
        ['model', 'untrained body', 'raw pixels']
    """
    _check_all_images(images, data_b=data_b, universality=universality)
    named = _named(models, controls=controls)
    settings = checked_settings(
        ProbeSettings,
        {"inner_steps": "steps"},
        n_episodes=n_episodes,
        n_way=len(next(iter(named.values())).params["head.bias"]) if n_way is None else n_way,
        n_shot=n_shot,
        n_query=n_query,
        inner_steps=steps,
        rates=texts(rates),
        layers=texts(layers),
        neighbours=texts(neighbours),
        distance=distance,
        task_b=task_b,
        batch_stats=batch_stats,
        seed=checked_integer("seed", seed, 0),
        split=images.split,
        controls=controls,
        untrained_bodies=untrained_bodies,
        universality=universality.split if universality is not None else None,
        universality_tasks=universality_tasks,
        universality_images=universality_images,
        **_switched(sections),
    )
    return _probe(settings, named, images, data_b, universality)


def _check_all_images(images: object, **others: object) -> None:
    check_images(images)
    for name, value in others.items():
        if value is not None:
            check_images(value, name)


def _switched(sections: str | Iterable[str]) -> dict[str, bool]:
    """Return the settings of sections; UnknownNameError if one is unknown."""
    names = texts(sections)
    for name in names:
        check_name("section", name, _SWITCHES)
    return dict.fromkeys(names, True)


def _probe(
    settings: ProbeSettings, models: Mapping[str, Model], images: Images, data_b: Images | None, wide: Images | None
) -> Result[ProbeMetrics]:
    outcome, size, device = Outcome(settings), _size(settings), _device(models)
    settings = settings.model_copy(update={"data_b": "data_b" if data_b is not None else None})
    check_settings(settings)
    if data_b is not None and (data_b is images or (data_b.used is not None and data_b.used == images.used)):
        raise UsageError("`data_b` has the same images as `images`", hint="omit `data_b`")
    check_size(settings, size.n_query)
    for model in models.values():
        for shown in (images, data_b, wide):
            if shown is not None:
                check_fit(model, shown)
    split = Split(images.on(device), images.used)
    judged = Split(data_b.on(device), data_b.used) if data_b is not None else split
    opened = Split(wide.on(device), wide.used) if wide is not None else None
    plans = plan_all(settings, models, size.n_way)
    return evaluate(settings, Inputs(models, size, plans, split, judged, opened), outcome, SilentReporter())


@naming_arguments
def measure_rates(
    models: Models,
    images: Images | None = None,
    *,
    n_episodes: int = 100,
    n_shot: int = 1,
    steps: int | None = None,
    consistency: bool = False,
    effective_step: bool = False,
    seed: int = 0,
) -> Result[RatesMetrics]:
    """Describe the inner rates by tensor, kind and layer, and with images their effect on real gradients.

    Args:
        models: a model, or several by name.
        images: to draw episodes from, with as many classes each as the head has; None: describe the rates alone.
        n_episodes: number of episodes.
        n_shot: support images per class.
        steps: inner steps; by default those of the algorithm in evaluation.
        consistency: whether to compare rates with what the gradients of different episodes have in common.
        effective_step: whether to compare the curvature of the support loss along the first step with its slope.
        seed: of the episodes.

    Returns:
        A result; `metrics[name].layers["block1"].share_negative` is a fraction.

    Raises:
        NilrError: an argument is invalid, or there are too few images.

    Examples:
        >>> import nilr
        >>> model = nilr.build_model(filters=4, image_size=16)
        >>> result = nilr.measure_rates({"start": model})
        >>> result.metrics["start"].all.count, result.metrics["start"].all.share_negative
        (597, 0.0)
    """
    named = _named(models)
    if images is not None:
        check_images(images)
    if images is None and (consistency or effective_step):
        which = "consistency" if consistency else "effective_step"
        raise UsageError(f"`{which}` needs gradients, and there are no images", hint="give `images`")
    settings = checked_settings(
        RatesSettings,
        {"inner_steps": "steps"},
        n_episodes=n_episodes if images is not None else 0,
        n_shot=n_shot,
        inner_steps=steps,
        consistency=consistency,
        effective_step=effective_step,
        seed=checked_integer("seed", seed, 0),
        split=images.split if images is not None else "test",
    )
    rates_recipe.check_settings(settings)
    outcome, metrics = Outcome(settings), dict[str, ModelRates]()
    for name, model in named.items():
        taken, measured = inner_steps(settings, model), rates_recipe.Measured()
        if images is not None and taken:
            check_fit(model, images)
            size = EpisodeSize(len(model.params["head.bias"]), n_shot, 0)
            packed = images.on(_device(named))
            measured = rates_recipe.walk_episodes(settings, model, packed, size, taken, SilentReporter())
        metrics[name] = rates_recipe.describe_rates(name, model, measured, taken)
    return outcome.result(
        metrics,
        config=settings.model_dump(mode="json", exclude={"home", "models"}),
        models=_used(named),
        data=images.used if images is not None else None,
        environment=_environment(named),
    )


def read_result(path: str | Path) -> Result[Any]:
    """Read a result that `nilr probe`, `rates`, `meta-train` or `reproduce` wrote.

    Raises:
        NilrError: the file cannot be read, or is not such a result.

    Examples:
        >>> import nilr
        >>> nilr.read_result("no-such-result.json")
        Traceback (most recent call last):
        nilr.errors.StoreError: cannot read `no-such-result.json`: ...
    """
    result: Result[Any] = reading.read_result(Path(path).expanduser()).result
    return result


def _named(models: Models, *, controls: bool = False) -> dict[str, Model]:
    named = {"model": models} if isinstance(models, Model) else models
    if not isinstance(named, Mapping) or not all(isinstance(one, Model) for one in named.values()):
        raise UsageError("`models` is neither a model nor a mapping of names to models", hint="give {name: model}")
    named = {str(name): model for name, model in named.items()}
    if controls and (taken := {UNTRAINED, RAW_PIXELS} & set(named)):
        raise UsageError(f"`{min(taken)}` is the name of a control", hint="give the model another name")
    if not named:
        raise UsageError("there is no model to measure", hint="give a model, or several by name")
    if len({model.params["head.bias"].device for model in named.values()}) > 1:
        raise UsageError("the models are on different devices", hint="load or build all on one device")
    return named


def _size(settings: ProbeSettings) -> EpisodeSize:
    return EpisodeSize(**{name: getattr(settings, name) for name in EpisodeSize.__annotations__})


def _used(models: Mapping[str, Model]) -> list[ModelUsed]:
    """Return the models' entries in a result; none if some are not from files."""
    loaded = [model.used for model in models.values() if isinstance(model, LoadedModel)]
    return loaded if len(loaded) == len(models) else []


def _device(models: Mapping[str, Model]) -> torch.device:
    return next(iter(models.values())).params["head.bias"].device


def _environment(models: Mapping[str, Model]) -> dict[str, Any]:
    engines = dict.fromkeys(model.engine.name for model in models.values())
    return environment(_device(models), ", ".join(engines))
