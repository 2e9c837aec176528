"""The protocols' own numbers, which every result of a probe has."""

from nilr.report.numbers import corrected_p
from nilr.report.subjects import by_protocol
from nilr.results.probe import ProbeMetrics
from nilr.results.records import Delta
from nilr.sections.section import Format, Table
from nilr.words import signed


def table(metrics: ProbeMetrics, text: Format) -> Table:
    """Return a row for each model and protocol."""
    rows = []
    for name, model in metrics.items():
        for protocol, found in by_protocol(model).items():
            effect = None if found.delta is None or found.delta.d is None else signed(found.delta.d)
            means = (text.mean(found.accuracy), text.delta(found.delta))
            rows.append((name, protocol, *means, effect, p_cell(found.delta), str(found.accuracy.n_episodes)))
    header = ("model", "protocol", "accuracy", "delta to meta-init", "d", p_header(metrics), "episodes")
    return Table(header, rows, names=2)


def p_header(metrics: ProbeMetrics) -> str:
    """Return the header of a column of p: whether they are corrected for their number."""
    deltas = [found.delta for model in metrics.values() for _, found in by_protocol(model).items() if found.delta]
    return "p (Holm)" if any(delta.p_holm not in (None, delta.p) for delta in deltas) else "p"


def p_cell(delta: Delta | None) -> str | None:
    """Return the corrected p of a difference, or why there is no test."""
    if delta is None:
        return None
    p = corrected_p(delta)
    return delta.verdict if p is None else f"{p:.2g}"
