"""Values of every episode -> means with intervals, and paired differences."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from nilr.metrics import Interval, mean_interval, paired_difference
from nilr.probes.conditions import META_INIT, Condition, Quantity
from nilr.probes.edits import LEARNED
from nilr.results.probe import EditMetrics, ProtocolMetrics
from nilr.results.records import Delta, Mean


def mean_of(values: Tensor) -> Mean:
    """Return the mean of values (n_episodes,) with its interval."""
    interval = mean_interval(values)
    return Mean(mean=interval.mean, ci95=interval.ci95, n_episodes=interval.n)


def mean_where_defined(values: Tensor) -> Mean | None:
    """Return the mean of those values (n_episodes,) that are not NaN; None if all are."""
    defined = values[~values.isnan()]
    return mean_of(defined) if len(defined) else None


def paired_delta(values: Tensor, reference: Tensor, *, interval: Interval = "t", seed: int = 0) -> Delta:
    """Return the paired difference of values to a reference, both (n_episodes,)."""
    return Delta(**dataclasses.asdict(paired_difference(values, reference, interval=interval, seed=seed)))


@dataclass(frozen=True)
class Values:
    """What a probe measured of one model: float64 (n_episodes,) by quantity, NaN where undefined.

    `interval` is that of the differences, `seed` that of a bootstrap interval.
    """

    by_quantity: Mapping[Quantity, Tensor]
    interval: Interval = "t"
    seed: int = 0
    bodies: "tuple[Values, ...]" = ()  # those of each untrained body, if these are their means

    def __getitem__(self, quantity: Quantity) -> Tensor:
        return self.by_quantity[quantity]

    def listed(self, quantity: Quantity) -> list[float | None]:
        """Return the values in episode order; None where undefined."""
        return [None if value != value else value for value in self[quantity].tolist()]

    def delta(self, quantity: Quantity, reference: Condition) -> Delta:
        """Return the difference of a quantity to the same reading under another condition."""
        return self.difference(self[quantity], self[quantity._replace(condition=reference)])

    def difference(self, values: Tensor, reference: Tensor) -> Delta:
        """Return the paired difference of values to a reference, both (n_episodes,)."""
        return paired_delta(values, reference, interval=self.interval, seed=self.seed)

    def accuracy(self, quantity: Quantity) -> ProtocolMetrics:
        """Return an accuracy with its difference to meta-init."""
        delta = None if quantity.condition == META_INIT else self.delta(quantity, META_INIT)
        return ProtocolMetrics(accuracy=mean_of(self[quantity]), delta=delta)

    def edited_accuracy(self, quantity: Quantity) -> EditMetrics:
        """Return an accuracy with its differences to meta-init and to the learned rates."""
        learned = replace(quantity.condition, edit=LEARNED)
        to_learned = None if quantity.condition == learned else self.delta(quantity, learned)
        return EditMetrics(**dict(self.accuracy(quantity)), delta_to_learned=to_learned)
