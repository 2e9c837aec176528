"""Accuracy along an axis: the layers of the body, the steps of the inner loop, or the fraction of shared classes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from nilr.config.base import ADAPTED, PROTOCOLS
from nilr.report.figures.figure import Kind, Material, Table, protocol_legend
from nilr.report.numbers import accuracy, bounds, is_unchanged, listed, percent, points
from nilr.report.style import PROTOCOL_STYLE, Axes, Figure, Frame, colour
from nilr.report.subjects import by_protocol
from nilr.results.probe import ModelProbe, ProtocolMetrics, Row
from nilr.words import counted

Curves = Mapping[str, Mapping[str, ProtocolMetrics]]
"""By position on the axis, then by protocol."""


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
    """Return the curves of all models with at least two positions."""
    curves = {subject.label: ordered(along, along.rows(subject.probe)) for subject in material.subjects}
    return {label: curve for label, curve in curves.items() if len(curve) > 1}


def ordered(along: Along, rows: Mapping[str, Row]) -> Curves:
    """Return the rows that have a protocol; numeric positions in ascending order."""
    positions = sorted(rows, key=float) if along.numeric else rows
    return {position: row for position in positions if (row := by_protocol(rows[position]))}


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
    """Draw a panel for each model, and in it a curve with its interval for each protocol."""
    columns = 1 if frame.narrow else min(len(found), 3)
    row = 250 if columns > 1 else 230
    figure, panels, first_column = frame.panels(len(found), columns, row=row, margin=52, sharey=True)
    for axes, (label, curves) in zip(panels, found.items(), strict=True):
        axes.set_title(frame.label(label) if columns < 3 else frame.label(label)[:22])
        _panel(axes, along, curves)
    for axes in first_column:
        axes.set_ylabel("accuracy, %")
    present = [p for p in PROTOCOLS if any(p in row for curves in found.values() for row in curves.values())]
    protocol_legend(figure, present, ncols=3, columnspacing=1.0, handlelength=1.6)
    return figure


def _panel(axes: Axes, along: Along, curves: Curves) -> None:
    positions = [float(position) for position in curves] if along.numeric else list(range(len(curves)))
    for protocol in PROTOCOLS:
        curve = [(x, row[protocol]) for x, row in zip(positions, curves.values(), strict=True) if protocol in row]
        if curve:
            _curve(axes, [x for x, _ in curve], [metrics for _, metrics in curve], protocol)
    if along.numeric:
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=along is STEPS))
    else:
        axes.set_xticks(positions, [name if len(name) < 10 else f"{name[:8]}…" for name in curves])
    axes.set_xlabel(along.name)


def _curve(axes: Axes, x: Sequence[float], metrics: Sequence[ProtocolMetrics], protocol: str) -> None:
    name, marker = PROTOCOL_STYLE[protocol]
    means = [100 * one.accuracy.mean for one in metrics]
    intervals = [bounds(one.accuracy) or (one.accuracy.mean, one.accuracy.mean) for one in metrics]
    low, high = ([100 * bound for bound in side] for side in zip(*intervals, strict=True))
    axes.fill_between(x, low, high, color=colour(name), alpha=0.16, linewidth=0)
    axes.plot(x, means, color=colour(name), marker=marker)


def _kind(along: Along, name: str, title: str, flag: str) -> Kind:
    parts = [partial(part, along) for part in (find, draw, sentence, table)]
    return Kind(name, title, f"`nilr probe MODEL {flag}`", *parts)  # type: ignore[arg-type]


LAYERS_KIND = _kind(LAYERS, "layers", "Layer by layer", "--layers all")
STEPS_KIND = _kind(STEPS, "steps", "By inner step", "--steps-curve")
SHARED_KIND = _kind(SHARED, "shared-classes", "By shared classes", "--shared-classes")
