"""What adaptation to another task changes for linear classifiers of all classes of a split."""

from collections.abc import Sequence

from nilr.report.figures.figure import Drawing, Kind, Material, Table
from nilr.report.numbers import NOTHING, Estimate, accuracy, p_value, points
from nilr.report.subjects import Subject
from nilr.results.probe import ProtocolMetrics
from nilr.sections import changes

_CAUTION = (
    "Intervals are over tasks, each with other images to fit and to evaluate; they say nothing about other classes."
)


def make(material: Material) -> Drawing | None:
    """Return the figure of all models whose features linear classifiers evaluated before and after adaptation."""
    found = gains(material.subjects)
    if not found:
        return None
    return Drawing(
        lambda frame: changes.draw(found, frame, "delta to meta-init, points", unit=100),
        changes.sentence(found, lambda delta: f"{points(delta)} points"),
        table(material.subjects),
        _CAUTION,
        open=True,
    )


KIND = Kind("universality", "Universality", "`nilr probe MODEL --universality val`", make)


def gains(subjects: Sequence[Subject]) -> changes.Changes:
    """Return the differences to meta-init by classifier, protocol and model."""
    found: dict[str, dict[str, dict[str, Estimate]]] = {}
    for subject in subjects:
        for classifier, row in subject.probe.universality.items():
            if row.cross_task and row.cross_task.delta:
                of_classifier = found.setdefault(f"{classifier} regression", {"cross-task": {}})
                of_classifier["cross-task"][subject.label] = row.cross_task.delta
    return found


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
