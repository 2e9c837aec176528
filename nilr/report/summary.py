"""The report's table for the terminal: one row for each model."""

from collections.abc import Mapping, Sequence

from nilr.report.figures.figure import Material
from nilr.report.numbers import percent, points
from nilr.report.sparkline import sparkline
from nilr.report.subjects import Subject
from nilr.results.probe import ProtocolMetrics
from nilr.sections.curves import LAYERS, STEPS, ordered

HEADER = ("question", "model", "meta-init", "same-task", "cross-task", "by layer", "by step", "negative rates")

_LONGEST = 16


def rows(material: Material) -> list[tuple[str | None, ...]]:
    """Return the cells below `HEADER`: accuracies in percent, differences in points, curves as small bars."""
    shares = {history.label: history.share_negative for history in material.histories}
    found = [_row(subject, shares.pop(subject.label, None)) for subject in material.subjects]
    return [*found, *((None, label, None, None, None, None, None, _shares(left)) for label, left in shares.items())]


def _row(subject: Subject, shares: Sequence[float] | None) -> tuple[str | None, ...]:
    probe = subject.probe
    return (
        subject.question,
        subject.label,
        percent(probe.meta_init.accuracy.mean),
        _delta(probe.same_task),
        _delta(probe.cross_task),
        _curve(ordered(LAYERS, probe.layers)),
        _curve(ordered(STEPS, probe.steps)),
        _shares(shares),
    )


def _delta(metrics: ProtocolMetrics | None) -> str | None:
    return None if metrics is None or metrics.delta is None else points(metrics.delta)


def _curve(curves: Mapping[str, Mapping[str, ProtocolMetrics]]) -> str | None:
    """Return the accuracies under the first of the protocols that the curves have."""
    for protocol in ("same-task", "meta-init", "cross-task"):
        values = [row[protocol].accuracy.mean for row in curves.values() if protocol in row]
        if len(values) > 1:
            return sparkline(values, _LONGEST)
    return None


def _shares(shares: Sequence[float] | None) -> str | None:
    return f"{sparkline(shares, _LONGEST)} {percent(shares[-1])}" if shares else None
