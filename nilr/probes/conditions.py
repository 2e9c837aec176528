"""Conditions and readings: a probe computes the parameters and features of a condition once for all its readings.

A condition says how a model arrives at the parameters that are evaluated. A view holds the features that they give for
the evaluated episode. A reading computes a number from a view.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from nilr.episodes import Episode
from nilr.errors import DivergedError
from nilr.meta.engine.contract import Engine
from nilr.models.learner import Params
from nilr.models.parameters import part
from nilr.probes.directions import Displacement, displace
from nilr.probes.edits import LEARNED, NORM_MATCHED, adapt
from nilr.probes.features import BatchStats, QueryBatch, episode_activations, episode_features, query_batches
from nilr.probes.similarity import identities
from nilr.probes.tasks import Permutation, Task, Tasks
from nilr.probes.transfer import Adaptation, query_gradient


@dataclass(frozen=True)
class Condition:
    """How a model arrives at the parameters that are evaluated."""

    protocol: str  # `meta-init` (no adaptation), `same-task` or `cross-task`
    edit: str = LEARNED  # of the inner rates; see `nilr.probes.edits`
    steps: int | None = None  # of the inner loop; None: the model's `inner_steps`
    shared: int | None = None  # of `Task`
    displacement: Displacement | None = None  # in place of that of the inner loop
    permutation: Permutation | None = None  # of the labels during adaptation

    @property
    def task(self) -> Task:
        """What the model adapts to."""
        return Task(self.protocol, self.shared)

    def __str__(self) -> str:
        if self == META_INIT:
            return self.protocol
        displaced = f", {self.displacement.direction} step of the {self.displacement.part}" if self.displacement else ""
        permuted = f", labels permuted to {self.permutation}" if self.permutation else ""
        return f"{self.protocol} with {self.edit} rates{displaced}{permuted}"


META_INIT = Condition("meta-init")


@dataclass(frozen=True)
class Subject:
    """A probed model: its meta-initialisation, inner rates and engine, and the edited rates by the edit's name."""

    params: Mapping[str, Tensor]
    inner_lr: Mapping[str, Tensor]
    inner_steps: int
    engine: Engine
    batch_stats: BatchStats = "apart"
    query_batch: QueryBatch = "all"
    edits: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    seed: int = 0  # of random displacements

    def steps(self, condition: Condition) -> int:
        """Return the number of inner steps under a condition."""
        return self.inner_steps if condition.steps is None else condition.steps


@dataclass(frozen=True)
class View:
    """The features of the evaluated episode under one condition, each computed at its first use."""

    engine: Engine
    params: Mapping[str, Tensor]  # the parameters under the condition
    episode: Episode
    batch_stats: BatchStats
    layered: bool = False  # take the features from the layers' outputs, which a reading needs anyway
    adaptation: Adaptation | None = None  # how the parameters were reached; None at the meta-initialisation

    @cached_property
    def features(self) -> tuple[Tensor, Tensor]:
        """The features of support (N*K, D) and query (N*Q, D)."""
        if self.layered:
            *_, (support, query) = self.activations.values()
            features = support.flatten(1), query.flatten(1)
        else:
            features = episode_features(self.engine, self.params, self.episode, batch_stats=self.batch_stats)
        # Otherwise accuracy would be exactly 1/N, without an error: the first neighbour wins among non-finite features,
        # and among equal ones, which result from variances that overflow.
        tensors = (*features, *self.params.values())
        if not bool(torch.stack([value.square().sum() for value in tensors]).isfinite().all()):
            raise DivergedError(
                "parameters or features are not finite, or so large that they overflow",
                hint="use smaller --rates or fewer --inner-steps",
            )
        return features

    @cached_property
    def activations(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """The outputs for support and query by layer, each (n, ...), the features last."""
        return episode_activations(self.engine, self.params, self.episode, batch_stats=self.batch_stats)

    @cached_property
    def query_loss(self) -> float:
        """The mean cross-entropy of the model's own head on the queries, in nats."""
        _, query = self.features
        head = self.params["head.weight"].double(), self.params["head.bias"].double()
        return cross_entropy(linear(query.double(), *head), self.episode.query_y).item()

    @cached_property
    def query_gradient(self) -> Params:
        """The gradient of the query loss in the parameters."""
        return query_gradient(self.engine, self.params, self.episode, self.batch_stats)

    @cached_property
    def images(self) -> tuple[str, ...]:
        """The identities of the query images."""
        return identities(self.episode.query_x)


Reading = Callable[[View, View], float]
"""Computes a number from the view of a condition and the view of the meta-initialisation.

A reading that uses a layer has the layer's name as its attribute `layer`.
"""


def layer_of(reading: Reading) -> str | None:
    """Return the layer that a reading uses, if any."""
    return getattr(reading, "layer", None)


class Quantity(NamedTuple):
    """What a probe measures on every episode: a reading under a condition."""

    condition: Condition
    reading: Reading


@torch.no_grad()
def read_episode(subject: Subject, tasks: Tasks, quantities: Iterable[Quantity]) -> dict[Quantity, float]:
    """Return every quantity of one episode.

    Each condition adapts once. A condition with more steps continues from the same condition with fewer; one with
    another displacement only takes that from the same condition without. A value is the mean over the batches of
    queries.

    Raises:
        ValueError: a condition adapts to an episode that `tasks` does not have.
        DivergedError: features are not finite, or too large to compare.
    """
    readings: dict[Condition, list[Reading]] = {}
    for condition, reading in quantities:
        readings.setdefault(condition, []).append(reading)

    batches = query_batches(tasks.judged, subject.query_batch)

    def views(params: Mapping[str, Tensor], used: Iterable[Reading], path: Adaptation | None = None) -> list[View]:
        layered = any(map(layer_of, used))
        return [View(subject.engine, params, batch, subject.batch_stats, layered, path) for batch in batches]

    before = views(subject.params, [reading for used in readings.values() for reading in used])
    reached: dict[Condition, tuple[int, Mapping[str, Tensor]]] = {}
    values: dict[Quantity, float] = {}
    for condition in sorted(readings, key=subject.steps):
        after = before
        if condition != META_INIT:
            whole = replace(condition, steps=None, displacement=None)
            adapted = _adapt(subject, condition, tasks, *reached.get(whole, (0, subject.params)))
            reached[whole] = adapted.steps, adapted.end
            if condition.displacement is None:
                end = _with_labels_back(adapted.end, condition.permutation)
                after = views(end, readings[condition], adapted)
            else:
                stream = f"{condition.protocol}/{tasks.index}"
                moved = displace(subject.params, adapted.end, condition.displacement, seed=subject.seed, stream=stream)
                after = views(moved, readings[condition])
        try:
            for reading in readings[condition]:
                values[Quantity(condition, reading)] = fmean(map(reading, after, before))
        except DivergedError as error:
            raise DivergedError(f"{condition}: {error.message}", hint=error.hint) from error
    return values


def _adapt(
    subject: Subject, condition: Condition, tasks: Tasks, first_step: int, params: Mapping[str, Tensor]
) -> Adaptation:
    """Adapt under a condition, from the parameters after `first_step` of its steps."""
    if condition.task not in tasks.adapted:
        raise ValueError(f"{condition} needs an episode to adapt to")
    episode = tasks.adapted[condition.task]
    inner_lr = subject.inner_lr if condition.edit == LEARNED else subject.edits[condition.edit]
    labels = episode.support_y
    if condition.permutation:
        labels = torch.tensor(condition.permutation, device=labels.device)[labels]
    support, steps, matched = (episode.support_x, labels), subject.steps(condition), condition.edit == NORM_MATCHED
    left = steps - first_step
    end = adapt(subject.engine, params, inner_lr, support, steps=left, norm_matched=matched, first_step=first_step)
    return Adaptation(subject.engine, subject.params, end, inner_lr, support, steps, matched)


def _with_labels_back(params: Mapping[str, Tensor], permutation: Permutation | None) -> Mapping[str, Tensor]:
    """Return the parameters with the head's rows in the order of the classes, after adaptation to permuted labels."""
    if permutation is None:
        return params
    rows = list(permutation)  # row `permutation[c]` is that of class c
    return {name: value[rows] if part(name) == "head" else value for name, value in params.items()}
