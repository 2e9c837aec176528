"""`edits`: the same models and episodes with edited inner rates."""

from collections.abc import Mapping, Sequence

from nilr.config.base import ADAPTED
from nilr.probes.conditions import Condition, Quantity
from nilr.probes.edits import LEARNED
from nilr.report.figures.figure import (
    Kind,
    Table,
    draw_interval,
    label_lowest,
    name_rows,
    protocol_legend,
)
from nilr.report.numbers import NOTHING, accuracy, bounds, is_unchanged, points, sign_found
from nilr.report.style import Axes, Figure, Frame, colour
from nilr.report.subjects import Subject
from nilr.results.probe import EditMetrics, EditProbe, ProbeMetrics
from nilr.sections.protocols import p_cell, p_header
from nilr.sections.section import Cell, Format, Request, Section
from nilr.sections.section import Table as Rows
from nilr.sections.values import Values
from nilr.words import counted


def _plan(request: Request) -> dict[str, dict[str, Quantity]]:
    """Return by edit and protocol; nothing if the only edit is `learned`."""
    if len(request.edits) == 1:
        return {}
    return {edit: {p: request.accuracy(Condition(p, edit)) for p in request.adapted} for edit in request.edits}


def _build(entry: Mapping[str, Quantity], values: Values) -> EditProbe:
    return EditProbe.model_validate({protocol: values.edited_accuracy(q) for protocol, q in entry.items()})


def _table(metrics: ProbeMetrics, text: Format) -> Rows | None:
    """Return a row for meta-init, and one for each protocol and edit."""
    if not any(model.edits for model in metrics.values()):
        return None

    def row(name: str, protocol: str, edit: Cell, found: EditMetrics) -> tuple[Cell, ...]:
        deltas = (found.delta, found.delta_to_learned)
        cells = (cell for delta in deltas for cell in (text.delta(delta), p_cell(delta)))
        return (name, protocol, edit, text.mean(found.accuracy), *cells)

    rows = []
    for name, model in metrics.items():
        rows.append(row(name, "meta-init", None, EditMetrics(accuracy=model.meta_init.accuracy)))
        same_task = [("same-task", edit, found.same_task) for edit, found in model.edits.items()]
        cross_task = [("cross-task", edit, found.cross_task) for edit, found in model.edits.items()]
        rows += [row(name, protocol, edit, found) for protocol, edit, found in same_task + cross_task if found]
    p = p_header(metrics)
    header = ("model", "protocol", "rates", "accuracy", "delta to meta-init", p, "delta to learned", p)
    return Rows(header, rows, names=3)


_SPREAD = {"same-task": -0.16, "cross-task": 0.16}
_FEW_ROWS = 20
_CAUTION = "All edits start from the same meta-initialisation, which was learned together with the learned rates."


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
    axes.set_title(frame.title(subject.label, 2))
    for y, (name, edit) in enumerate(subject.probe.edits.items()):
        if name == LEARNED:
            axes.axhspan(y - 0.5, y + 0.5, color=colour("grid"), alpha=0.5, linewidth=0, zorder=0)
        for protocol in ADAPTED:
            metrics = metrics_of(edit, protocol)
            if metrics and metrics.delta:
                draw_interval(axes, metrics.delta, y + _SPREAD[protocol], protocol)
    axes.axvline(0, color=colour("muted"), linewidth=1.2)
    name_rows(axes, [frame.label(name) for name in subject.probe.edits])


KIND = Kind("edits", "Edited rates", "`nilr probe MODEL --rates learned,zero-negative,absolute,...`",
            lambda material: [s for s in material.subjects if set(s.probe.edits) - {LEARNED}],
            draw, sentence, table, _CAUTION,
            lambda found: sum(len(subject.probe.edits) for subject in found) <= _FEW_ROWS)  # fmt: skip
SECTION = Section("edits", "rates", _plan, _build, _table, KIND)
