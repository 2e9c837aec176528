"""Histograms of the inner rates, layer by layer."""

from collections.abc import Sequence
from typing import NamedTuple

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
    is_first: bool  # of the models that differ only in their seed


_CAUTION = (
    "Hatched bars, left of zero, are negative rates; all panels have the same horizontal axis. Of models that differ "
    "only in their seed, the first one is drawn."
)


def layers(material: Material) -> list[Layer]:
    """Return every layer with rates, of every model."""
    found, drawn = [], set()
    for label, name, source in labelled(material.sources, "rates"):
        model = source.result.models[list(source.result.metrics).index(name)] if source.result.models else None
        recipe = label if model is None or model.recipe is None or model.seed is None else model.recipe
        layers = [(layer, rates) for layer, rates in source.result.metrics[name].layers.items() if rates.count]
        found += [Layer(label, layer, rates, recipe not in drawn) for layer, rates in layers]
        drawn.add(recipe)
    return found


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
        for label, name, rates, _ in found
    ]
    return Table(("model", "layer", "rates", "mean", "negative"), rows)


def draw(found: Sequence[Layer], frame: Frame) -> Figure:
    """Draw a histogram for each layer, with up to three models side by side; of several seeds the first one."""
    shown = [layer for layer in found if layer.is_first]
    labels = list(dict.fromkeys(layer.label for layer in shown))
    names = list(dict.fromkeys(layer.name for layer in shown))
    columns = 1 if frame.narrow else min(len(labels), 3)
    blocks = [labels[i : i + columns] for i in range(0, len(labels), columns)]
    titles = {label: frame.title(label, columns) for label in labels}
    lines = max(1 + title.count("\n") for title in titles.values())
    figure = frame.figure(20 + len(blocks) * (len(names) * 74 + 26 + 17 * lines))
    grid = figure.subplots(len(blocks) * len(names), columns, squeeze=False, sharex=True)
    by_place = {(layer.label, layer.name): layer.rates for layer in shown}
    for b, block in enumerate(blocks):
        for x in range(columns):
            for y, name in enumerate(names):
                axes = grid[b * len(names) + y, x]
                rates = by_place.get((block[x], name)) if x < len(block) else None
                if rates is None:
                    axes.set_visible(False)
                    continue
                _histogram(axes, name, rates, f"{titles[block[x]]}\n" if y == 0 else "")
                if y == len(names) - 1:
                    axes.tick_params(labelbottom=True)
                    axes.set_xlabel("rate")
    return figure


def _histogram(axes: Axes, name: str, rates: RateFigures, model: str) -> None:
    from matplotlib.ticker import MaxNLocator

    title = f"{name}: {percent(rates.share_negative)} negative"
    fixed = rates.std <= 1e-6 * abs(rates.mean)  # one value, up to rounding
    if fixed:
        axes.plot(rates.mean, 0.5, marker="D", color=colour("vermillion" if rates.mean < 0 else "sky"))
        axes.set_ylim(0, 1)
        title = f"{name}: fixed at {number(rates.mean)}"
    # a bin around zero is divided there
    for sign, look in () if fixed else ((-1, RATE_SIGNS["negative"]), (1, RATE_SIGNS["positive"])):
        edges = [edge if sign * edge > 0 else 0.0 for edge in rates.histogram.edges]
        axes.stairs(rates.histogram.counts, edges, fill=True, linewidth=0, **look)
    axes.axvline(0, color=colour("ink"), linewidth=1.2)
    axes.set_title(f"{model}{title}")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")


KIND = Kind("rates", "The inner rates, layer by layer", "the result of `nilr rates MODEL`",
            layers, draw, sentence, table, _CAUTION)  # fmt: skip
