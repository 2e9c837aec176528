"""Histograms of the learned rates, layer by layer, with the negative part marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nilr.report.figures.figure import Drawing, Kind, Material, Table
from nilr.report.reading import Source
from nilr.report.style import Frame, colour
from nilr.report.subjects import labelled, reading
from nilr.report.words import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Layer:
    """The rates of one layer of one model.

    Attributes:
        label: the model's name.
        name: the layer's.
        count: rates.
        mean: of them.
        share_negative: as a fraction.
        edges: of the histogram's bins, one more than counts.
        counts: rates in each bin.
    """

    label: str
    name: str
    count: int
    mean: float
    share_negative: float
    edges: Sequence[float]
    counts: Sequence[float]


_CAUTION = "Hatched bars, left of zero, are negative rates."
_NEGATIVE: dict[str, Any] = {"facecolor": colour("vermillion"), "edgecolor": colour("paper"), "hatch": "////"}


def make(material: Material) -> Drawing | None:
    """Return the histograms of all models whose rates were measured."""
    found = layers(material.sources)
    if not found:
        return None
    return Drawing(lambda frame: draw(found, frame), sentence(found), table(found), _CAUTION)


KIND = Kind("rates", "The learned rates, layer by layer", "the result of `nilr rates MODEL --json rates.json`", make)


def layers(sources: Sequence[Source]) -> list[Layer]:
    """Return every layer of every model."""
    found = []
    for label, name, source in labelled(sources, "rates"):
        with reading(source):
            found += [_layer(label, *named) for named in source.result["metrics"][name]["layers"].items()]
    return [layer for layer in found if layer.count]


def _layer(label: str, name: str, raw: Mapping[str, Any]) -> Layer:
    edges, counts = raw["histogram"]["edges"], raw["histogram"]["counts"]
    if len(edges) != len(counts) + 1:
        raise ValueError(f"{len(counts)} bins need {len(counts) + 1} edges, not {len(edges)}")
    return Layer(label, name, raw["count"], raw["mean"], raw["share_negative"], edges, counts)


def sentence(found: Sequence[Layer]) -> str:
    """Say how many rates are negative, model by model, and where most of them are."""
    parts = []
    for label in dict.fromkeys(layer.label for layer in found):
        own = [layer for layer in found if layer.label == label]
        share = sum(layer.share_negative * layer.count for layer in own) / sum(layer.count for layer in own)
        most = max(own, key=lambda layer: layer.share_negative)
        where = f", most of all in {most.name} ({percent(most.share_negative)})" if most.share_negative > 0 else ""
        parts.append(f"in {label} {percent(share)} of the rates are negative{where}")
    said = "; ".join(parts)
    return f"{said[0].upper()}{said[1:]}."


def table(found: Sequence[Layer]) -> Table:
    """Return the numbers."""
    return Table(
        ("model", "layer", "rates", "mean", "negative"),
        [(one.label, one.name, f"{one.count:,}", f"{one.mean:.4g}", percent(one.share_negative, 2)) for one in found],
    )


def draw(found: Sequence[Layer], frame: Frame) -> Figure:
    """Draw a histogram for each layer; models beside one another where there is room."""
    labels = list(dict.fromkeys(layer.label for layer in found))
    names = list(dict.fromkeys(layer.name for layer in found))
    columns = 1 if frame.narrow else min(len(labels), 3)
    blocks = [labels[i : i + columns] for i in range(0, len(labels), columns)]
    figure = frame.figure(24 + len(blocks) * (len(names) * 92 + 30))
    grid = figure.subplots(len(blocks) * len(names), columns, squeeze=False)
    by_place = {(layer.label, layer.name): layer for layer in found}
    for b, block in enumerate(blocks):
        for x in range(columns):
            for y, name in enumerate(names):
                axes = grid[b * len(names) + y, x]
                layer = by_place.get((block[x], name)) if x < len(block) else None
                _histogram(axes, layer, frame) if layer else axes.set_visible(False)
                if layer and y == 0:
                    axes.annotate(
                        frame.label(layer.label), (0, 1), (0, 24), "axes fraction", "offset points", weight="bold"
                    )
    return figure


def _histogram(axes: Any, layer: Layer, frame: Frame) -> None:  # noqa: ANN401 - Axes
    from matplotlib.ticker import MaxNLocator

    # A bin on both sides of zero is cut there.
    for sign, look in ((-1, _NEGATIVE), (1, {"facecolor": colour("sky")})):
        edges = [edge if sign * edge > 0 else 0.0 for edge in layer.edges]
        axes.stairs(layer.counts, edges, fill=True, linewidth=0, **look)
    axes.axvline(0, color=colour("ink"), linewidth=1.2)
    axes.set_title(f"{layer.name}: {percent(layer.share_negative)} negative", fontsize=12)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4 if frame.narrow else 6))
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")
