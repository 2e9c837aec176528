"""The intervention table: the same models and episodes under edited rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nilr.report.figures.figure import Drawing, Kind, Material, Table, quiet_spines
from nilr.report.figures.protocols import interval
from nilr.report.style import PROTOCOL_STYLE, Frame, colour
from nilr.report.subjects import ADAPTED, Measure, Subject
from nilr.report.words import NOTHING, accuracy, counted, points

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEARNED = "learned"
_SPREAD = {"same-task": -0.16, "cross-task": 0.16}


def make(material: Material) -> Drawing | None:
    """Return the figure of all models that were judged under edited rates."""
    subjects = [subject for subject in material.subjects if set(subject.edits) - {LEARNED}]
    if not subjects:
        return None
    caution = "Whatever the edit, the meta-initialisation is the one that was learned together with the learned rates."
    return Drawing(lambda frame: draw(subjects, frame), sentence(subjects), table(subjects), caution, open=True)


KIND = Kind("edits", "Edited rates", "`nilr probe MODEL --rates learned,zero-negative,absolute,...`", make)


def sentence(subjects: Sequence[Subject]) -> str:
    """Say which edits change what the learned rates do, and which changes it most."""
    return " ".join(part for protocol in ADAPTED if (part := _changes(subjects, protocol)))


def _changes(subjects: Sequence[Subject], protocol: str) -> str | None:
    found: dict[tuple[str, str], Measure] = {}
    for subject in subjects:
        for rates, cells in subject.edits.items():
            change = cells[protocol].to_learned if protocol in cells else None
            if rates != LEARNED and change is not None:
                found[rates, subject.label] = change
    if not found:
        return None
    changed = [change for change in found.values() if change.found]
    (rates, label), largest = max(found.items(), key=lambda item: abs(item[1].mean))
    where = f" in {label}" if len({name for _, name in found}) > 1 else ""
    return (
        f"{protocol.capitalize()}: against the learned rates {len(changed)} of {counted(len(found), 'edit')} "
        f"{_change(len(changed))} accuracy, many comparisons considered; the largest change is that of {rates}{where}, "
        f"{points(largest)} points."
    )


def _change(n: int) -> str:
    return "changes" if n == 1 else "change"


def table(subjects: Sequence[Subject]) -> Table:
    """Return the numbers: a row for each model and edit."""
    protocols = [p for p in ADAPTED if any(p in cells for subject in subjects for cells in subject.edits.values())]
    header = ["model", "rates"]
    for protocol in protocols:
        header += [f"{protocol}, %", "to meta-init, points", "to learned, points"]
    rows = []
    for subject in subjects:
        for rates, cells in subject.edits.items():
            row = [subject.label, rates]
            for protocol in protocols:
                cell = cells.get(protocol)
                shown = (cell.accuracy, cell.delta, cell.to_learned) if cell else (None, None, None)
                row.append(accuracy(shown[0]).removesuffix(" %") if shown[0] else NOTHING)
                row += [points(value) if value else NOTHING for value in shown[1:]]
            rows.append(row)
    return Table(header, rows)


def draw(subjects: Sequence[Subject], frame: Frame) -> Figure:
    """Draw, for each model, the difference to meta-init under each edit."""
    from matplotlib.lines import Line2D

    columns = 1 if frame.narrow or len(subjects) == 1 else 2
    deep = -(-len(subjects) // columns)
    longest = max(len(subject.edits) for subject in subjects)
    figure = frame.figure(34 + deep * (74 + 29 * longest))
    grid = figure.subplots(deep, columns, squeeze=False, sharex=True)
    for axes, subject in zip(grid.flat, subjects, strict=False):
        _panel(axes, subject, frame)
    for axes in grid.flat[len(subjects) :]:
        axes.set_visible(False)
    for axes in grid.flat[max(0, len(subjects) - columns) : len(subjects)]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("difference to meta-init, points")
    styles = [(protocol, *PROTOCOL_STYLE[protocol]) for protocol in ADAPTED]
    handles = [Line2D([], [], color=colour(name), marker=marker, label=label) for label, name, marker in styles]
    figure.legend(handles=handles, loc="outside upper left", ncols=2)
    return figure


def _panel(axes: Any, subject: Subject, frame: Frame) -> None:  # noqa: ANN401 - Axes
    quiet_spines(axes)
    axes.set_title(frame.label(subject.label))
    names = list(subject.edits)
    for y, rates in enumerate(names):
        if rates == LEARNED:
            axes.axhspan(y - 0.5, y + 0.5, color=colour("grid"), alpha=0.5, linewidth=0, zorder=0)
        for protocol in ADAPTED:
            cell = subject.edits[rates].get(protocol)
            if cell is not None and cell.delta is not None:
                interval(axes, cell.delta, y + _SPREAD[protocol], PROTOCOL_STYLE[protocol])
    axes.axvline(0, color=colour("muted"), linewidth=1.2)
    axes.set_yticks(range(len(names)), [frame.label(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
