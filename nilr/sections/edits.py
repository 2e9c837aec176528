"""`edits`: the same models and episodes with edited inner rates."""

from __future__ import annotations

from collections.abc import Mapping

from nilr.probes.conditions import Condition, Quantity
from nilr.report.figures import edits
from nilr.results import EditMetrics, EditProbe, ProbeMetrics
from nilr.results.cells import Cell, Share, delta_cell, mean_cell, p_cell
from nilr.sections.protocols import p_header
from nilr.sections.section import Request, Section, Table
from nilr.sections.values import Values


def plan(request: Request) -> dict[str, dict[str, Quantity]]:
    """Return by edit and protocol; nothing if the only edit is `learned`."""
    if len(request.edits) == 1:
        return {}
    return {edit: {p: request.accuracy(Condition(p, edit)) for p in request.adapted} for edit in request.edits}


def build(entry: Mapping[str, Quantity], values: Values) -> EditProbe:
    return EditProbe.model_validate({protocol: values.edited_accuracy(q) for protocol, q in entry.items()})


def table(metrics: ProbeMetrics, share: Share) -> Table | None:
    """Return a row for meta-init, and one for each protocol and edit."""
    if not any(model.edits for model in metrics.values()):
        return None

    def row(name: str, protocol: str, edit: Cell, found: EditMetrics) -> tuple[Cell, ...]:
        deltas = (found.delta, found.delta_to_learned)
        cells = (cell for delta in deltas for cell in (delta_cell(delta, share), p_cell(delta)))
        return (name, protocol, edit, mean_cell(found.accuracy, share), *cells)

    rows = []
    for name, model in metrics.items():
        rows.append(row(name, "meta-init", None, EditMetrics(accuracy=model.meta_init.accuracy)))
        same_task = [("same-task", edit, found.same_task) for edit, found in model.edits.items()]
        cross_task = [("cross-task", edit, found.cross_task) for edit, found in model.edits.items()]
        rows += [row(name, *cells, found) for *cells, found in same_task + cross_task if found]
    p = p_header(metrics)
    header = ("model", "protocol", "rates", "accuracy", "delta to meta-init", p, "delta to learned", p)
    return Table(header, rows, names=3)


SECTION = Section("edits", "rates", plan, build, table, edits.KIND)
