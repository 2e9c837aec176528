"""The result of `nilr rates` on a screen."""

from collections.abc import Callable

from nilr.cli.console import Cell, Screen
from nilr.results.probe import ModelRates, RatesMetrics
from nilr.results.records import Mean
from nilr.results.result import Result
from nilr.words import counted, number

_GRAINS = {"all": "", "kinds": " by kind", "layers": " by layer", "tensors": " by tensor"}


def show(result: Result[RatesMetrics], screen: Screen) -> None:
    """Write two groups of tables for each model: the distribution of its rates, and their effect on gradients.

    Each has a table for all rates together, and one by kind, layer and tensor.
    """
    for (name, model), used in zip(result.metrics.items(), result.models, strict=True):
        steps = counted(model.inner_steps, "inner step")
        screen.line(f"{name}@{used.checkpoint} ({used.algo}, update {used.outer_step}, {steps})")
        for section, groups in model.sections.items():
            rows = []
            for group, found in groups.items():
                numbers = (found.mean, found.std, found.quantiles["0.05"], found.quantiles["0.95"])
                rows.append((group, str(found.count), *map(_number, numbers), screen.share(found.share_negative)))
            screen.table((f"inner rates{_GRAINS[section]}", "count", "mean", "std", "5 %", "95 %", "negative"), rows)
            screen.line("")
        for section, groups in model.sections.items() if model.all.step_norm is not None else ():
            effect = [
                (group, screen.mean(r.ascent), _mean(r.step_norm, _number), _mean(r.cosine, _number))
                for group, r in groups.items()
            ]
            screen.table((f"on real gradients{_GRAINS[section]}", "ascent", "step norm", "cosine"), effect)
            screen.line("")
        _gradients(model, screen)
        for names, what in ((model.left_out, "excluded, without gradient"), (model.not_moved, "not moved")):
            if names:
                screen.line(f"{what}: {', '.join(names)}")
    episodes = [model.all.step_norm.n_episodes for model in result.metrics.values() if model.all.step_norm]
    if episodes and result.data is not None:
        screen.line(
            f"gradients of {counted(episodes[0], 'episode')} of the {result.data.split} split of `{result.data.name}`; "
            "the result file also has quantiles and histograms"
        )


def _gradients(model: ModelRates, screen: Screen) -> None:
    """Write what episodes share, against the rates, and the curvature along the first step, as far as requested."""
    rows = [
        (
            group,
            *(screen.mean(of_sign.shared if of_sign else None) for of_sign in (found.positive, found.negative)),
            screen.delta(found.difference),
            _mean(found.rank_size, _number),
            _mean(found.rank_rate, _number),
        )
        for group, found in (model.consistency or {}).items()
    ]
    if rows:
        header = ("shared by episodes", "rates > 0", "rates < 0", "difference", "rank with |rate|", "rank with rate")
        screen.table(header, rows)
        screen.line("")
    if model.effective_step:
        step = model.effective_step
        numbers = (_mean(mean, _number) for mean in (step.slope, step.curvature, step.ratio))
        columns = ("first step", "slope", "curvature", "effective step", "overshoots")
        screen.table(columns, [("all", *numbers, screen.mean(step.overshoots))])
        screen.line("")


def _mean(mean: Mean | None, written: Callable[[float], Cell]) -> Cell:
    if mean is None or mean.ci95 is None:
        return None if mean is None else written(mean.mean)
    return f"{written(mean.mean)} ± {written(mean.ci95)}"


def _number(value: float) -> str:
    return number(value, 3)
