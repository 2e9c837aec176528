"""How far the differences of a probe can be trusted: correction for their number, and when to stop."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from nilr.config.evaluation import ProbeSettings
from nilr.inference import episodes_for_half_width, holm, power, student_quantile
from nilr.results.probe import ModelProbe, ProbeMetrics
from nilr.results.records import Delta, Mean, Record
from nilr.words import number

# A spread estimated from fewer episodes is too uncertain to stop on.
LEAST_EPISODES = 50
# Plan slightly more episodes than the estimate: another look costs as much as the episodes that it saves.
_MARGIN = 1.02

_PROTOCOLS = ("meta_init", "same_task", "cross_task")
_POINT = 0.01
_HUNDREDTH = 1e-4  # of a point
_ALMOST_CERTAIN = 99  # percent


def deltas_in(metrics: Mapping[str, Any]) -> list[Delta]:
    """Return all paired differences of a probe, or of a part of it."""
    found: list[Delta] = []

    def collect(delta: Delta) -> Delta:
        found.append(delta)
        return delta

    _map_deltas(metrics, collect)
    return found


def over_episodes(metrics: Mapping[str, ModelProbe]) -> list[Delta | Mean]:
    """Return the paired differences over the probe's episodes: to a reference, and to chance in `harm`.

    Those of universality are over tasks, whose number is fixed.
    """
    paired = deltas_in({name: model.model_copy(update={"universality": {}}) for name, model in metrics.items()})
    harm = [found for model in metrics.values() for found in model.harm.values()]
    return [*paired, *(outcome.excess for found in harm for outcome in (found.harmed, found.helped, found.unchanged))]


def correct(metrics: ProbeMetrics) -> ProbeMetrics:
    """Return the metrics with the p of each difference adjusted for their number; see `nilr.inference.holm`.

    The protocols are one family of tests over all models, and each section is another. So what else a probe measures
    does not change the p of a protocol.
    """
    for fields in [_PROTOCOLS, *([field] for field in ModelProbe.model_fields if field not in _PROTOCOLS)]:
        parts = {name: {field: getattr(model, field) for field in fields} for name, model in metrics.items()}
        adjusted = _correct_family(parts)
        metrics = {name: model.model_copy(update=adjusted[name]) for name, model in metrics.items()}
    return metrics


def _correct_family(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the parts of each model, by its name, with the p of all differences in them adjusted together."""

    def key(name: str, delta: Delta) -> tuple[object, ...]:
        # The same difference can be in several places, for example at two shares of classes. It counts as one test.
        return name, delta.mean, delta.ci95, delta.p

    deltas = [(name, delta) for name, part in parts.items() for delta in deltas_in(part)]
    tests = {key(name, delta): delta.p for name, delta in deltas if delta.p is not None}
    adjusted = dict(zip(tests, holm(list(tests.values())), strict=True))

    def adjust(name: str, delta: Delta) -> Delta:
        return delta.model_copy(update={"p_holm": adjusted.get(key(name, delta))})

    return {name: _map_deltas(part, partial(adjust, name)) for name, part in parts.items()}


def _map_deltas(part: Any, change: Callable[[Delta], Delta]) -> Any:  # noqa: ANN401 - any part of a result
    """Return the part with all its differences changed."""
    if isinstance(part, Delta):
        return change(part)
    if isinstance(part, Record):
        return part.model_copy(update={name: _map_deltas(value, change) for name, value in part})
    return {name: _map_deltas(value, change) for name, value in part.items()} if isinstance(part, Mapping) else part


def next_look(settings: ProbeSettings, metrics: ProbeMetrics, done: int) -> int | None:
    """Return the number of episodes to evaluate before the next look; None to stop.

    Only widths decide, not means or p-values: stopping as soon as a difference looks clear would find differences where
    there are none.
    """
    if settings.until_ci is None or done >= settings.max_episodes:
        return None
    widest = max((delta.ci95 or 0.0 for delta in over_episodes(metrics)), default=0.0)
    if widest <= settings.until_ci:
        return None
    wanted = math.ceil(_MARGIN * done * (widest / settings.until_ci) ** 2)
    return min(settings.max_episodes, max(done + 1, wanted))


def first_look(settings: ProbeSettings) -> int:
    """Return the number of episodes to evaluate in any case."""
    if settings.until_ci is None:
        return settings.n_episodes
    return min(settings.max_episodes, max(settings.n_episodes, LEAST_EPISODES))


def precision_note(metrics: ProbeMetrics, *, until_ci: float | None) -> str | None:
    """Describe the widest paired interval, and what more episodes would give; None without an interval."""
    n = next(iter(metrics.values())).meta_init.accuracy.n_episodes
    widest = max(over_episodes(metrics), key=lambda difference: difference.ci95 or 0, default=None)
    if widest is None or not widest.ci95:
        return None
    if isinstance(widest, Mean):
        spread = widest.ci95 * math.sqrt(n) / student_quantile(0.975, n - 1)
    elif widest.d:
        spread = abs(widest.mean / widest.d)
    else:
        return None
    half = widest.ci95 / 2
    wanted = until_ci or round(half, -math.floor(math.log10(half)))  # one significant digit
    needed = ""
    if wanted < widest.ci95:
        needed = f"; ± {number(100 * wanted, 2)} needs about {episodes_for_half_width(spread, wanted):,} episodes"
    width = f"{100 * widest.ci95:.2f}" if widest.ci95 >= _HUNDREDTH else number(100 * widest.ci95, 1)
    found = 100 * power(_POINT, spread, n)
    probability = f"{found:.0f} %" if found < _ALMOST_CERTAIN else f"more than {_ALMOST_CERTAIN} %"
    return (
        f"Over {n:,} episodes, every paired interval is ± {width} points or narrower{needed}. "
        f"A true difference of 1 point would be found with a probability of {probability}."
    )
