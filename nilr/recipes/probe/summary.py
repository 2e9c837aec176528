"""Per-episode readings -> the figures of a probe's result."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from nilr.metrics import Interval, mean_interval, paired_difference
from nilr.probes.conditions import META_INIT, Condition
from nilr.probes.edits import LEARNED
from nilr.recipes.probe.judging import Readings
from nilr.recipes.probe.plan import OWN_HEAD, SIMILARITY, Path, Place
from nilr.results.probing import EditMetrics, ModelProbe, ProtocolMetrics
from nilr.results.records import Delta, Mean


def summarise(readings: Readings, places: Sequence[Place], *, interval: Interval = "t", seed: int = 0) -> ModelProbe:
    """Return means with intervals, and deltas paired to meta-init and to the learned rates.

    Args:
        readings: of one model; of a control, at meta-init only.
        places: where each figure stands.
        interval: of the deltas.
        seed: of a bootstrap interval.
    """
    delta = partial(delta_of, interval=interval, seed=seed)

    def figure(place: Place) -> Mean | ProtocolMetrics | None:
        section, condition, reading = place.path[0], place.condition, place.reading
        values = readings[condition][reading]
        if section == SIMILARITY:
            return mean_where_defined(values)
        accuracy = mean_of(values)
        changed = None if condition == META_INIT else delta(values, readings[META_INIT][reading])
        if section not in ("edits", OWN_HEAD) or changed is None:
            return ProtocolMetrics(accuracy=accuracy, delta=changed)
        learned = Condition(condition.protocol)
        to_learned = None if condition.rates == LEARNED else delta(values, readings[learned][reading])
        return EditMetrics(accuracy=accuracy, delta=changed, delta_to_learned=to_learned)

    return ModelProbe.model_validate(_tree((place.path, figure(place)) for place in places))


def episode_values(readings: Readings, places: Sequence[Place]) -> dict[str, Any]:
    """Return every value in episode order, along the paths of `summarise`; what is undefined is None."""
    values = ((place.path, readings[place.condition][place.reading].tolist()) for place in places)
    return _tree((path, [None if value != value else value for value in found]) for path, found in values)


def _tree(leaves: Iterable[tuple[Path, Any]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for (*branches, last), leaf in leaves:
        at = tree
        for branch in branches:
            at = at.setdefault(branch, {})
        at[last] = leaf
    return tree


def mean_where_defined(values: Tensor) -> Mean | None:
    """Return the mean of those values (n_episodes,) that are not NaN; None if none is."""
    defined = values[~values.isnan()]
    return mean_of(defined) if len(defined) else None


def mean_of(values: Tensor) -> Mean:
    """Return the mean of values (n_episodes,) with its interval."""
    interval = mean_interval(values)
    return Mean(mean=interval.mean, ci95=interval.ci95, n_episodes=interval.n)


def delta_of(values: Tensor, reference: Tensor, *, interval: Interval = "t", seed: int = 0) -> Delta:
    """Return the paired difference of values to a reference, both (n_episodes,)."""
    return Delta(**dataclasses.asdict(paired_difference(values, reference, interval=interval, seed=seed)))
