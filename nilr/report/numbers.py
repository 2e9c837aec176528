"""Means and their intervals, and how numbers are written in sentences and tables."""

import math
from collections.abc import Sequence
from typing import Protocol

from nilr.results.records import Delta
from nilr.words import counted, number, signed

NOTHING = "\N{EN DASH}"

_LEVEL = 0.05


class Estimate(Protocol):
    """A mean, and half the width of its 95 % interval if it has one."""

    @property
    def mean(self) -> float: ...  # noqa: D102
    @property
    def ci95(self) -> float | None: ...  # noqa: D102


def bounds(estimate: Estimate) -> tuple[float, float] | None:
    """Return the bounds of the 95 % interval: the stored ones, else symmetric ones."""
    if estimate.ci95 is None:
        return None
    low, high = (estimate.low, estimate.high) if isinstance(estimate, Delta) else (None, None)
    return (
        estimate.mean - estimate.ci95 if low is None else low,
        estimate.mean + estimate.ci95 if high is None else high,
    )


def corrected_p(delta: Delta) -> float | None:
    """Return p, corrected for the number of differences in its section if the result has that."""
    return delta.p if delta.p_holm is None else delta.p_holm


def is_unchanged(delta: Estimate) -> bool:
    """Return whether a difference is exactly zero in every episode."""
    return bounds(delta) == (0, 0)


def sign_found(delta: Delta) -> int:
    """Return the sign of a difference whose interval excludes zero and whose corrected p is below 0.05, else 0."""
    p = corrected_p(delta)
    return 0 if p is not None and p >= _LEVEL else interval_sign(delta)


def interval_sign(estimate: Estimate) -> int:
    """Return the sign of an estimate whose interval excludes zero, else 0."""
    low, high = bounds(estimate) or (-1, 1)
    return 1 if low > 0 else -1 if high < 0 else 0


def percent(value: float, digits: int = 1) -> str:
    """Return a fraction in percent."""
    return f"{100 * value:z.{digits}f} %"


def points(delta: Estimate | None) -> str:
    """Return a difference of accuracies in percentage points, with its interval."""
    if delta is None:
        return NOTHING
    mean, interval = signed(100 * delta.mean), bounds(delta)
    if interval is None:
        return mean
    if interval == (0, 0):
        return "exactly 0"
    low, high = interval
    if abs((delta.mean - low) - (high - delta.mean)) < 5e-5:
        return f"{mean} ± {100 * (high - delta.mean):.2f}"
    return f"{mean} [{signed(100 * low)}, {signed(100 * high)}]"


def plain(estimate: Estimate | None) -> str:
    """Return a number without a unit, with its interval."""
    if estimate is None:
        return NOTHING
    mean = number(estimate.mean, 3)
    return mean if estimate.ci95 is None else f"{mean} ± {number(estimate.ci95, 2)}"


def loss_change(mean: Estimate) -> str:
    """Return a change of a loss in nats, with its interval to two significant digits."""
    if bounds(mean) == (0, 0):
        return "exactly 0"
    size = abs(mean.ci95 or mean.mean)
    digits = max(0, 1 - math.floor(math.log10(size))) if size > 0 else 0
    change = signed(mean.mean, digits)
    return change if mean.ci95 is None else f"{change} ± {mean.ci95:.{digits}f}"


def accuracy(mean: Estimate) -> str:
    """Return an accuracy in percent, with its interval."""
    if mean.ci95 is None:
        return percent(mean.mean, 2)
    return f"{100 * mean.mean:.2f} ± {100 * mean.ci95:.2f} %"


def p_value(p: float | None) -> str:
    """Return a p-value with two significant digits."""
    if p is None:
        return NOTHING
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def listed(parts: Sequence[str], longest: int = 4) -> str:
    """Return a list in words, with at most `longest` of its parts."""
    shown = list(parts[:longest])
    if len(parts) > longest:
        shown.append(f"{len(parts) - longest} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else "none"


def joined(sentences: Sequence[str], longest: int = 8) -> str:
    """Return the first sentences, at most `longest`, and how many rows the table has more."""
    more = len(sentences) - longest
    return " ".join([*sentences[:longest], *([f"The table has {counted(more, 'more row')}."] if more > 0 else [])])
