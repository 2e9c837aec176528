"""`similarity`: how similar the layers' outputs for the query images are before and after adaptation."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from nilr.probes.conditions import META_INIT, Condition, Quantity
from nilr.probes.readings import Similarity
from nilr.probes.similarity import MEASURES, WITHIN
from nilr.report.figures.figure import Kind, Material, Table
from nilr.report.numbers import listed
from nilr.report.style import Axes, Figure, Frame
from nilr.results.probe import ModelProbe
from nilr.results.records import Mean
from nilr.sections.section import Cell, Format, Request, Section, table_of
from nilr.sections.values import Values, mean_where_defined

Maps = dict[str, dict[str, Quantity]]
"""Quantities by layer and measure."""

_HEADER = {
    "cka": "CKA",
    "svcca": "SVCCA",
    "cosine": "cosine",
    "within-class-cosine": "within class",
    "between-class-cosine": "between",
}


def _plan(request: Request) -> dict[str, Maps]:
    """Return by protocol, layer and measure."""

    def measures(condition: Condition, layer: str) -> dict[str, Quantity]:
        names = WITHIN if condition == META_INIT else MEASURES
        return {name: Quantity(condition, Similarity(layer, name)) for name in names}

    return {
        protocol: {layer: measures(condition, layer) for layer in request.layers}
        for protocol, condition in request.conditions.items()
    }


def _build(maps: Maps, values: Values) -> dict[str, dict[str, Mean | None]]:
    return {
        layer: {name: mean_where_defined(values[quantity]) for name, quantity in measures.items()}
        for layer, measures in maps.items()
    }


def _cells(model: ModelProbe, _text: Format) -> Iterator[Sequence[Cell]]:
    for layer in next(iter(model.similarity.values()), {}):
        for protocol, maps in model.similarity.items():
            means = [maps[layer].get(measure) for measure in _HEADER]
            yield layer, protocol, *(None if mean is None else f"{mean.mean:z.3f}" for mean in means)


_TABLE = table_of(("layer", "protocol", *_HEADER.values()), _cells, names=3)


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


def maps(material: Material) -> list[Map]:
    """Return the maps, by model and protocol."""
    found = []
    for subject in material.subjects:
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


KIND = Kind("similarity", "Similarity maps", "`nilr probe MODEL --similarity`", maps, draw, sentence, table)
SECTION = Section("similarity", "similarity", _plan, _build, _TABLE, KIND)
