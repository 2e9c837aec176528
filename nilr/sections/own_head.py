"""`own_head`: accuracy of the model's own head instead of neighbours, before and after adaptation."""

from collections.abc import Mapping

from nilr.probes.conditions import META_INIT, Condition, Quantity
from nilr.probes.readings import HeadAccuracy
from nilr.results.probe import HeadProbe, ProbeMetrics
from nilr.sections.section import Format, Request, Section, Table
from nilr.sections.values import Values


def _plan(request: Request) -> dict[str, dict[str, Quantity]]:
    """Return by edit and protocol; never cross-task, since the head distinguishes the classes that it adapted to."""
    conditions = {edit: (META_INIT, Condition("same-task", edit)) for edit in request.edits}
    return {edit: {c.protocol: Quantity(c, HeadAccuracy()) for c in both} for edit, both in conditions.items()}


def _build(entry: Mapping[str, Quantity], values: Values) -> HeadProbe:
    meta_init, same_task = entry.values()
    return HeadProbe(meta_init=values.accuracy(meta_init), same_task=values.edited_accuracy(same_task))


def _table(metrics: ProbeMetrics, text: Format) -> Table | None:
    """Return a row for each model and edit."""
    rows = [
        (
            name,
            edit,
            text.mean(found.meta_init.accuracy),
            text.mean(found.same_task.accuracy),
            text.delta(found.same_task.delta),
            text.delta(found.same_task.delta_to_learned),
        )
        for name, model in metrics.items()
        for edit, found in model.own_head.items()
    ]
    header = ("model", "rates", "own head before", "after", "delta", "delta to learned")
    return Table(header, rows, names=2) if rows else None


SECTION = Section("own_head", "own_head", _plan, _build, _table, protocols=("same-task",))
