"""Sections with a row of accuracies by protocol for each of several choices, such as layers or steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nilr.probes.conditions import Quantity
from nilr.results.probe import ProbeMetrics, ProtocolMetrics, Row
from nilr.sections.section import Cell, Format, Table
from nilr.sections.values import Values

Rows = dict[str, dict[str, Quantity]]
"""Quantities by choice and protocol."""


def build(row: Mapping[str, Quantity], values: Values) -> Row:
    """Return the accuracies of one choice."""
    return Row.model_validate({protocol: values.accuracy(quantity) for protocol, quantity in row.items()})


def table(field: str, title: str) -> Callable[[ProbeMetrics, Format], Table | None]:
    """Return what makes the table of a field of `ModelProbe`; `title` is that of the column of choices."""

    def make(metrics: ProbeMetrics, text: Format) -> Table | None:
        rows = []
        for name, model in metrics.items():
            found: dict[str, Row] = getattr(model, field)
            for choice, row in found.items():
                before = text.mean((row.meta_init or model.meta_init).accuracy)
                rows.append((name, choice, before, _change(row.same_task, text), _change(row.cross_task, text)))
        header = ("model", title, "meta-init", "same-task delta", "cross-task delta")
        return Table(header, rows, names=2) if rows else None

    return make


def _change(found: ProtocolMetrics | None, text: Format) -> Cell:
    """Return the difference to meta-init; zero after no step, where there is no `delta`."""
    return None if found is None else text.delta(found.delta) or text.share(0.0)
