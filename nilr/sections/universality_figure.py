"""What adaptation to another task changes for linear classifiers of all classes of a split."""

from collections.abc import Sequence

from nilr.report.figures.figure import Table
from nilr.report.numbers import NOTHING, Estimate, accuracy, p_value, points
from nilr.report.subjects import Subject
from nilr.results.probe import ModelProbe, ProtocolMetrics
from nilr.sections import changes

_CAUTION = (
    "A model's interval is over tasks, each with other images to fit and to evaluate; that of several seeds is over "
    "seeds. Neither says anything about other classes."
)


def differences(model: ModelProbe) -> dict[str, dict[str, Estimate]]:
    """Return the differences to meta-init by classifier and protocol."""
    return {
        f"{classifier} regression": {"cross-task": row.cross_task.delta}
        for classifier, row in model.universality.items()
        if row.cross_task and row.cross_task.delta
    }


def table(subjects: Sequence[Subject]) -> Table:
    """Return a row for each model or control and each classifier."""

    def after(found: ProtocolMetrics | None) -> tuple[str, str, str]:
        if found is None:
            return NOTHING, NOTHING, NOTHING
        return accuracy(found.accuracy), points(found.delta), p_value(found.delta.p if found.delta else None)

    rows = [
        (subject.label, classifier, accuracy(row.meta_init.accuracy), *after(row.cross_task))
        for subject in subjects
        for classifier, row in subject.probe.universality.items()
        if row.meta_init
    ]
    return Table(("model", "classifier", "before", "after another task", "delta, points", "p"), rows)


KIND = changes.kind(
    "universality",
    "Universality",
    "--universality val",
    differences,
    table,
    _CAUTION,
    axis="delta to meta-init, points",
    written=lambda delta: f"{points(delta)} points",
    unit=100,
    is_open=True,
)
