"""The same models and episodes with edited inner rates."""

from collections.abc import Sequence

from nilr.config.base import ADAPTED
from nilr.probes.edits import LEARNED
from nilr.report.figures.figure import (
    Drawing,
    Kind,
    Material,
    Table,
    draw_interval,
    label_lowest,
    name_rows,
    protocol_legend,
)
from nilr.report.numbers import NOTHING, accuracy, bounds, is_unchanged, points, sign_found
from nilr.report.style import Axes, Figure, Frame, colour
from nilr.report.subjects import Subject
from nilr.results.probe import EditMetrics, EditProbe
from nilr.words import counted

_SPREAD = {"same-task": -0.16, "cross-task": 0.16}
_FEW_ROWS = 20
_CAUTION = "All edits start from the same meta-initialisation, which was learned together with the learned rates."


def make(material: Material) -> Drawing | None:
    """Return the figure of all models that were probed with edited rates."""
    subjects = [subject for subject in material.subjects if set(subject.probe.edits) - {LEARNED}]
    if not subjects:
        return None
    rows = table(subjects)
    few = len(rows.rows) <= _FEW_ROWS
    return Drawing(lambda frame: draw(subjects, frame), sentence(subjects), rows, _CAUTION, open=few)


KIND = Kind("edits", "Edited rates", "`nilr probe MODEL --rates learned,zero-negative,absolute,...`", make)


def metrics_of(edit: EditProbe, protocol: str) -> EditMetrics | None:
    """Return an edit's metrics under a protocol."""
    return edit.same_task if protocol == "same-task" else edit.cross_task


def sentence(subjects: Sequence[Subject]) -> str:
    """Count the edits that change accuracy compared with the learned rates, and name the largest change."""
    return " ".join(change for protocol in ADAPTED if (change := _changes(subjects, protocol)))


def _changes(subjects: Sequence[Subject], protocol: str) -> str | None:
    measured = {
        (name, subject.label): metrics.delta_to_learned
        for subject in subjects
        for name, edit in subject.probe.edits.items()
        if name != LEARNED and (metrics := metrics_of(edit, protocol))
    }
    deltas = {key: delta for key, delta in measured.items() if delta is not None}
    if not deltas:
        return None
    head = f"{protocol.capitalize()}: compared with the learned rates,"
    changing = {key: delta for key, delta in deltas.items() if not is_unchanged(delta)}
    if not changing:
        return f"{head} no edit changes accuracy in any episode."
    (name, label), largest = max(changing.items(), key=lambda item: abs(item[1].mean))
    where = f" in {label}" if len({label for _, label in deltas}) > 1 else ""
    most = f"largest change is {points(largest)} points, with {name}{where}."
    if bounds(largest) is None:
        return f"{head} the {most}"
    changed = sum(sign_found(delta) != 0 for delta in changing.values())
    idle = len(deltas) - len(changing)
    others = f"; {idle} more without effect in any episode" if idle else ""
    return (
        f"{head} accuracy changes in {changed} of {counted(len(changing), 'edit')} (p below 0.05 after Holm's "
        f"correction){others}. The {most}"
    )


def table(subjects: Sequence[Subject]) -> Table:
    """Return a row for each model and edit."""
    edits = [edit for subject in subjects for edit in subject.probe.edits.values()]
    protocols = [protocol for protocol in ADAPTED if any(metrics_of(edit, protocol) for edit in edits)]
    header = ["model", "edit"]
    for protocol in protocols:
        header += [f"{protocol}, %", "delta to meta-init, points", "delta to learned, points"]
    rows = []
    for subject in subjects:
        for name, edit in subject.probe.edits.items():
            row = [subject.label, name]
            for protocol in protocols:
                metrics = metrics_of(edit, protocol)
                row += _cells(metrics) if metrics else [NOTHING] * 3
            rows.append(row)
    return Table(header, rows)


def _cells(metrics: EditMetrics) -> list[str]:
    percent = accuracy(metrics.accuracy).removesuffix(" %")
    return [percent, points(metrics.delta), points(metrics.delta_to_learned)]


def draw(subjects: Sequence[Subject], frame: Frame) -> Figure:
    """Draw, for each model, the difference to meta-init with each edit."""
    longest = max(len(subject.probe.edits) for subject in subjects)
    figure, panels, _ = frame.panels(len(subjects), 2, row=74 + 29 * longest, margin=34, sharex=True)
    for axes, subject in zip(panels, subjects, strict=True):
        _panel(axes, subject, frame)
    label_lowest(panels, frame, "delta to meta-init, points")
    protocol_legend(figure, ADAPTED, ncols=2)
    return figure


def _panel(axes: Axes, subject: Subject, frame: Frame) -> None:
    axes.set_title(frame.label(subject.label))
    for y, (name, edit) in enumerate(subject.probe.edits.items()):
        if name == LEARNED:
            axes.axhspan(y - 0.5, y + 0.5, color=colour("grid"), alpha=0.5, linewidth=0, zorder=0)
        for protocol in ADAPTED:
            metrics = metrics_of(edit, protocol)
            if metrics and metrics.delta:
                draw_interval(axes, metrics.delta, y + _SPREAD[protocol], protocol)
    axes.axvline(0, color=colour("muted"), linewidth=1.2)
    name_rows(axes, [frame.label(name) for name in subject.probe.edits])
