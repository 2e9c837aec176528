"""The last line of a probe, in words: which of the paper's four signs the result shows."""

from __future__ import annotations

from collections.abc import Mapping

from nilr.probes.claims import CLAIMS
from nilr.probes.edits import LEARNED
from nilr.results.probing import ModelProbe, ProbeMetrics
from nilr.results.records import Delta


def verdict(algorithms: Mapping[str, str], metrics: ProbeMetrics) -> str:
    """Say which of the claimed signs the result shows, which it contradicts, and which lie within the interval of zero.

    Args:
        algorithms: algorithm of each model, by the model's name.
        metrics: the probe's figures, by the model's name.
    """
    parts = [
        f"{name} {protocol} {'+' if claimed > 0 else '-'} {_finding(delta, claimed)}"
        for name, algorithm in algorithms.items()
        for protocol, claimed in CLAIMS.get(algorithm, {}).items()
        if (delta := delta_of(metrics[name], protocol)) is not None
    ]
    if not parts:
        return "Of the paper's four signs (maml and metasgd, same-task and cross-task) none was measured here."
    scope = "intervals are over episodes, conditional on these models and classes"
    return f"Of the paper's four signs, measured here: {'; '.join(parts)} ({scope})."


def delta_of(probe: ModelProbe, protocol: str) -> Delta | None:
    """Return the paired delta under a protocol with the learned rates, or None where it was not asked for."""
    learned = probe.edits.get(LEARNED, probe)
    figures = learned.same_task if protocol == "same-task" else learned.cross_task
    return None if figures is None else figures.delta


def _finding(delta: Delta, claimed: int) -> str:
    points = f"{100 * delta.mean:+z.2f}"
    if delta.ci95 is None:
        return f"undecided ({points} points, one episode)"
    if delta.verdict is not None:
        return f"{'shown' if delta.mean * claimed > 0 else 'not shown'} ({points} points, {delta.verdict})"
    measured = f"({points} ± {100 * delta.ci95:.2f} points)"
    if abs(delta.mean) <= delta.ci95:
        return f"within the interval of zero {measured}"
    return f"shown {measured}" if delta.mean * claimed > 0 else f"contradicted {measured}"
