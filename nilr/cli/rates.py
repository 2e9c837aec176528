"""What the inner rates look like on a screen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nilr.cli.screen import Cell, Screen
from nilr.cli.words import number
from nilr.results import Mean, ModelRates, RateFigures, RatesMetrics, Result


def show_rates(result: Result[RatesMetrics], screen: Screen) -> None:
    """Write a table per model, all rates first, then by kind, by layer and by tensor; and what is not in it."""
    header = ("count", "mean", "std", "5 %", "median", "95 %", "negative", "ascent", "step norm", "cosine")
    for (name, model), used in zip(result.metrics.items(), result.models, strict=True):
        steps = f"{model.inner_steps} inner {'step' if model.inner_steps == 1 else 'steps'}"
        screen.line(f"{name}@{used.checkpoint} ({used.algo}, update {used.outer_step}, {steps})")
        screen.table(("inner rates", *header), _rows(model, screen))
        for names, what in ((model.left_out, "left out, without any signal"), (model.not_moved, "not moved")):
            if names:
                screen.line(f"{what}: {', '.join(names)}")
    seen = [model.all for model in result.metrics.values()]
    episodes = {figures.step_norm.n_episodes for figures in seen if figures.step_norm is not None}
    if episodes and result.data is not None:
        screen.line(
            f"ascent, step norm and cosine: means over {max(episodes)} episodes of the {result.data.split} split of "
            f"`{result.data.name}`; their intervals, and histograms of the rates, stand in the result file"
        )


def _rows(model: ModelRates, screen: Screen) -> Iterator[tuple[Cell, ...]]:
    groups: tuple[Mapping[str, RateFigures], ...] = ({"all": model.all}, model.kinds, model.layers, model.tensors)
    for group in groups:
        for name, figures in group.items():
            levels = (number(figures.quantiles[level]) for level in ("0.05", "0.5", "0.95"))
            spread = (number(figures.mean), number(figures.std), *levels)
            seen = (_mean(figures.step_norm), _mean(figures.cosine))
            shares = (screen.share(figures.share_negative), screen.share(_value(figures.ascent)))
            yield (name, str(figures.count), *spread, *shares, *seen)


def _value(mean: Mean | None) -> float | None:
    return None if mean is None else mean.mean


def _mean(mean: Mean | None) -> Cell:
    return None if mean is None else number(mean.mean)
