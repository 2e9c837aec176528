"""`own_head`: accuracy of the model's own head instead of neighbours, before and after adaptation."""

from collections.abc import Iterator, Mapping, Sequence

from nilr.probes.conditions import META_INIT, Condition, Quantity
from nilr.probes.edits import LEARNED
from nilr.probes.readings import HeadAccuracy
from nilr.report.figures.figure import Table
from nilr.report.numbers import Estimate, accuracy, points
from nilr.report.subjects import Subject
from nilr.results.probe import HeadProbe, ModelProbe
from nilr.sections import changes
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


_CAUTION = (
    "Before adaptation, a head of a meta-learner knows no class of the episode, so its change is large where its "
    "accuracy before is that of chance. The neighbours classify the same queries."
)


def differences(model: ModelProbe) -> dict[str, dict[str, Estimate]]:
    """Return the differences to meta-init of the head with the learned rates, and of the neighbours."""
    deltas = {
        "own head": found.same_task.delta if (found := model.own_head.get(LEARNED)) else None,
        "neighbours": model.same_task.delta if model.own_head and model.same_task else None,
    }
    return {reader: {"same-task": delta} for reader, delta in deltas.items() if delta is not None}


def report_table(subjects: Sequence[Subject]) -> Table:
    """Return a row for each model and edit."""
    rows = [
        (
            subject.label,
            edit,
            accuracy(found.meta_init.accuracy),
            accuracy(found.same_task.accuracy),
            points(found.same_task.delta),
            points(found.same_task.delta_to_learned),
        )
        for subject in subjects
        for edit, found in subject.probe.own_head.items()
    ]
    header = ("model", "rates", "before", "after", "difference, points", "to learned rates, points")
    return Table(header, rows)


KIND = changes.kind(
    "own-head",
    "The model's own head",
    "--own-head",
    differences,
    report_table,
    _CAUTION,
    axis="difference to before, points",
    written=lambda delta: f"{points(delta)} points",
    unit=100,
)
_TABLE = table_of(("rates", "own head before", "after", "delta", "delta to learned"), _cells)
SECTION = Section("own_head", "own_head", _plan, _build, _TABLE, KIND, protocols=("same-task",))
