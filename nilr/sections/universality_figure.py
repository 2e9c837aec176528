"""What adaptation to another task changes for linear classifiers of all classes of a split."""

from collections.abc import Mapping, Sequence

from nilr.report.figures.figure import Drawing, Kind, Material, Table, draw_interval, hide_rows
from nilr.report.numbers import NOTHING, accuracy, is_unchanged, p_value, points
from nilr.report.style import Axes, Figure, Frame, colour
from nilr.report.subjects import Subject
from nilr.results.probe import ProtocolMetrics
from nilr.results.records import Delta

_CAUTION = (
    "Intervals are over tasks, each with other images to fit and to evaluate; they say nothing about other classes."
)

Gains = Mapping[str, Mapping[str, Delta]]
"""Differences to meta-init by classifier and model."""


def make(material: Material) -> Drawing | None:
    """Return the figure of all models whose features linear classifiers evaluated before and after adaptation."""
    found = gains(material.subjects)
    if not found:
        return None
    return Drawing(lambda frame: draw(found, frame), sentence(found), table(material.subjects), _CAUTION, open=True)


KIND = Kind("universality", "Universality", "`nilr probe MODEL --universality val`", make)


def gains(subjects: Sequence[Subject]) -> Gains:
    """Return the differences to meta-init, by classifier and model."""
    found: dict[str, dict[str, Delta]] = {}
    for subject in subjects:
        for classifier, row in subject.probe.universality.items():
            if row.cross_task and row.cross_task.delta:
                found.setdefault(classifier, {})[subject.label] = row.cross_task.delta
    return found


def sentence(found: Gains) -> str:
    """Return the largest difference of each classifier."""
    parts = []
    for classifier, deltas in found.items():
        if all(map(is_unchanged, deltas.values())):
            parts.append(f"{classifier.capitalize()} regression: adaptation changes no accuracy.")
            continue
        label, delta = max(deltas.items(), key=lambda item: abs(item[1].mean))
        of_all = "largest change" if len(deltas) > 1 else "change"
        parts.append(f"{classifier.capitalize()} regression: the {of_all} is {points(delta)} points, in {label}.")
    return " ".join(parts)


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


def draw(found: Gains, frame: Frame) -> Figure:
    """Draw a panel for each classifier, with the difference to meta-init of each model."""
    most = max(map(len, found.values()))
    figure, panels, _ = frame.panels(len(found), 2, row=64 + 24 * most, sharex=True)
    for axes, (classifier, deltas) in zip(panels, found.items(), strict=True):
        _panel(axes, classifier, deltas, frame)
    return figure


def _panel(axes: Axes, classifier: str, deltas: Mapping[str, Delta], frame: Frame) -> None:
    hide_rows(axes)
    axes.set_title(f"{classifier} regression")
    for y, delta in enumerate(deltas.values()):
        draw_interval(axes, delta, y, "cross-task")
    axes.axvline(0, color=colour("muted"), linewidth=1.2)
    axes.set_yticks(range(len(deltas)), [frame.label(label) for label in deltas])
    axes.set_ylim(len(deltas) - 0.5, -0.5)
    axes.tick_params(labelbottom=True)
    axes.set_xlabel("delta to meta-init, points")
