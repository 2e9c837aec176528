"""Histograms of the inner rates, layer by layer."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from nilr.report.figures.figure import RATE_SIGNS, Kind, Material, Table
from nilr.report.numbers import percent
from nilr.report.style import Axes, Figure, Frame, colour
from nilr.report.subjects import labelled
from nilr.results.probe import RateFigures
from nilr.words import number


class Layer(NamedTuple):
    """The rates of one layer of one model."""

    label: str
    name: str
    rates: RateFigures


_CAUTION = "Hatched bars, left of zero, are negative rates."


def layers(material: Material) -> list[Layer]:
    """Return every layer with rates, of every model."""
    return [
        Layer(label, layer, rates)
        for label, name, source in labelled(material.sources, "rates")
        for layer, rates in source.result.metrics[name].layers.items()
        if rates.count
    ]


def sentence(found: Sequence[Layer]) -> str:
    """Return the share of negative rates of each model, and the layer with the largest share."""
    if not any(layer.rates.share_negative for layer in found):
        return "No rate is negative."
    parts = []
    for label in dict.fromkeys(layer.label for layer in found):
        layers = {layer.name: layer.rates for layer in found if layer.label == label}
        share = sum(r.share_negative * r.count for r in layers.values()) / sum(r.count for r in layers.values())
        name, most = max(layers.items(), key=lambda item: item[1].share_negative)
        where = f" ({percent(most.share_negative)} in {name}, the largest share)" if most.share_negative > 0 else ""
        parts.append(f"{percent(share)} in {label}{where}")
    return f"Negative rates: {'; '.join(parts)}."


def table(found: Sequence[Layer]) -> Table:
    """Return a row for each model and layer."""
    rows = [
        (label, name, f"{rates.count:,}", number(rates.mean), percent(rates.share_negative, 2))
        for label, name, rates in found
    ]
    return Table(("model", "layer", "rates", "mean", "negative"), rows)


def draw(found: Sequence[Layer], frame: Frame) -> Figure:
    """Draw a histogram for each layer, with up to three models side by side."""
    labels = list(dict.fromkeys(layer.label for layer in found))
    names = list(dict.fromkeys(layer.name for layer in found))
    columns = 1 if frame.narrow else min(len(labels), 3)
    blocks = [labels[i : i + columns] for i in range(0, len(labels), columns)]
    figure = frame.figure(24 + len(blocks) * (len(names) * 92 + 30))
    grid = figure.subplots(len(blocks) * len(names), columns, squeeze=False)
    by_place = {(layer.label, layer.name): layer.rates for layer in found}
    for b, block in enumerate(blocks):
        for x in range(columns):
            for y, name in enumerate(names):
                axes = grid[b * len(names) + y, x]
                rates = by_place.get((block[x], name)) if x < len(block) else None
                if rates is None:
                    axes.set_visible(False)
                    continue
                _histogram(axes, name, rates, frame)
                if y == 0:
                    place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
                    axes.annotate(frame.label(block[x]), (0, 1), (0, 24), weight="bold", **place)
    return figure


def _histogram(axes: Axes, name: str, rates: RateFigures, frame: Frame) -> None:
    from matplotlib.ticker import MaxNLocator

    title = f"{name}: {percent(rates.share_negative)} negative"
    fixed = rates.std <= 1e-6 * abs(rates.mean)  # one value, up to rounding
    if fixed:
        axes.plot(rates.mean, 0.5, marker="D", markersize=8, color=colour("vermillion" if rates.mean < 0 else "sky"))
        axes.set(ylim=(0, 1), xlim=(min(0.0, 2 * rates.mean), max(0.0, 2 * rates.mean, float(not rates.mean))))
        title = f"{name}: fixed at {number(rates.mean)}"
    # a bin around zero is divided there
    for sign, look in () if fixed else ((-1, RATE_SIGNS["negative"]), (1, RATE_SIGNS["positive"])):
        edges = [edge if sign * edge > 0 else 0.0 for edge in rates.histogram.edges]
        axes.stairs(rates.histogram.counts, edges, fill=True, linewidth=0, **look)
    axes.axvline(0, color=colour("ink"), linewidth=1.2)
    axes.set_title(title, fontsize=12)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4 if frame.narrow else 6))
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")


KIND = Kind("rates", "The inner rates, layer by layer", "the result of `nilr rates MODEL`",
            layers, draw, sentence, table, _CAUTION)  # fmt: skip
