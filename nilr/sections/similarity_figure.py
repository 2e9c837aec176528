"""Maps of how similar features are before and after adaptation, by layer and measure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nilr.report.figures.figure import Drawing, Kind, Material, Table
from nilr.report.numbers import listed
from nilr.report.style import Axes, Figure, Frame
from nilr.report.subjects import Subject
from nilr.results.records import Mean


@dataclass(frozen=True)
class Map:
    """One model's similarities under one protocol: by layer and measure, where defined."""

    label: str
    protocol: str
    layers: Mapping[str, Mapping[str, Mean]]

    @property
    def measures(self) -> list[str]:
        """The names of the measures, in order."""
        return list(dict.fromkeys(name for measures in self.layers.values() for name in measures))


def make(material: Material) -> Drawing | None:
    """Return the maps of all models that have some."""
    found = maps(material.subjects)
    if not found:
        return None
    return Drawing(lambda frame: draw(found, frame), sentence(found), table(found))


KIND = Kind("similarity", "Similarity maps", "`nilr probe MODEL --similarity`", make)


def maps(subjects: Sequence[Subject]) -> list[Map]:
    """Return the maps, by model and protocol."""
    found = []
    for subject in subjects:
        for protocol, layers in subject.probe.similarity.items():
            defined = {
                layer: {name: mean for name, mean in measures.items() if mean is not None}
                for layer, measures in layers.items()
            }
            found.append(Map(subject.label, protocol, defined))
    return [one for one in found if one.measures]


def sentence(found: Sequence[Map]) -> str:
    """Return the layer with the lowest value of each map's first measure, if layers differ."""
    parts = []
    for one in found:
        name = one.measures[0]
        means = {layer: measures[name].mean for layer, measures in one.layers.items() if name in measures}
        layer, lowest = min(means.items(), key=lambda item: item[1])
        values = {f"{mean:z.2f}" for mean in means.values()}
        where = f"lowest in {layer} ({lowest:z.2f})"
        if len(values) == 1:
            where = f"{lowest:z.2f} in {listed(list(means))}"
        parts.append(f"{name} of {one.label} ({one.protocol}) is {where}")
    return f"{listed(parts)}."


def table(found: Sequence[Map]) -> Table:
    """Return a row for each model, protocol, layer and measure."""
    rows = [
        (one.label, one.protocol, layer, name, _cell(mean))
        for one in found
        for layer, measures in one.layers.items()
        for name, mean in measures.items()
    ]
    return Table(("model", "protocol", "layer", "measure", "mean"), rows)


def _cell(mean: Mean) -> str:
    text = f"{mean.mean:z.4f}"
    return text if mean.ci95 is None else f"{text} ± {mean.ci95:.4f}"


def draw(found: Sequence[Map], frame: Frame) -> Figure:
    """Draw a map for each model and protocol: a row for each measure, a column for each layer, 0 dark and 1 light."""
    height = 58 + 34 * max(len(one.measures) for one in found)
    figure, panels, _ = frame.panels(len(found), 2, row=height)
    for axes, one in zip(panels, found, strict=True):
        _map(axes, one, frame)
    return figure


def _map(axes: Axes, one: Map, frame: Frame) -> None:
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
                # not quite black and white: cells keep their colours in a dark page, and so do their numbers
                ink = "#000001" if value > 0.45 else "#fffffe"
                axes.text(x + 0.5, y + 0.5, f"{value:z.2f}", ha="center", va="center", color=ink)
    axes.set_xticks([x + 0.5 for x in range(len(layers))], layers)
    axes.set_yticks([y + 0.5 for y in range(len(names))], [frame.label(name) for name in names])
    axes.invert_yaxis()
    axes.set_title(f"{frame.label(one.label)}, {one.protocol}")
    for spine in axes.spines.values():
        spine.set_visible(False)
