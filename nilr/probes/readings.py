"""Readings: the numbers that a probe computes from what a model makes of one episode."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn.functional import linear

from nilr.metrics import accuracy
from nilr.models.parameters import layer, part
from nilr.probes import geometry
from nilr.probes.conditions import View
from nilr.probes.linear_classifiers import CLASSIFIERS
from nilr.probes.neighbours import RULES, Distance
from nilr.probes.similarity import MEASURES, Activations
from nilr.probes.transfer import Sign


@dataclass(frozen=True)
class NeighbourAccuracy:
    """The share of the queries that their labelled neighbours classify correctly."""

    neighbours: str  # a name in `nilr.probes.neighbours.RULES`
    distance: Distance  # of two features
    layer: str | None = None  # classify by the flattened output of this layer; None: by the features

    def __call__(self, view: View, _before: View) -> float:
        """Return the accuracy on the view's episode."""
        return self.correct(view).double().mean().item()

    def correct(self, view: View) -> Tensor:
        """Return whether each query is classified correctly, (N*Q,)."""
        support, query = view.features
        if self.layer is not None:
            support, query = (values.flatten(1) for values in view.activations[self.layer])
        labels = view.episode.support_y
        n_way = int(labels.max()) + 1
        scores = RULES[self.neighbours](query, support, labels, n_way, self.distance)
        return scores.argmax(-1) == view.episode.query_y


@dataclass(frozen=True)
class TurnedQueries:
    """The number of queries that are classified correctly only after adaptation ("right"), or only before ("wrong")."""

    accuracy: NeighbourAccuracy
    to: Literal["right", "wrong"]

    def __call__(self, view: View, before: View) -> float:
        """Return the number on the views' episode."""
        was, now = self.accuracy.correct(before), self.accuracy.correct(view)
        return (now & ~was if self.to == "right" else was & ~now).sum().item()


@dataclass(frozen=True)
class LinearAccuracy:
    """The share of the queries that a linear classifier classifies correctly, fitted to the support.

    It is read on all classes of a split, with many images of each.
    """

    classifier: str  # a name in `nilr.probes.linear_classifiers.CLASSIFIERS`

    def __call__(self, view: View, _before: View) -> float:
        """Return the accuracy on the view's episode."""
        support, query, fitted, judged = (
            values.cpu() for values in (*view.features, view.episode.support_y, view.episode.query_y)
        )
        scores = CLASSIFIERS[self.classifier](query, support, fitted, int(fitted.max()) + 1)
        return accuracy(scores, judged).item()


@dataclass(frozen=True)
class HeadAccuracy:
    """The share of the queries that the model's head classifies correctly."""

    def __call__(self, view: View, _before: View) -> float:
        """Return the accuracy on the view's episode."""
        _, query = view.features
        logits = linear(query, view.params["head.weight"], view.params["head.bias"])
        return accuracy(logits, view.episode.query_y).item()


@dataclass(frozen=True)
class Geometry:
    """A measure of `nilr.probes.geometry.MEASURES` on the features of the query images; NaN if undefined."""

    measure: str

    def __call__(self, view: View, _before: View) -> float:
        """Return the measure of the view, whose classes have at least `geometry.MIN_IMAGES` query images."""
        _, query = view.features
        n_way = int(view.episode.query_y.max()) + 1
        by_class = query.double().reshape(n_way, -1, query.shape[1])
        return geometry.MEASURES[self.measure](by_class)


@dataclass(frozen=True)
class Similarity:
    """A measure of `nilr.probes.similarity.MEASURES` on a layer's outputs for the query images; NaN if undefined."""

    layer: str
    measure: str

    def __call__(self, view: View, before: View) -> float:
        """Return the measure of the view, or between both views."""
        return MEASURES[self.measure](self._activations(before), self._activations(view))

    def _activations(self, view: View) -> Activations:
        _, query = view.activations[self.layer]
        return Activations(query, view.images, view.episode.query_y)


@dataclass(frozen=True)
class LossChange:
    """The change of the query loss of the model's head by adaptation, in nats."""

    def __call__(self, view: View, before: View) -> float:
        """Return the loss after adaptation minus the loss before."""
        return view.query_loss - before.query_loss


@dataclass(frozen=True)
class PredictedLossChange:
    """The same to first order: the query loss's gradient before adaptation times the displacement.

    Attributes:
        sign: count only the steps with rates of this sign; None: all.
        where: count only these elements: `all`, `body`, `head` or those of a layer.
    """

    sign: Sign | None = None
    where: str = "all"

    def __call__(self, view: View, before: View) -> float:
        """Return the sum of gradient times displacement; ValueError if the view is not adapted."""
        if view.adaptation is None:
            raise ValueError("no displacement at the meta-initialisation")
        path = view.adaptation
        moved = path.displacement if self.sign is None else path.displacement_by_sign[self.sign]
        chosen = [name for name in moved if self.where in ("all", part(name), layer(name))]
        return sum((before.query_gradient[name].double() * moved[name]).sum().item() for name in chosen)
