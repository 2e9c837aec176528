"""`own_head`: accuracy of the model's own head instead of neighbours, before and after adaptation."""

from collections.abc import Iterator, Mapping, Sequence

from nilr.probes.conditions import META_INIT, Condition, Quantity
from nilr.probes.readings import HeadAccuracy
from nilr.results.probe import HeadProbe, ModelProbe
from nilr.sections.section import Cell, Format, Request, Section, table_of
from nilr.sections.values import Values


def _plan(request: Request) -> dict[str, dict[str, Quantity]]:
    """Return by edit and protocol; never cross-task, since the head distinguishes the classes that it adapted to."""
    conditions = {edit: (META_INIT, Condition("same-task", edit)) for edit in request.edits}
    return {edit: {c.protocol: Quantity(c, HeadAccuracy()) for c in both} for edit, both in conditions.items()}


def _build(entry: Mapping[str, Quantity], values: Values) -> HeadProbe:
    meta_init, same_task = entry.values()
    return HeadProbe(meta_init=values.accuracy(meta_init), same_task=values.edited_accuracy(same_task))


def _cells(model: ModelProbe, text: Format) -> Iterator[Sequence[Cell]]:
    for edit, found in model.own_head.items():
        before, after = found.meta_init, found.same_task
        means = text.mean(before.accuracy), text.mean(after.accuracy)
        yield edit, *means, text.delta(after.delta), text.delta(after.delta_to_learned)


_TABLE = table_of(("rates", "own head before", "after", "delta", "delta to learned"), _cells)
SECTION = Section("own_head", "own_head", _plan, _build, _TABLE, protocols=("same-task",))
