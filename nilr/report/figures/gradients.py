"""What episodes' gradients share, by sign of the rate and layer; and how far the first inner step goes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nilr.report.figures.figure import RATE_SIGNS, Drawing, Kind, Material, Table, hide_rows
from nilr.report.numbers import NOTHING, Estimate, accuracy, bounds, listed, percent, points
from nilr.report.reading import Source
from nilr.report.style import Axes, Figure, Frame, colour
from nilr.report.subjects import labelled
from nilr.results.probe import Consistency, EffectiveStep, ModelRates
from nilr.words import counted, number

Layers = Mapping[str, Consistency]

_FEW = 3  # models that a sentence names
_CONSISTENCY_CAUTION = (
    "The share of an element's squared gradient that is the square of its mean over episodes: 0 if episodes share "
    "nothing, 1 if the gradient is the same in all. Intervals are over episodes."
)
_STEP_CAUTION = (
    "Curvature over slope along the first inner step. In a quadratic model of the support loss, 1 ends at the minimum "
    "along the step, 2 gains nothing, and a negative value goes uphill or curves down. Intervals are over episodes."
)


def make_consistency(material: Material) -> Drawing | None:
    """Return the figure of all models whose gradients were compared over episodes."""
    found: dict[str, Layers] = _found(material.sources, lambda model: model.consistency)
    if not found:
        return None
    return Drawing(lambda frame: draw_consistency(found, frame), sentence(found), table(found), _CONSISTENCY_CAUTION)


def make_step(material: Material) -> Drawing | None:
    """Return the figure of all models whose first step was compared with the curvature."""
    found: dict[str, EffectiveStep] = _found(material.sources, lambda model: model.effective_step)
    if not found:
        return None
    return Drawing(lambda frame: draw_step(found, frame), step_sentence(found), step_table(found), _STEP_CAUTION)


CONSISTENCY_KIND = Kind(
    "consistency", "Rates and what tasks share", "`nilr rates MODEL --consistency`", make_consistency
)
STEP_KIND = Kind("effective-step", "The first inner step", "`nilr rates MODEL --effective-step`", make_step)


def _found(sources: Sequence[Source[Any]], part: Callable[[ModelRates], Any]) -> dict[str, Any]:
    models = {label: part(source.result.metrics[name]) for label, name, source in labelled(sources, "rates")}
    return {label: found for label, found in models.items() if found}


def sentence(found: Mapping[str, Layers]) -> str:
    """Describe whether gradients under negative rates are more consistent than those under positive ones."""
    differences = {label: layers["all"].difference for label, layers in found.items() if "all" in layers}
    both = {label: difference for label, difference in differences.items() if difference is not None}
    if not both:
        shares = [
            f"{percent(of_sign.shared.mean)} in {label}"
            for label, layers in found.items()
            if (of_sign := layers["all"].positive or layers["all"].negative)
        ]
        return f"All rates have one sign; episodes share {listed(shares)} of the squared gradient."
    if len(both) <= _FEW:
        parts = [f"{points(whole)} points in {label}{_largest(found[label])}" for label, whole in both.items()]
        return (
            "Share of the squared gradient that episodes have in common, negative minus positive rates: "
            f"{listed(parts)}."
        )
    signs = [_sign(difference) for difference in both.values()]
    return (
        f"Episodes share more of the gradient under negative rates than under positive ones in {signs.count(1)} of "
        f"{counted(len(both), 'model')} and less in {signs.count(-1)}; in {signs.count(0)} the interval includes zero."
    )


def _largest(layers: Layers) -> str:
    """Return the layer with the largest difference, in brackets."""
    differences = {name: one.difference for name, one in layers.items() if one.difference and name != "all"}
    if not differences:
        return ""
    name, most = max(differences.items(), key=lambda item: abs(item[1].mean))
    return f" ({points(most)} in {name}, the largest)"


def _sign(difference: Estimate) -> int:
    low, high = bounds(difference) or (-1, 1)
    return 1 if low > 0 else -1 if high < 0 else 0


def table(found: Mapping[str, Layers]) -> Table:
    """Return a row for each model and layer."""
    rows = [
        (
            label,
            layer,
            *(accuracy(of_sign.shared) if of_sign else NOTHING for of_sign in (one.positive, one.negative)),
            points(one.difference) if one.difference else NOTHING,
            *map(_plain, (one.rank_size, one.rank_rate)),
        )
        for label, layers in found.items()
        for layer, one in layers.items()
    ]
    header = ("model", "layer", "rates > 0", "rates < 0", "difference, points", "rank with |rate|", "rank with rate")
    return Table(header, rows)


def _plain(estimate: Estimate | None) -> str:
    if estimate is None:
        return NOTHING
    mean = number(estimate.mean, 3)
    return mean if estimate.ci95 is None else f"{mean} ± {number(estimate.ci95, 2)}"


def draw_consistency(found: Mapping[str, Layers], frame: Frame) -> Figure:
    """Draw a panel for each model: by layer, the share under positive and under negative rates."""
    from matplotlib.patches import Patch

    longest = max(map(len, found.values()))
    figure, panels, _ = frame.panels(len(found), 2, row=66 + 30 * longest, margin=34)
    for axes, (label, layers) in zip(panels, found.items(), strict=True):
        axes.set_title(frame.label(label))
        _panel(axes, layers)
    bars = [Patch(**look, label=f"{sign} rates") for sign, look in RATE_SIGNS.items()]
    figure.legend(handles=bars, loc="outside upper left", ncols=2)
    return figure


def _panel(axes: Axes, layers: Layers) -> None:
    hide_rows(axes)
    for y, one in enumerate(layers.values()):
        for sign, shift in (("positive", -0.19), ("negative", 0.19)):
            if of_sign := getattr(one, sign):
                axes.barh(y + shift, 100 * of_sign.shared.mean, height=0.34, **RATE_SIGNS[sign])
                _interval(axes, of_sign.shared, y + shift, 100)
    axes.axvline(0, color=colour("muted"), linewidth=1.2)
    _name_rows(axes, list(layers))
    axes.set_xlabel("shared by episodes, % of the squared gradient")


def step_sentence(found: Mapping[str, EffectiveStep]) -> str:
    """Compare the first steps with the minimum of the quadratic model."""
    ratios = [f"{_plain(step.ratio)} in {label}" for label, step in found.items() if step.ratio is not None]
    if not ratios:
        return "No first inner step changes the loss to first order."
    most = max(step.overshoots.mean for step in found.values())
    where = f"up to {percent(most)} of a model's episodes" if most else "no episode"
    return (
        f"The first inner step is {listed(ratios, _FEW)} (1 is the minimum along it, at 2 nothing is gained). It "
        f"overshoots in {where}."
    )


def step_table(found: Mapping[str, EffectiveStep]) -> Table:
    """Return a row for each model."""
    rows = [
        (label, *map(_plain, (step.slope, step.curvature, step.ratio)), percent(step.overshoots.mean))
        for label, step in found.items()
    ]
    return Table(("model", "slope", "curvature", "effective step", "overshoots"), rows)


def draw_step(found: Mapping[str, EffectiveStep], frame: Frame) -> Figure:
    """Draw each model's effective step, with lines where the quadratic model has its minimum and gains nothing."""
    figure = frame.figure(70 + 34 * len(found))
    axes = figure.subplots()
    hide_rows(axes)
    for y, step in enumerate(found.values()):
        if step.ratio is not None:
            _interval(axes, step.ratio, y)
            axes.plot(step.ratio.mean, y, marker="D", color=colour("blue"), linestyle="none")
    for x, style in ((0, "-"), (1, "--"), (2, ":")):
        axes.axvline(x, color=colour("muted"), linewidth=1.2, linestyle=style, zorder=0)
    _name_rows(axes, [frame.label(label) for label in found])
    axes.set_xlabel("effective first step: 1 minimum, 2 no gain")
    return figure


def _interval(axes: Axes, estimate: Estimate, y: float, scale: float = 1) -> None:
    if interval := bounds(estimate):
        axes.plot([scale * bound for bound in interval], (y, y), color=colour("ink"), linewidth=1.5)


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
