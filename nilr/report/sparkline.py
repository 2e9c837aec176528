"""Small curves of text."""

import itertools
from collections.abc import Sequence

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(
    values: Sequence[float], columns: int = 24, *, low: float | None = None, high: float | None = None
) -> str:
    """Return values as bars, the mean of neighbours if there are more than columns; `low` to `high` is the scale."""
    n = min(columns, len(values))
    edges = [round(i * len(values) / n) for i in range(n + 1)] if n else []
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    if not means:
        return ""
    least, most = min(means) if low is None else low, max(means) if high is None else high
    if most <= least:
        return _BARS[3] * len(means)
    return "".join(_BARS[min(7, max(0, int((value - least) / (most - least) * 8)))] for value in means)
