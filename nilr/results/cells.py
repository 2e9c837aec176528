"""Means and differences as text for a table; `share` formats a fraction, perhaps as a percentage."""

from __future__ import annotations

from collections.abc import Callable

from nilr.results.records import Delta, Mean

Cell = str | None
Share = Callable[[float], Cell]


def mean_cell(mean: Mean | None, share: Share) -> Cell:
    """Return a mean with the half width of its interval."""
    return None if mean is None else _interval(mean.mean, mean.ci95, share)


def delta_cell(delta: Delta | None, share: Share) -> Cell:
    """Return a signed difference with the half width of its interval."""
    if delta is None:
        return None
    sign = "+" if delta.mean > 0 else ""
    return f"{sign}{_interval(delta.mean, delta.ci95, share)}"


def p_cell(delta: Delta | None) -> Cell:
    """Return the corrected p of a difference, or why there is no test."""
    if delta is None:
        return None
    p = delta.p if delta.p_holm is None else delta.p_holm
    return delta.verdict if p is None else f"{p:.2g}"


def _interval(mean: float, ci95: float | None, share: Share) -> str:
    return f"{share(mean)}" if ci95 is None else f"{share(mean)} ± {share(ci95)}"
