"""Per-episode readings -> the figures of a probe's result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nilr.metrics import Interval, mean_interval, paired_difference
from nilr.probes.conditions import META_INIT
from nilr.recipes.probing import ACCURACY, Readings
from nilr.results import Delta, Mean, ModelProbe, ProtocolMetrics


def summarise(readings: Readings, *, interval: Interval = "t", seed: int = 0) -> ModelProbe:
    """Return means with intervals, and deltas paired to meta-init.

    Args:
        readings: of one model.
        interval: of the deltas.
        seed: of a bootstrap interval.
    """
    reference = readings[META_INIT][ACCURACY]
    return ModelProbe.model_validate(
        {
            condition.protocol: ProtocolMetrics(
                accuracy=mean_of(values[ACCURACY]),
                delta=None
                if condition == META_INIT
                else delta_of(values[ACCURACY], reference, interval=interval, seed=seed),
            )
            for condition, values in readings.items()
        }
    )


def episode_values(readings: Readings) -> Mapping[str, Any]:
    """Return every value in episode order, along the paths of `summarise`."""
    return {condition.protocol: values[ACCURACY].tolist() for condition, values in readings.items()}


def mean_of(values: Tensor) -> Mean:
    """Return the mean of values (n_episodes,) with its interval."""
    interval = mean_interval(values)
    return Mean(mean=interval.mean, ci95=interval.ci95, n_episodes=interval.n)


def delta_of(values: Tensor, reference: Tensor, *, interval: Interval = "t", seed: int = 0) -> Delta:
    """Return the paired difference of values to a reference, both (n_episodes,)."""
    return Delta(**dataclasses.asdict(paired_difference(values, reference, interval=interval, seed=seed)))
