"""Numbers in sentences and tables."""

from __future__ import annotations

from collections.abc import Sequence

from nilr.report.subjects import Measure

NOTHING = "\N{EN DASH}"

_BARS = "▁▂▃▄▅▆▇█"
_MINUS = "\N{MINUS SIGN}"


def percent(value: float, digits: int = 1) -> str:
    """Return a fraction in percent."""
    return f"{signed(100 * value, digits, plus=False)} %"


def signed(value: float, digits: int = 2, *, plus: bool = True) -> str:
    """Return a number with its sign."""
    text = f"{value:+.{digits}f}" if plus else f"{value:.{digits}f}"
    return text.replace("-", _MINUS)


def points(measure: Measure) -> str:
    """Return a difference of accuracies in percentage points, with its interval."""
    if measure.low is None or measure.high is None:
        return f"{signed(100 * measure.mean)}"
    if measure.low == measure.high == 0:
        return "exactly 0"
    low, high = measure.mean - measure.low, measure.high - measure.mean
    if abs(low - high) < 5e-5:
        return f"{signed(100 * measure.mean)} ± {100 * high:.2f}"
    return f"{signed(100 * measure.mean)} [{signed(100 * measure.low)}, {signed(100 * measure.high)}]"


def accuracy(measure: Measure) -> str:
    """Return an accuracy in percent, with its interval."""
    if measure.low is None or measure.high is None:
        return percent(measure.mean, 2)
    return f"{100 * measure.mean:.2f} ± {100 * (measure.high - measure.low) / 2:.2f} %"


def p_value(p: float | None) -> str:
    """Return a p."""
    if p is None:
        return NOTHING
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def counted(n: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def listed(parts: Sequence[str], longest: int = 4) -> str:
    """Return a list in words, cut after a few."""
    shown = list(parts[:longest])
    if len(parts) > longest:
        shown.append(f"{len(parts) - longest} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else "none"


def spark(values: Sequence[float]) -> str:
    """Return a line of small bars, from the least value to the largest."""
    if not values:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(_BARS[round((value - low) / span * (len(_BARS) - 1))] for value in values)


def thinned(values: Sequence[float], longest: int) -> list[float]:
    """Return at most `longest` of the values, evenly, with the first and the last."""
    if len(values) <= longest:
        return list(values)
    return [values[round(i * (len(values) - 1) / (longest - 1))] for i in range(longest)]
