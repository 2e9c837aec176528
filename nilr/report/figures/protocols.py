"""The paper's figure as it should be: accuracy under the three protocols, and paired differences with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nilr.claims import CLAIMS
from nilr.report.figures.figure import Drawing, Kind, Material, Table, quiet_spines
from nilr.report.style import PROTOCOL_STYLE, Frame, colour
from nilr.report.subjects import ADAPTED, PROTOCOLS, Measure, Subject
from nilr.report.words import NOTHING, accuracy, counted, listed, p_value, percent, points

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONDITIONAL = (
    "Intervals are over episodes: conditional on these trained models and these test classes. They say nothing about "
    "another training run; that takes seeds. A difference counts as found if its p, corrected for the number of "
    "differences in its result (Holm), is below 0.05."
)
_SPREAD = {"meta-init": -0.24, "same-task": 0.0, "cross-task": 0.24}


def make(material: Material) -> Drawing | None:
    """Return the figure of all probed models."""
    subjects = material.subjects
    if not subjects:
        return None
    return Drawing(lambda frame: draw(subjects, frame), sentence(subjects), table(subjects), CONDITIONAL)


KIND = Kind("protocols", "Three protocols", "the result of `nilr probe MODEL...`", make)


def sentence(subjects: Sequence[Subject]) -> str:
    """Say what adaptation does to the features, protocol by protocol."""
    parts = [part for protocol in ADAPTED if (part := _moved(subjects, protocol))]
    if parts:
        return "; ".join(parts) + "."
    means = [f"{s.label} {percent(s.cells['meta-init'].accuracy.mean)}" for s in subjects if "meta-init" in s.cells]
    return f"Before adaptation the nearest labelled neighbour is right for {listed(means)}."


def _moved(subjects: Sequence[Subject], protocol: str) -> str | None:
    deltas = {s.label: s.cells[protocol].delta for s in subjects if protocol in s.cells}
    found: dict[str, Measure] = {label: delta for label, delta in deltas.items() if delta is not None}
    if not found:
        return None
    name = protocol.capitalize() if protocol == ADAPTED[0] else protocol
    if len(found) <= 2:
        said = listed([f"{points(delta)} points in {label}" for label, delta in found.items()])
        return f"{name} adaptation changes accuracy by {said}"
    signs = [delta.found for delta in found.values()]
    label, largest = max(found.items(), key=lambda item: abs(item[1].mean))
    return (
        f"{name} adaptation raises accuracy in {signs.count(1)} of {counted(len(found), 'model')} and lowers it in "
        f"{signs.count(-1)}; in {signs.count(0)} no difference is found (largest: {points(largest)} points in {label})"
    )


def table(subjects: Sequence[Subject]) -> Table:
    """Return the numbers."""
    rows = [
        (
            subject.label,
            protocol,
            accuracy(cell.accuracy),
            points(cell.delta) if cell.delta else NOTHING,
            p_value(cell.delta.p) if cell.delta else NOTHING,
            f"{cell.n:,}",
        )
        for subject in subjects
        for protocol, cell in subject.cells.items()
    ]
    return Table(("model", "protocol", "accuracy", "difference, points", "p (Holm)", "episodes"), rows)


def draw(subjects: Sequence[Subject], frame: Frame) -> Figure:
    """Draw accuracies and differences, side by side where there is room."""
    changed = [subject for subject in subjects if any(protocol in subject.cells for protocol in ADAPTED)]
    rows = (len(subjects) + len(changed)) if frame.narrow else len(subjects)
    panels = (2 if changed else 1) if frame.narrow else 1
    figure = frame.figure(70 + 62 * panels + (48 if len(subjects) < 12 else 34) * rows)
    if not changed:
        _panel(figure.subplots(), subjects, "accuracy", frame)
    elif frame.narrow:
        above, below = figure.subplots(2, 1, height_ratios=(len(subjects), len(changed)))
        _panel(above, subjects, "accuracy", frame)
        _panel(below, changed, "delta", frame)
    else:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.15))
        _panel(left, subjects, "accuracy", frame)
        _panel(right, subjects, "delta", frame)
    _legend(figure, subjects, frame)
    return figure


def _panel(axes: Any, subjects: Sequence[Subject], what: str, frame: Frame) -> None:  # noqa: ANN401 - Axes
    quiet_spines(axes)
    for row, subject in enumerate(subjects):
        if row % 2:
            axes.axhspan(row - 0.5, row + 0.5, color=colour("grid"), alpha=0.35, linewidth=0, zorder=0)
        for protocol, cell in subject.cells.items():
            measure = cell.accuracy if what == "accuracy" else cell.delta
            if measure is not None:
                interval(axes, measure, row + _SPREAD[protocol], PROTOCOL_STYLE[protocol])
        if what == "delta":
            _claims(axes, subject, row)
    axes.set_yticks(range(len(subjects)), [frame.label(subject.label) for subject in subjects])
    axes.set_ylim(len(subjects) - 0.5, -0.5)
    if what == "accuracy":
        axes.set_xlabel("accuracy, %")
    else:
        axes.axvline(0, color=colour("muted"), linewidth=1.2)
        low, high = axes.get_xlim()
        axes.set_xlim(low - 0.07 * (high - low), high + 0.07 * (high - low))
        axes.set_xlabel("difference to meta-init, points")


def interval(axes: Any, measure: Measure, y: float, style: tuple[str, str]) -> None:  # noqa: ANN401 - Axes
    """Draw a mean and its interval, times 100."""
    name, marker = style
    if measure.low is not None and measure.high is not None:
        axes.plot((100 * measure.low, 100 * measure.high), (y, y), color=colour(name), solid_capstyle="butt")
    axes.plot(100 * measure.mean, y, marker=marker, color=colour(name), linestyle="none")


def _claims(axes: Any, subject: Subject, row: int) -> None:  # noqa: ANN401 - Axes
    """Mark the sign that the paper claims at the side it lies on."""
    for protocol, sign in _claimed(subject).items():
        if protocol in subject.cells:
            axes.plot(
                0.985 if sign > 0 else 0.015,
                row + _SPREAD[protocol],
                marker=">" if sign > 0 else "<",
                markersize=6.5,
                markerfacecolor="none",
                markeredgecolor=colour(PROTOCOL_STYLE[protocol][0]),
                linestyle="none",
                transform=axes.get_yaxis_transform(),
            )


def _claimed(subject: Subject) -> Mapping[str, int]:
    return {} if subject.control else CLAIMS.get(str(subject.used.get("algo")), {})


def _legend(figure: Figure, subjects: Sequence[Subject], frame: Frame) -> None:
    from matplotlib.lines import Line2D

    present = [protocol for protocol in PROTOCOLS if any(protocol in subject.cells for subject in subjects)]
    handles: list[Line2D] = []
    for protocol in present:
        name, marker = PROTOCOL_STYLE[protocol]
        handles.append(Line2D([], [], color=colour(name), marker=marker, label=protocol))
    if any(_claimed(subject) and len(subject.cells) > 1 for subject in subjects):
        hollow: dict[str, Any] = {
            "markerfacecolor": "none",
            "markeredgecolor": colour("muted"),
            "linestyle": "none",
        }
        handles.append(Line2D([], [], marker=">", label="sign the paper claims", **hollow))
    figure.legend(handles=handles, loc="outside upper left", ncols=2 if frame.narrow else 4, columnspacing=1.4)
