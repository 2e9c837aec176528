"""The result of `nilr rates` on a screen."""

from collections.abc import Callable

from nilr.cli.console import Cell, Screen
from nilr.results.probe import RateFigures, RatesMetrics
from nilr.results.records import Mean
from nilr.results.result import Result
from nilr.words import counted, number


def show(result: Result[RatesMetrics], screen: Screen) -> None:
    """Write two tables for each model: the distribution of its rates, and their effect on gradients.

    Each has all rates first, then those of each kind, layer and tensor.
    """
    for (name, model), used in zip(result.metrics.items(), result.models, strict=True):
        steps = counted(model.inner_steps, "inner step")
        screen.line(f"{name}@{used.checkpoint} ({used.algo}, update {used.outer_step}, {steps})")
        groups: list[tuple[str, Cell, RateFigures]] = [("all", None, model.all)]
        for grain, figures in (("kind", model.kinds), ("layer", model.layers), ("tensor", model.tensors)):
            groups += [(grain, group, found) for group, found in figures.items()]
        distribution = []
        for *group, found in groups:
            numbers = (found.mean, found.std, found.quantiles["0.05"], found.quantiles["0.95"])
            distribution.append((*group, str(found.count), *map(_number, numbers), screen.share(found.share_negative)))
        screen.table(("grain", "inner rates", "count", "mean", "std", "5 %", "95 %", "negative"), distribution, names=2)
        if model.all.step_norm is not None:
            effect = [
                (*group, _mean(r.ascent, screen.share), _mean(r.step_norm, _number), _mean(r.cosine, _number))
                for *group, r in groups
            ]
            screen.table(("grain", "on real gradients", "ascent", "step norm", "cosine"), effect, names=2)
        for names, what in ((model.left_out, "excluded, without gradient"), (model.not_moved, "not moved")):
            if names:
                screen.line(f"{what}: {', '.join(names)}")
    episodes = [model.all.step_norm.n_episodes for model in result.metrics.values() if model.all.step_norm]
    if episodes and result.data is not None:
        screen.line(
            f"gradients of {counted(episodes[0], 'episode')} of the {result.data.split} split of `{result.data.name}`; "
            "the result file also has quantiles and histograms"
        )


def _mean(mean: Mean | None, written: Callable[[float], Cell]) -> Cell:
    if mean is None or mean.ci95 is None:
        return None if mean is None else written(mean.mean)
    return f"{written(mean.mean)} ± {written(mean.ci95)}"


def _number(value: float) -> str:
    return number(value, 3)
