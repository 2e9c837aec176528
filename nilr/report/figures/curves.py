"""Accuracy along something: the layers of the body, the steps of the inner loop, the share of common classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from nilr.report.figures.figure import Drawing, Kind, Material, Table
from nilr.report.style import PROTOCOL_STYLE, Frame, colour
from nilr.report.subjects import PROTOCOLS, Cell, Cells, Subject
from nilr.report.words import NOTHING, accuracy, listed, percent, points

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curves = Mapping[str, Cells]
"""By position along the axis, then protocol."""


@dataclass(frozen=True)
class Along:
    """What runs along the axis.

    Attributes:
        name: on the axis, with its unit.
        at: words for a position in a sentence.
        of: gets a subject's curves.
        numeric: whether positions are numbers.
    """

    name: str
    at: str
    of: Callable[[Subject], Curves]
    numeric: bool


def make(along: Along, material: Material) -> Drawing | None:
    """Return the figure of all models that have such curves."""
    subjects = [subject for subject in material.subjects if len(along.of(subject)) > 1]
    if not subjects:
        return None
    found = {subject.label: _ordered(along, subject) for subject in subjects}
    return Drawing(lambda frame: draw(along, found, frame), sentence(along, found), table(along, found))


def _ordered(along: Along, subject: Subject) -> Curves:
    curves = along.of(subject)
    if not along.numeric:
        return curves
    return dict(sorted(curves.items(), key=lambda item: float(item[0])))


LAYERS = Along("block of the body", "after", lambda subject: subject.layers, numeric=False)
STEPS = Along("inner steps", "at step", lambda subject: subject.steps, numeric=True)
SHARED = Along("share of classes that both tasks have", "at a share of", lambda subject: subject.shared, numeric=True)

LAYERS_KIND = Kind("layers", "Layer by layer", "`nilr probe MODEL --layers all`", partial(make, LAYERS))
STEPS_KIND = Kind("steps", "By inner step", "`nilr probe MODEL --steps-curve`", partial(make, STEPS))
SHARED_KIND = Kind("shared-classes", "By shared classes", "`nilr probe MODEL --shared-classes`", partial(make, SHARED))
KINDS = (LAYERS_KIND, STEPS_KIND, SHARED_KIND)


def sentence(along: Along, found: Mapping[str, Curves]) -> str:
    """Say where adaptation does most for the features, and where it harms them most."""
    return " ".join(_extremes(along, label, curves) for label, curves in list(found.items())[:3]) + (
        f" {len(found) - 3} more models are drawn." if len(found) > 3 else ""
    )


def _extremes(along: Along, label: str, curves: Curves) -> str:
    parts = []
    for protocol in PROTOCOLS[1:]:
        deltas = {position: cells[protocol].delta for position, cells in curves.items() if protocol in cells}
        known = {position: delta for position, delta in deltas.items() if delta is not None}
        if known:
            position, delta = max(known.items(), key=lambda item: abs(item[1].mean))
            parts.append(f"{protocol} moves accuracy most {along.at} {position} ({points(delta)} points)")
    if not parts:
        ends = [(position, cells) for position, cells in curves.items() if cells]
        (first, start), (last, end) = ends[0], ends[-1]
        protocol = next(iter(start))
        from_to = [percent(cells[protocol].accuracy.mean) for cells in (start, end) if protocol in cells]
        parts.append(
            f"{protocol} accuracy goes from {from_to[0]} {along.at} {first} to {from_to[-1]} {along.at} {last}"
        )
    return f"{label}: {listed(parts)}."


def table(along: Along, found: Mapping[str, Curves]) -> Table:
    """Return the numbers."""
    rows = [
        (
            label,
            position,
            protocol,
            accuracy(cell.accuracy),
            points(cell.delta) if cell.delta else NOTHING,
        )
        for label, curves in found.items()
        for position, cells in curves.items()
        for protocol, cell in cells.items()
    ]
    return Table(("model", along.name, "protocol", "accuracy", "difference, points"), rows)


def draw(along: Along, found: Mapping[str, Curves], frame: Frame) -> Figure:
    """Draw a panel for each model, and in it a curve with its interval for each protocol."""
    from matplotlib.lines import Line2D

    columns = 1 if frame.narrow else min(len(found), 3)
    deep = -(-len(found) // columns)
    figure = frame.figure(52 + deep * (250 if columns > 1 else 230))
    grid = figure.subplots(deep, columns, squeeze=False, sharey=True)
    for axes, (label, curves) in zip(grid.flat, found.items(), strict=False):
        axes.set_title(frame.label(label) if columns < 3 else frame.label(label)[:22])
        _panel(axes, along, curves)
    for axes in grid.flat[len(found) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy, %")
    present = [p for p in PROTOCOLS if any(p in cells for curves in found.values() for cells in curves.values())]
    styles = [(protocol, *PROTOCOL_STYLE[protocol]) for protocol in present]
    handles = [Line2D([], [], color=colour(name), marker=marker, label=label) for label, name, marker in styles]
    figure.legend(handles=handles, loc="outside upper left", ncols=3, columnspacing=1.0, handlelength=1.6)
    return figure


def _panel(axes: Any, along: Along, curves: Curves) -> None:  # noqa: ANN401 - Axes
    positions = [float(position) for position in curves] if along.numeric else list(range(len(curves)))
    for protocol in PROTOCOLS:
        found = [(x, cells[protocol]) for x, cells in zip(positions, curves.values(), strict=True) if protocol in cells]
        if found:
            _curve(axes, [x for x, _ in found], [cell for _, cell in found], PROTOCOL_STYLE[protocol])
    if along.numeric:
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=along is STEPS))
    else:
        axes.set_xticks(positions, [name if len(name) < 10 else f"{name[:8]}…" for name in curves])
    axes.set_xlabel(along.name)


def _curve(axes: Any, x: Sequence[float], cells: Sequence[Cell], style: tuple[str, str]) -> None:  # noqa: ANN401 - Axes
    name, marker = style
    means = [cell.accuracy.mean for cell in cells]
    low = [100 * (cell.accuracy.mean if cell.accuracy.low is None else cell.accuracy.low) for cell in cells]
    high = [100 * (cell.accuracy.mean if cell.accuracy.high is None else cell.accuracy.high) for cell in cells]
    axes.fill_between(x, low, high, color=colour(name), alpha=0.16, linewidth=0)
    axes.plot(x, [100 * mean for mean in means], color=colour(name), marker=marker)
