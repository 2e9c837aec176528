"""Per-episode readings -> the figures of a probe's result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from torch import Tensor

from nilr.metrics import Interval, mean_interval, paired_difference
from nilr.probes.conditions import META_INIT, Condition
from nilr.probes.edits import LEARNED
from nilr.recipes.probing import ACCURACY, Readings
from nilr.results import Delta, EditMetrics, Mean, ModelProbe, ProtocolMetrics

V = TypeVar("V")


def summarise(
    readings: Readings, rates: Sequence[str] = (LEARNED,), *, interval: Interval = "t", seed: int = 0
) -> ModelProbe:
    """Return means with intervals, and deltas paired to meta-init and to the learned rates.

    Args:
        readings: of one model; of a control, at meta-init only.
        rates: the edits, first the one whose figures are the protocols' own.
        interval: of the deltas.
        seed: of a bootstrap interval.
    """
    delta = partial(delta_of, interval=interval, seed=seed)
    values = {condition: taken[ACCURACY] for condition, taken in readings.items()}
    reference = values[META_INIT]
    own = {
        protocol: ProtocolMetrics(accuracy=mean_of(value), delta=delta(value, reference))
        for protocol, value in _under(values, rates[0]).items()
    }
    edits = {
        name: {
            protocol: EditMetrics(
                accuracy=mean_of(value),
                delta=delta(value, reference),
                delta_to_learned=None if name == LEARNED else delta(value, values[Condition(protocol)]),
            )
            for protocol, value in found.items()
        }
        for name in rates
        if (found := _under(values, name))
    }
    meta_init = ProtocolMetrics(accuracy=mean_of(reference))
    return ModelProbe.model_validate({META_INIT.protocol: meta_init, **own, "edits": edits})


def episode_values(readings: Readings, rates: Sequence[str]) -> dict[str, Any]:
    """Return every value in episode order, along the paths of `summarise`."""
    values = {condition: taken[ACCURACY].tolist() for condition, taken in readings.items()}
    edits = {name: found for name in rates if (found := _under(values, name))}
    return {META_INIT.protocol: values[META_INIT], **_under(values, rates[0]), **({"edits": edits} if edits else {})}


def _under(values: Mapping[Condition, V], rates: str) -> dict[str, V]:
    """Return the values of the conditions that adapt with these rates, by protocol."""
    return {c.protocol: value for c, value in values.items() if c != META_INIT and c == Condition(c.protocol, rates)}


def mean_of(values: Tensor) -> Mean:
    """Return the mean of values (n_episodes,) with its interval."""
    interval = mean_interval(values)
    return Mean(mean=interval.mean, ci95=interval.ci95, n_episodes=interval.n)


def delta_of(values: Tensor, reference: Tensor, *, interval: Interval = "t", seed: int = 0) -> Delta:
    """Return the paired difference of values to a reference, both (n_episodes,)."""
    return Delta(**dataclasses.asdict(paired_difference(values, reference, interval=interval, seed=seed)))
