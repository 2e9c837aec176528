"""Figures as cells of a table."""

from __future__ import annotations

from nilr.cli.screen import Cell, Screen
from nilr.results import Delta, Mean


def mean_cell(mean: Mean | None, screen: Screen) -> Cell:
    """Return a mean with half the width of its interval."""
    return None if mean is None else _interval(mean.mean, mean.ci95, screen)


def delta_cell(delta: Delta | None, screen: Screen) -> Cell:
    """Return a difference, signed, with half the width of its interval."""
    if delta is None:
        return None
    sign = "+" if delta.mean > 0 else ""
    return f"{sign}{_interval(delta.mean, delta.ci95, screen)}"


def p_cell(delta: Delta | None) -> Cell:
    """Return a difference's corrected p, or what stands for it where there is no test."""
    if delta is None:
        return None
    p = delta.p if delta.p_holm is None else delta.p_holm
    return delta.verdict if p is None else f"{p:.2g}"


def _interval(mean: float, ci95: float | None, screen: Screen) -> str:
    return f"{screen.share(mean)}" if ci95 is None else f"{screen.share(mean)} ± {screen.share(ci95)}"
