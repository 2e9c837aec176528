"""Classify queries with a model's own head and by the nearest support feature."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from nilr.episodes import Episode
from nilr.errors import DivergedError
from nilr.meta.engine.contract import Engine
from nilr.models.learner import Statistics, Tensors
from nilr.probes.features import BatchStats, episode_features
from nilr.probes.neighbours import nearest
from nilr.recipes.adapt.tasks import Queries, Task

_AT_ONCE = 256  # queries in memory as float32

OnImages = Callable[[int], object]


class Support(NamedTuple):
    """What a prediction needs of the support."""

    features: Tensor  # (n, D)
    labels: Tensor  # int64 (n,)
    statistics: Statistics  # of batch normalisation, under the same parameters


class Judged(NamedTuple):
    """Probabilities (n, N) by the head, and the label of the nearest support feature (n,)."""

    probabilities: Tensor
    nearest: Tensor

    @property
    def labels(self) -> Tensor:
        """The most probable labels, (n,)."""
        return self.probabilities.argmax(1)


def measure_support(engine: Engine, params: Tensors, task: Task) -> Support:
    """Return what predictions need of the support, normalised by its own statistics."""
    statistics = engine.statistics(params, task.support_x) if engine.learner.body.inductive else {}
    return Support(engine.features(params, task.support_x), task.support_y, statistics)


def judge_each(
    engine: Engine, params: Tensors, support: Support, queries: Queries, on_images: OnImages = lambda _: None
) -> Judged:
    """Classify each query on its own, with the support's statistics; a few are in memory at a time."""

    def features() -> Iterator[Tensor]:
        for start in range(0, len(queries.index), _AT_ONCE):
            part = queries.index[start : start + _AT_ONCE]
            yield engine.features(params, queries.images.gather(part), support.statistics)
            on_images(len(part))

    return _judge(params, support, features())


def judge_batch(engine: Engine, params: Tensors, task: Task, batch_stats: BatchStats) -> Judged:
    """Classify the queries as one batch, `apart` from the support or `together` with it."""
    x = task.queries.images.gather(task.queries.index)
    episode = Episode(task.support_x, task.support_y, x, task.queries.labels)
    support, query = episode_features(engine, params, episode, batch_stats=batch_stats)
    return _judge(params, Support(support, task.support_y, {}), iter([query]))


def support_loss(params: Tensors, support: Support) -> float:
    """Return the mean cross-entropy of the support."""
    return cross_entropy(_logits(params, support.features), support.labels).item()


def _judge(params: Tensors, support: Support, features: Iterator[Tensor]) -> Judged:
    n_way = len(params["head.bias"])
    probabilities, labels = [support.features.new_empty(0, n_way)], [support.labels[:0]]
    for query in features:
        probabilities.append(_logits(params, query).softmax(1))
        labels.append(nearest(query, support.features, support.labels, n_way, "cosine").argmax(1))
    return Judged(torch.cat(probabilities).cpu(), torch.cat(labels).cpu())


def _logits(params: Mapping[str, Tensor], features: Tensor) -> Tensor:
    logits = linear(features, params["head.weight"], params["head.bias"])
    if not bool(logits.isfinite().all()):
        raise DivergedError("there are logits that are not finite", hint="use smaller --rates or fewer --inner-steps")
    return logits
