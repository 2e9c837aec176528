"""What episodes' gradients share, by sign of the rate and layer; and how far the first inner step goes."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from nilr.report.figures.figure import (
    Kind,
    Material,
    Table,
    draw_estimate,
    draw_signs,
    name_rows,
    sign_legend,
)
from nilr.report.numbers import NOTHING, accuracy, interval_sign, listed, percent, plain, points
from nilr.report.style import Axes, Figure, Frame, colour
from nilr.report.subjects import labelled
from nilr.results.probe import Consistency, EffectiveStep
from nilr.words import counted

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


def _found(field: str, material: Material) -> dict[str, Any]:
    models = {label: source.result.metrics[name] for label, name, source in labelled(material.sources, "rates")}
    return {label: found for label, model in models.items() if (found := getattr(model, field))}


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
    signs = [interval_sign(difference) for difference in both.values()]
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


def table(found: Mapping[str, Layers]) -> Table:
    """Return a row for each model and layer."""
    rows = [
        (
            label,
            layer,
            *(accuracy(of_sign.shared) if of_sign else NOTHING for of_sign in (one.positive, one.negative)),
            points(one.difference) if one.difference else NOTHING,
            *map(plain, (one.rank_size, one.rank_rate)),
        )
        for label, layers in found.items()
        for layer, one in layers.items()
    ]
    header = ("model", "layer", "rates > 0", "rates < 0", "difference, points", "rank with |rate|", "rank with rate")
    return Table(header, rows)


def draw_consistency(found: Mapping[str, Layers], frame: Frame) -> Figure:
    """Draw a panel for each model: by layer, the share under positive and under negative rates."""
    longest = max(map(len, found.values()))
    figure, panels, _ = frame.panels(len(found), 2, row=66 + 30 * longest, margin=34)
    for axes, (label, layers) in zip(panels, found.items(), strict=True):
        axes.set_title(frame.title(label, 2))
        _panel(axes, layers)
    sign_legend(figure)
    return figure


def _panel(axes: Axes, layers: Layers) -> None:
    for y, one in enumerate(layers.values()):
        signs = {"positive": one.positive, "negative": one.negative}
        draw_signs(axes, {sign: found.shared for sign, found in signs.items() if found}, y, scale=100)
    axes.axvline(0, color=colour("muted"), linewidth=1.2)
    name_rows(axes, list(layers))
    axes.set_xlabel("shared by episodes, % of the squared gradient")


def step_sentence(found: Mapping[str, EffectiveStep]) -> str:
    """Compare the first steps with the minimum of the quadratic model."""
    ratios = [f"{plain(step.ratio)} in {label}" for label, step in found.items() if step.ratio is not None]
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
        (label, *map(plain, (step.slope, step.curvature, step.ratio)), percent(step.overshoots.mean))
        for label, step in found.items()
    ]
    return Table(("model", "slope", "curvature", "effective step", "overshoots"), rows)


def draw_step(found: Mapping[str, EffectiveStep], frame: Frame) -> Figure:
    """Draw each model's effective step, with lines where the quadratic model has its minimum and gains nothing."""
    labels = [frame.label(label) for label in found]
    figure = frame.figure(70 + frame.rows(labels, 34))
    axes = figure.subplots()
    for y, step in enumerate(found.values()):
        if step.ratio is not None:
            draw_estimate(axes, step.ratio, y, ("blue", "D"), scale=1)
    for x, style in ((0, "-"), (1, "--"), (2, ":")):
        axes.axvline(x, color=colour("muted"), linewidth=1.2, linestyle=style, zorder=0)
    name_rows(axes, labels)
    axes.set_xlabel("effective first step: 1 minimum, 2 no gain")
    return figure


CONSISTENCY_KIND = Kind("consistency", "Rates and what tasks share", "`nilr rates MODEL --consistency`",
                        partial(_found, "consistency"),
                        draw_consistency, sentence, table, _CONSISTENCY_CAUTION)  # fmt: skip
STEP_KIND = Kind("effective-step", "The first inner step", "`nilr rates MODEL --effective-step`",
                 partial(_found, "effective_step"),
                 draw_step, step_sentence, step_table, _STEP_CAUTION)  # fmt: skip
