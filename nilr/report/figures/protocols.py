"""Accuracy under the three protocols, and its difference to the meta-initialisation."""

from collections.abc import Sequence
from typing import Any

from nilr.config.base import ADAPTED, PROTOCOLS
from nilr.report.figures.figure import Kind, Table, draw_chance, draw_interval, name_rows, protocol_legend
from nilr.report.figures.forest import draw_claim
from nilr.report.numbers import (
    NOTHING,
    accuracy,
    bounds,
    corrected_p,
    is_unchanged,
    listed,
    p_value,
    percent,
    points,
    sign_found,
)
from nilr.report.style import Axes, Figure, Frame, colour
from nilr.report.subjects import Subject, by_protocol
from nilr.words import counted

CAUTION = (
    "Intervals are over episodes, for these trained models and these test classes only; conclusions about an algorithm "
    "need several seeds. An effect is clear if its interval excludes zero and its p-value, after Holm's correction for "
    "the number of differences of the protocols in its result, is below 0.05."
)
_SPREAD = {"meta-init": -0.24, "same-task": 0.0, "cross-task": 0.24}
_HOLLOW: dict[str, Any] = {"markerfacecolor": "none", "linestyle": "none"}


def sentence(subjects: Sequence[Subject]) -> str:
    """Describe how adaptation changes accuracy, protocol by protocol."""
    if changes := [change for protocol in ADAPTED if (change := _change(subjects, protocol))]:
        return " ".join(changes)
    means = [f"{subject.label} {percent(subject.probe.meta_init.accuracy.mean)}" for subject in subjects]
    return f"Accuracy before adaptation: {listed(means)}."


def _change(subjects: Sequence[Subject], protocol: str) -> str | None:
    measured = {s.label: found[protocol].delta for s in subjects if protocol in (found := by_protocol(s.probe))}
    deltas = {label: delta for label, delta in measured.items() if delta is not None}
    if not deltas:
        return None
    head = f"{protocol.capitalize()} adaptation"
    changing = {label: delta for label, delta in deltas.items() if not is_unchanged(delta)}
    if not changing:
        return f"{head} changes accuracy in no episode."
    if len(deltas) <= 2:
        changes = listed([f"{points(delta)} points in {label}" for label, delta in changing.items()])
        return (
            f"{head} changes accuracy by {changes}{_unchanged([label for label in deltas if label not in changing])}."
        )
    label, largest = max(changing.items(), key=lambda item: abs(item[1].mean))
    most = f"largest difference is {points(largest)} points, in {label}."
    if bounds(largest) is None:
        return f"{head}: the {most}"
    signs = [sign_found(delta) for delta in changing.values()]
    same = len(deltas) - len(changing)
    return (
        f"{head} raises accuracy in {signs.count(1)} of {counted(len(deltas), 'model')}, lowers it in "
        f"{signs.count(-1)}, and has no clear effect in {signs.count(0)}"
        f"{f'; in {same} it changes no episode' if same else ''}. The {most}"
    )


def _unchanged(labels: Sequence[str]) -> str:
    return f", and in no episode in {listed(labels)}" if labels else ""


def table(subjects: Sequence[Subject]) -> Table:
    """Return a row for each model and protocol."""
    rows = [
        (
            subject.label,
            protocol,
            accuracy(found.accuracy),
            points(found.delta),
            p_value(corrected_p(found.delta)) if found.delta else NOTHING,
            f"{found.accuracy.n_episodes:,}",
        )
        for subject in subjects
        for protocol, found in by_protocol(subject.probe).items()
    ]
    return Table(("model", "protocol", "accuracy", "delta to meta-init, points", "p (Holm)", "episodes"), rows)


def draw(subjects: Sequence[Subject], frame: Frame) -> Figure:
    """Draw accuracies and differences, in two panels side by side if there is room."""
    changed = [subject for subject in subjects if len(by_protocol(subject.probe)) > 1]
    shown = [*subjects, *changed] if frame.narrow else subjects
    panels = (2 if changed else 1) if frame.narrow else 1
    labels = [frame.label(subject.label) for subject in shown]
    figure = frame.figure(70 + 62 * panels + frame.rows(labels, 48 if len(subjects) < 12 else 34))
    if not changed:
        _accuracies(figure.subplots(), subjects, frame)
    elif frame.narrow:
        above, below = figure.subplots(2, 1, height_ratios=(len(subjects), len(changed)))
        _accuracies(above, subjects, frame)
        _deltas(below, changed, frame)
    else:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.15))
        _accuracies(left, subjects, frame)
        _deltas(right, subjects, frame)
    _legend(figure, subjects, frame)
    return figure


def _accuracies(axes: Axes, subjects: Sequence[Subject], frame: Frame) -> None:
    _rows(axes, subjects, frame)
    for row, subject in enumerate(subjects):
        for protocol, found in by_protocol(subject.probe).items():
            draw_interval(axes, found.accuracy, row + _SPREAD[protocol], protocol)
    draw_chance(axes, (subject.n_way for subject in subjects), upright=True)
    axes.set_xlabel("accuracy, %")


def _deltas(axes: Axes, subjects: Sequence[Subject], frame: Frame) -> None:
    """Draw differences, and at the left or right edge the signs that the paper claims."""
    _rows(axes, subjects, frame)
    for row, subject in enumerate(subjects):
        measured = by_protocol(subject.probe)
        for protocol, found in measured.items():
            if found.delta is not None:
                draw_interval(axes, found.delta, row + _SPREAD[protocol], protocol)
        for protocol, sign in subject.claims.items():
            if protocol in measured:
                draw_claim(axes, sign, row + _SPREAD[protocol], protocol, frame)
    axes.axvline(0, color=colour("muted"), linewidth=1.2)
    low, high = axes.get_xlim()
    axes.set_xlim(low - 0.07 * (high - low), high + 0.07 * (high - low))
    axes.set_xlabel("delta to meta-init, points")


def _rows(axes: Axes, subjects: Sequence[Subject], frame: Frame) -> None:
    for row in range(1, len(subjects), 2):
        axes.axhspan(row - 0.5, row + 0.5, color=colour("grid"), alpha=0.35, linewidth=0, zorder=0)
    name_rows(axes, [frame.label(subject.label) for subject in subjects])


def _legend(figure: Figure, subjects: Sequence[Subject], frame: Frame) -> None:
    from matplotlib.lines import Line2D

    measured = [by_protocol(subject.probe) for subject in subjects]
    claimed = []
    if any(subject.claims and len(found) > 1 for subject, found in zip(subjects, measured, strict=True)):
        claimed.append(Line2D([], [], marker=">", markeredgecolor=colour("muted"), label="claimed sign", **_HOLLOW))
    present = [protocol for protocol in PROTOCOLS if any(protocol in found for found in measured)]
    protocol_legend(figure, present, *claimed, ncols=2 if frame.narrow else 4, columnspacing=1.4)


KIND = Kind("protocols", "Three protocols", "the result of `nilr probe MODEL...`",
            lambda material: material.subjects, draw, sentence, table, CAUTION)  # fmt: skip
