"""Paired differences to meta-init along an axis: layers of the body, inner steps, or the fraction of shared classes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from nilr.config.base import ADAPTED, PROTOCOLS
from nilr.report.figures.figure import Kind, Material, Table, protocol_legend
from nilr.report.figures.seeds import by_recipe, combined
from nilr.report.numbers import Estimate, accuracy, bounds, is_unchanged, listed, percent, points
from nilr.report.style import PROTOCOL_STYLE, Axes, Figure, Frame, colour
from nilr.report.subjects import by_protocol
from nilr.results.probe import ModelProbe, ProtocolMetrics, Row
from nilr.words import counted


@dataclass(frozen=True)
class Point:
    """An accuracy and its paired difference to meta-init: of one model, or over seeds."""

    accuracy: Estimate
    delta: Estimate | None = None


Curves = Mapping[str, Mapping[str, Point]]
"""By position on the axis, then by protocol."""

_CAUTION = (
    "Above: accuracy. Below: its paired difference to meta-init on the same episodes, with the 95 % interval of that "
    "difference: over episodes for one model, over seeds for several."
)


@dataclass(frozen=True)
class Along:
    """An axis."""

    name: str  # its label
    at: str  # the words before a position in a sentence
    rows: Callable[[ModelProbe], Mapping[str, Row]]  # returns a model's rows by position
    numeric: bool  # whether positions are numbers


LAYERS = Along("layer", "after", lambda probe: probe.layers, numeric=False)
STEPS = Along("inner steps", "after step", lambda probe: probe.steps, numeric=True)
SHARED = Along("shared classes, fraction", "at a fraction of", lambda probe: probe.shared_classes, numeric=True)


def find(along: Along, material: Material) -> dict[str, Curves]:
    """Return the curves with at least two positions, of each model; seeds of one recipe become one."""
    found = {}
    for label, probes in by_recipe(material.subjects):
        several = [probe for probe in (ordered(along, along.rows(probe)) for probe in probes) if len(probe) > 1]
        if several:
            found[label if len(several) == 1 else f"{label}, {counted(len(several), 'seed')}"] = _together(several)
    controls = {s.label: ordered(along, along.rows(s.probe)) for s in material.subjects if s.model is None}
    return found | {label: _together([curves]) for label, curves in controls.items() if len(curves) > 1}


def ordered(along: Along, rows: Mapping[str, Row]) -> Mapping[str, Mapping[str, ProtocolMetrics]]:
    """Return the rows that have a protocol; numeric positions in ascending order."""
    positions = sorted(rows, key=float) if along.numeric else rows
    return {position: row for position in positions if (row := by_protocol(rows[position]))}


def _together(several: Sequence[Mapping[str, Mapping[str, ProtocolMetrics]]]) -> Curves:
    return {
        position: {protocol: _point([curves[position][protocol] for curves in several]) for protocol in row}
        for position, row in several[0].items()
        if all(position in curves and row.keys() <= curves[position].keys() for curves in several)
    }


def _point(metrics: Sequence[ProtocolMetrics]) -> Point:
    deltas = [one.delta for one in metrics if one.delta is not None]
    delta = combined(deltas) if len(deltas) == len(metrics) else None
    return Point(combined([one.accuracy for one in metrics]), delta)


def sentence(along: Along, found: Mapping[str, Curves]) -> str:
    """Describe the positions with the largest differences, for the first three models."""
    sentences = [_extremes(along, label, curves) for label, curves in list(found.items())[:3]]
    if len(found) > 3:
        sentences.append(f"The figure shows {counted(len(found) - 3, 'more model')}.")
    return " ".join(sentences)


def _extremes(along: Along, label: str, curves: Curves) -> str:
    parts = []
    for protocol in ADAPTED:
        measured = {position: row[protocol].delta for position, row in curves.items() if protocol in row}
        deltas = {position: delta for position, delta in measured.items() if delta is not None}
        if deltas and all(map(is_unchanged, deltas.values())):
            parts.append(f"{protocol} accuracy changes nowhere")
        elif deltas:
            position, delta = max(deltas.items(), key=lambda item: abs(item[1].mean))
            parts.append(f"the largest {protocol} difference is {points(delta)} points, {along.at} {position}")
    if not parts:
        rows = list(curves.items())
        first = next(iter(rows[0][1]))
        ends = [
            f"{percent(row[first].accuracy.mean)} {along.at} {position}"
            for position, row in (rows[0], rows[-1])
            if first in row
        ]
        parts.append(f"{first} accuracy is {listed(ends)}")
    return f"{label}: {'; '.join(parts)}."


def table(along: Along, found: Mapping[str, Curves]) -> Table:
    """Return a row for each model, position and protocol."""
    rows = [
        (label, position, protocol, accuracy(metrics.accuracy), points(metrics.delta))
        for label, curves in found.items()
        for position, row in curves.items()
        for protocol, metrics in row.items()
    ]
    return Table(("model", along.name, "protocol", "accuracy", "delta to meta-init, points"), rows)


def draw(along: Along, found: Mapping[str, Curves], frame: Frame) -> Figure:
    """Draw for each model a panel with its accuracies, and below it a panel with the paired differences."""
    columns = 1 if frame.narrow else min(len(found), 3)
    blocks = -(-len(found) // columns)
    titles = [frame.title(label, columns) for label in found]
    lines = max(1 + title.count("\n") for title in titles)
    figure = frame.figure(52 + blocks * (330 + 16 * lines))
    grid = figure.subplots(2 * blocks, columns, squeeze=False, height_ratios=[1, 1.2] * blocks)
    for axes in grid[-2:, len(found) - (blocks - 1) * columns :].flat:
        axes.set_visible(False)
    for i, (title, curves) in enumerate(zip(titles, found.values(), strict=True)):
        y, x = 2 * (i // columns), i % columns
        above, below = grid[y, x], grid[y + 1, x]
        if i:
            above.sharey(grid[0, 0])
            below.sharey(grid[1, 0])
        below.sharex(above)
        above.set_title(title)
        _panels(above, below, along, curves, frame)
        for axes, label in ((above, "accuracy, %"), (below, "difference, points")):
            axes.tick_params(labelleft=x == 0)
            axes.set_ylabel(label if x == 0 else "")
        above.tick_params(labelbottom=False)
        below.set_xlabel(along.name)
    present = [p for p in PROTOCOLS if any(p in row for curves in found.values() for row in curves.values())]
    protocol_legend(figure, present, ncols=3, columnspacing=1.0, handlelength=1.6)
    return figure


def _panels(above: Axes, below: Axes, along: Along, curves: Curves, frame: Frame) -> None:
    positions = [float(position) for position in curves] if along.numeric else [float(i) for i in range(len(curves))]
    spread = 0.012 * (max(positions) - min(positions))  # so that intervals do not cover each other
    for protocol in PROTOCOLS:
        name, marker = PROTOCOL_STYLE[protocol]
        look: dict[str, Any] = {"color": colour(name), "marker": marker, "markersize": 4.5 * frame.scale}
        curve = [(x, row[protocol]) for x, row in zip(positions, curves.values(), strict=True) if protocol in row]
        above.plot([x for x, _ in curve], [100 * point.accuracy.mean for _, point in curve], **look)
        shift = spread if protocol == ADAPTED[1] else -spread
        changes = [(x + shift, point.delta) for x, point in curve if point.delta is not None]
        for x, delta in changes:
            low, high = bounds(delta) or (delta.mean, delta.mean)
            below.plot((x, x), (100 * low, 100 * high), color=colour(name), solid_capstyle="butt")
        if changes:
            below.plot([x for x, _ in changes], [100 * delta.mean for _, delta in changes], **look, linewidth=0.9)
    below.axhline(0, color=colour("muted"), linewidth=1.2, zorder=1)
    if along.numeric:
        from matplotlib.ticker import MaxNLocator

        below.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=along is STEPS))
    else:
        rotation = 45 if len(curves) > 5 or frame.narrow else 0
        below.set_xticks(positions, [frame.label(name, 12) for name in curves], rotation=rotation)


def _kind(along: Along, name: str, title: str, flag: str) -> Kind:
    made: Any = (partial(part, along) for part in (find, draw, sentence, table))
    find_, draw_, sentence_, table_ = made
    return Kind(name, title, f"`nilr probe MODEL {flag}`", find_, draw_, sentence_, table_, _CAUTION)


LAYERS_KIND = _kind(LAYERS, "layers", "Layer by layer", "--layers all")
STEPS_KIND = _kind(STEPS, "steps", "By inner step", "--steps-curve")
SHARED_KIND = _kind(SHARED, "shared-classes", "By shared classes", "--shared-classes")
