"""Limits for scripts: figures of a probe that must not be lower than a fraction."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nilr.config.evaluation import FIGURES, ProbeSettings
from nilr.errors import NilrError, UsageError, known_names
from nilr.results.probe import ProbeMetrics
from nilr.results.result import Result


@dataclass(frozen=True)
class Limit:
    """One limit of `--fail-below`."""

    protocol: str
    figure: str  # accuracy, or delta: the difference to meta-init
    least: float  # a fraction


def parse_limits(texts: Sequence[str]) -> list[Limit]:
    """Return limits from texts such as `same-task.accuracy=0.45`, also several with commas.

    Raises:
        UsageError: a text is not a limit, or names an unknown figure.
    """
    return [_parse(text.strip()) for part in texts for text in part.split(",")]


def check(settings: ProbeSettings, result: Result[ProbeMetrics]) -> None:
    """Check the limits of --fail-below.

    Raises:
        NilrError: a figure is too low, or was not measured.
    """
    check_limits(parse_limits(settings.fail_below), result.metrics, [model.name for model in result.models])


def check_limits(limits: Sequence[Limit], metrics: ProbeMetrics, models: Sequence[str]) -> None:
    """Check that every model reaches every limit.

    Raises:
        NilrError: a figure is too low, or was not measured.
    """
    low = []
    for name in models:
        for limit in limits:
            found: Any = getattr(metrics[name], limit.protocol.replace("-", "_"))
            mean = getattr(found, limit.figure, None)
            figure = f"{limit.protocol}.{limit.figure}"
            if mean is None:
                raise NilrError(f"--fail-below: `{name}` has no {figure}", hint="evaluate it with --protocol all")
            if mean.mean < limit.least:
                unit = "%" if limit.figure == "accuracy" else "points"
                low.append(f"{figure} of `{name}` is {100 * mean.mean:.2f} {unit}, below {100 * limit.least:g} {unit}")
    if low:
        raise NilrError("; ".join(low))


def _parse(text: str) -> Limit:
    key, equals, number = text.partition("=")
    protocol, _, figure = key.partition(".")
    try:
        least = float(number)
    except ValueError:
        least = math.nan
    if key not in FIGURES:
        raise UsageError(f"--fail-below `{text}`: there is no figure `{key}`", hint=known_names(key, FIGURES))
    if not equals or math.isnan(least):
        raise UsageError(f"--fail-below `{text}` has no limit", hint=f"write {key}=0.45: a fraction, not percent")
    if not -1 <= least <= 1:
        hint = f"a limit is a fraction: {least / 100:g} is {least:g} %"
        raise UsageError(f"--fail-below `{text}`: {number} is not between -1 and 1", hint=hint)
    return Limit(protocol, figure, least)
