"""The report on a terminal: one row for each model."""

from __future__ import annotations

from collections.abc import Mapping

from nilr.report.figures.figure import Material
from nilr.report.subjects import Cells, Subject
from nilr.report.words import percent, points, spark, thinned

HEADER = ("model", "meta-init", "same-task", "cross-task", "by layer", "by step", "negative rates")

_LONGEST = 16


def rows(material: Material) -> list[tuple[str | None, ...]]:
    """Return the cells below `HEADER`: accuracies in percent, differences in points, curves as small bars."""
    negative = {history.label: history.share_negative for history in material.histories}
    found: list[tuple[str | None, ...]] = []
    for subject in material.subjects:
        cells = subject.cells
        shares = negative.pop(subject.label, None)
        found.append(
            (
                subject.label,
                percent(cells["meta-init"].accuracy.mean) if "meta-init" in cells else None,
                _delta(cells, "same-task"),
                _delta(cells, "cross-task"),
                _curve(subject, subject.layers),
                _curve(subject, dict(sorted(subject.steps.items(), key=lambda item: float(item[0])))),
                _shares(shares),
            )
        )
    found += [(label, None, None, None, None, None, _shares(shares)) for label, shares in negative.items()]
    return found


def _delta(cells: Cells, protocol: str) -> str | None:
    delta = cells[protocol].delta if protocol in cells else None
    return None if delta is None else points(delta)


def _curve(subject: Subject, curves: Mapping[str, Cells]) -> str | None:
    """Return the curve of the last protocol that was judged after adaptation to its own task, else of what there is."""
    for protocol in ("same-task", "meta-init", "cross-task"):
        values = [cells[protocol].accuracy.mean for cells in curves.values() if protocol in cells]
        if len(values) > 1:
            return spark(thinned(values, _LONGEST))
    return None


def _shares(shares: object) -> str | None:
    if not isinstance(shares, list | tuple) or not shares:
        return None
    return f"{spark(thinned(shares, _LONGEST))} {percent(shares[-1])}"
