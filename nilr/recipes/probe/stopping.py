"""How far a probe's differences can be trusted: corrected for their number, and when there are enough episodes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from nilr.config import ProbeSettings
from nilr.inference import episodes_for_half_width, holm, power
from nilr.results.probing import ModelProbe, ProbeMetrics
from nilr.results.records import Delta

# A spread estimated from fewer episodes is no ground to stop on.
LEAST_EPISODES = 50
# Aim a little beyond the episodes that the spread seen so far asks for: a look costs as much as the episodes it saves.
_MARGIN = 1.02

A_POINT = 0.01


def deltas_in(metrics: Mapping[str, ModelProbe]) -> list[Delta]:
    """Return every paired difference of a probe, wherever it stands."""
    return [Delta.model_validate(found) for model in metrics.values() for found in _deltas(model.model_dump())]


def correct(metrics: ProbeMetrics) -> ProbeMetrics:
    """Return the metrics with each difference's p adjusted for their number (Holm); see `nilr.inference.holm`."""
    dumped = {name: model.model_dump() for name, model in metrics.items()}
    tested = [(name, delta) for name, model in dumped.items() for delta in _deltas(model) if delta["p"] is not None]
    # A difference may stand in several places, as the last layer's and the last step's: it is one test all the same.
    different = {_same(name, delta): delta["p"] for name, delta in tested}
    adjusted = dict(zip(different, holm(list(different.values())), strict=True))
    for name, delta in tested:
        delta["p_holm"] = adjusted[_same(name, delta)]
    return {name: ModelProbe.model_validate(model) for name, model in dumped.items()}


def _same(name: str, delta: Mapping[str, Any]) -> tuple[Any, ...]:
    return (name, delta["mean"], delta["ci95"], delta["p"])


def next_look(settings: ProbeSettings, metrics: ProbeMetrics, done: int) -> int | None:
    """Return the number of episodes to judge before looking again; None when it is enough.

    Only widths decide, never a mean or a p: stopping when a difference looks clear would make clear differences of
    nothing.
    """
    if settings.until_ci is None or done >= settings.max_episodes:
        return None
    widest = max((delta.ci95 or 0.0 for delta in deltas_in(metrics)), default=0.0)
    if widest <= settings.until_ci:
        return None
    wanted = math.ceil(_MARGIN * done * (widest / settings.until_ci) ** 2)
    return min(settings.max_episodes, max(done + 1, wanted))


def first_look(settings: ProbeSettings) -> int:
    """Return the number of episodes to judge in any case."""
    if settings.until_ci is None:
        return settings.n_episodes
    return min(settings.max_episodes, max(settings.n_episodes, LEAST_EPISODES))


def precision_note(metrics: ProbeMetrics, *, until_ci: float | None) -> str | None:
    """Say how sharp the widest paired difference is, and what more episodes would bring; None without any interval."""
    widest = max((delta for delta in deltas_in(metrics) if delta.ci95), key=lambda delta: delta.ci95 or 0, default=None)
    if widest is None or widest.ci95 is None or widest.d is None or widest.d == 0:
        return None
    n = next(iter(metrics.values())).meta_init.accuracy.n_episodes
    spread = abs(widest.mean / widest.d)
    wanted = until_ci or _half_of(widest.ci95)
    missing = wanted < widest.ci95
    needed = f"; ± {100 * wanted:.2g} takes about {episodes_for_half_width(spread, wanted):,}" if missing else ""
    return (
        f"Every paired interval, over {n:,} episodes, is ± {100 * widest.ci95:.2f} points or narrower{needed}. "
        f"A true difference of 1 point would be found with {100 * power(A_POINT, spread, n):.0f} % probability."
    )


def _half_of(width: float) -> float:
    """Return a round width of about the half: one significant digit."""
    digits = -math.floor(math.log10(width / 2))
    return round(width / 2, digits)


def _deltas(tree: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - a dump of any depth
    if not isinstance(tree, dict):
        return
    if {"mean", "ci95", "p"} <= tree.keys():
        yield tree
        return
    for branch in tree.values():
        yield from _deltas(branch)
