"""`similarity`: how similar the layers' outputs for the query images are before and after adaptation."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from nilr.config.base import PROTOCOLS
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
    """Draw a row of maps for each model, a column for each protocol; in a map, layers are columns and measures rows."""
    labels = list(dict.fromkeys(one.label for one in found))
    protocols = [protocol for protocol in PROTOCOLS if any(one.protocol == protocol for one in found)]
    columns = 1 if frame.narrow else len(protocols)
    places = [(label, protocol) for label in labels for protocol in protocols]
    titles = [frame.title(f"{label}, {protocol}", columns) for label, protocol in places]
    height = 40 + 17 * max(1 + title.count("\n") for title in titles) + 32 * max(len(one.measures) for one in found)
    figure, panels, _ = frame.panels(len(places), columns, row=height)
    by_place = {(one.label, one.protocol): one for one in found}
    names = list(dict.fromkeys(name for one in found for name in one.measures))
    for i, (axes, place, title) in enumerate(zip(panels, places, titles, strict=True)):
        one = by_place.get(place)
        if one is None:
            axes.set_visible(False)
            continue
        axes.set_title(title)
        first = i % columns == 0 or (place[0], protocols[0]) not in by_place
        _map(axes, one, names, frame, named=first)
    return figure


def _map(axes: Axes, one: Map, names: Sequence[str], frame: Frame, *, named: bool) -> None:
    layers = list(one.layers)
    values = [
        [one.layers[layer][name].mean if name in one.layers[layer] else float("nan") for layer in layers]
        for name in names
    ]
    axes.grid(visible=False)
    axes.pcolormesh(values, cmap="cividis", vmin=0, vmax=1, edgecolors="none", linewidth=0)
    size = 11 * frame.scale if len(layers) < 6 else 9 * frame.scale
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            if value == value:
                # not quite black and white: cells keep their colours in a dark page, and so do their numbers
                ink = "#000001" if value > 0.45 else "#fffffe"
                axes.text(x + 0.5, y + 0.5, f"{value:z.2f}", ha="center", va="center", color=ink, fontsize=size)
    axes.set_xticks([x + 0.5 for x in range(len(layers))], [frame.label(name, 12) for name in layers],
                    rotation=45 if len(layers) > 3 else 0)  # fmt: skip
    axes.set_yticks(
        [y + 0.5 for y in range(len(names))], [frame.label(name, 13) for name in names] if named else [""] * len(names)
    )
    axes.invert_yaxis()
    for spine in axes.spines.values():
        spine.set_visible(False)


_CAUTION = (
    "0 is dark, 1 is light. CKA, SVCCA and cosine compare a layer's outputs before and after adaptation; the cosines "
    "within and between classes compare images."
)
KIND = Kind("similarity", "Similarity maps", "`nilr probe MODEL --similarity`", maps,
            draw, sentence, table, _CAUTION)  # fmt: skip
SECTION = Section("similarity", "similarity", _plan, _build, _TABLE, KIND)
