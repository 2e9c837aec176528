"""What the inner rates look like on a screen."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from nilr.cli.console import Cell, Screen
from nilr.results.probing import ModelRates, RateFigures, RatesMetrics
from nilr.results.records import Mean
from nilr.results.result import Result


def show(result: Result[RatesMetrics], screen: Screen) -> None:
    """Write for each model how its rates are distributed, what they make of gradients, and what is not in the tables.

    All rates stand first; then those of each kind, layer and tensor.
    """
    for (name, model), used in zip(result.metrics.items(), result.models, strict=True):
        steps = f"{model.inner_steps} inner {'step' if model.inner_steps == 1 else 'steps'}"
        screen.line(f"{name}@{used.checkpoint} ({used.algo}, update {used.outer_step}, {steps})")
        held = ("inner rates", "count", "mean", "std", "5 %", "95 %", "negative")
        screen.table(held, [(group, *_distribution(figures, screen)) for group, figures in _groups(model)])
        if model.all.step_norm is not None:
            seen = ("on real gradients", "ascent", "step norm", "cosine")
            screen.table(seen, [(group, *_signal(figures, screen)) for group, figures in _groups(model)])
        for names, what in ((model.left_out, "left out, without any signal"), (model.not_moved, "not moved")):
            if names:
                screen.line(f"{what}: {', '.join(names)}")
    episodes = [model.all.step_norm.n_episodes for model in result.metrics.values() if model.all.step_norm]
    if episodes and result.data is not None:
        screen.line(
            f"gradients of {episodes[0]} episodes of the {result.data.split} split of `{result.data.name}`; quantiles "
            "and histograms stand in the result file"
        )


def _groups(model: ModelRates) -> Iterator[tuple[str, RateFigures]]:
    yield "all", model.all
    for groups in (model.kinds, model.layers, model.tensors):
        yield from groups.items()


def _distribution(figures: RateFigures, screen: Screen) -> tuple[Cell, ...]:
    numbers = (figures.mean, figures.std, figures.quantiles["0.05"], figures.quantiles["0.95"])
    return (str(figures.count), *map(_number, numbers), screen.share(figures.share_negative))


def _signal(figures: RateFigures, screen: Screen) -> tuple[Cell, ...]:
    ascent = _mean(figures.ascent, screen.share)
    return (ascent, _mean(figures.step_norm, _number), _mean(figures.cosine, _number))


def _mean(mean: Mean | None, written: Callable[[float], Cell]) -> Cell:
    if mean is None or mean.ci95 is None:
        return None if mean is None else written(mean.mean)
    return f"{written(mean.mean)} ± {written(mean.ci95)}"


def _number(value: float) -> str:
    return f"{value:.3g}"
