"""Similarity maps: how far adaptation leaves the features alike, layer by layer and measure by measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nilr.report.figures.figure import Drawing, Kind, Material, Table
from nilr.report.style import Frame
from nilr.report.subjects import Measure, Subject
from nilr.report.words import listed, signed

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Map:
    """One model's measures for one task, by layer."""

    label: str
    task: str
    layers: Mapping[str, Mapping[str, Measure]]

    @property
    def measures(self) -> list[str]:
        """The names of the measures, each once, in order."""
        return list(dict.fromkeys(name for measures in self.layers.values() for name in measures))


def make(material: Material) -> Drawing | None:
    """Return the maps of all models that have some."""
    found = maps(material.subjects)
    if not found:
        return None
    return Drawing(lambda frame: draw(found, frame), sentence(found), table(found))


KIND = Kind("similarity", "Similarity maps", "`nilr probe MODEL --similarity`", make)


def maps(subjects: Sequence[Subject]) -> list[Map]:
    """Return the maps, model by model and task by task."""
    found = [Map(subject.label, task, layers) for subject in subjects for task, layers in subject.similarity.items()]
    return [one for one in found if one.measures]


def sentence(found: Sequence[Map]) -> str:
    """Say for each map where its first measure is least."""
    parts = []
    for one in found:
        name = one.measures[0]
        known = {layer: measures[name].mean for layer, measures in one.layers.items() if name in measures}
        layer, least = min(known.items(), key=lambda item: item[1])
        parts.append(f"{name} of {one.label} ({one.task}) is least in {layer} ({signed(least, plus=False)})")
    return f"{listed(parts)}."


def table(found: Sequence[Map]) -> Table:
    """Return the numbers."""
    rows = [
        (one.label, one.task, layer, name, _shown(measure))
        for one in found
        for layer, measures in one.layers.items()
        for name, measure in measures.items()
    ]
    return Table(("model", "task", "layer", "measure", "mean"), rows)


def _shown(measure: Measure) -> str:
    mean = signed(measure.mean, 4, plus=False)
    if measure.low is None or measure.high is None:
        return mean
    return f"{mean} ± {(measure.high - measure.low) / 2:.4f}"


def draw(found: Sequence[Map], frame: Frame) -> Figure:
    """Draw a map for each model and task: measures downwards, layers to the right, from 0 dark to 1 light."""
    columns = 1 if frame.narrow or len(found) == 1 else 2
    deep = -(-len(found) // columns)
    figure = frame.figure(deep * (58 + 34 * max(len(one.measures) for one in found)))
    grid = figure.subplots(deep, columns, squeeze=False)
    for axes, one in zip(grid.flat, found, strict=False):
        _map(axes, one, frame)
    for axes in grid.flat[len(found) :]:
        axes.set_visible(False)
    return figure


def _map(axes: Any, one: Map, frame: Frame) -> None:  # noqa: ANN401 - Axes
    names, layers = one.measures, list(one.layers)
    values = [
        [one.layers[layer][name].mean if name in one.layers[layer] else float("nan") for layer in layers]
        for name in names
    ]
    axes.grid(visible=False)
    axes.pcolormesh(values, cmap="cividis", vmin=0, vmax=1, edgecolors="none", linewidth=0)
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            if value == value:
                # Cells keep their colours on every ground, and so do the numbers in them.
                ink = "#000001" if value > 0.45 else "#fffffe"
                axes.text(x + 0.5, y + 0.5, signed(value, plus=False), ha="center", va="center", color=ink)
    axes.set_xticks([x + 0.5 for x in range(len(layers))], layers)
    axes.set_yticks([y + 0.5 for y in range(len(names))], [frame.label(name) for name in names])
    axes.invert_yaxis()
    axes.set_title(f"{frame.label(one.label)}, {one.task}")
    for spine in axes.spines.values():
        spine.set_visible(False)
