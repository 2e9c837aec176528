"""`edits`: the same models and episodes with edited inner rates."""

from collections.abc import Mapping

from nilr.probes.conditions import Condition, Quantity
from nilr.results.probe import EditMetrics, EditProbe, ProbeMetrics
from nilr.sections import edits_figure
from nilr.sections.protocols import p_cell, p_header
from nilr.sections.section import Cell, Format, Request, Section, Table
from nilr.sections.values import Values


def _plan(request: Request) -> dict[str, dict[str, Quantity]]:
    """Return by edit and protocol; nothing if the only edit is `learned`."""
    if len(request.edits) == 1:
        return {}
    return {edit: {p: request.accuracy(Condition(p, edit)) for p in request.adapted} for edit in request.edits}


def _build(entry: Mapping[str, Quantity], values: Values) -> EditProbe:
    return EditProbe.model_validate({protocol: values.edited_accuracy(q) for protocol, q in entry.items()})


def _table(metrics: ProbeMetrics, text: Format) -> Table | None:
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
    return Table(header, rows, names=3)


SECTION = Section("edits", "rates", _plan, _build, _table, edits_figure.KIND)
