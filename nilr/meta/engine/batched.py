"""The batched engine: many episodes, of one model or of several, in each operation. For a device that waits for work.

The channels of G episodes stand side by side and convolutions run in G groups, each under parameters of its own. It is
the explicit engine's arithmetic; nothing in it waits for the device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from nilr.episodes import Episode
from nilr.meta.algorithms import Algorithm
from nilr.meta.engine.contract import LossWeights, MetaGradient
from nilr.meta.engine.explicit import ExplicitEngine
from nilr.meta.engine.network import activations, flatten
from nilr.meta.engine.trajectory import Task, adapt, task_gradient
from nilr.metrics import accuracy
from nilr.models.learner import Learner, Params

Models = Sequence[Mapping[str, Tensor]]

_EPISODES_AT_ONCE = 64


class BatchedEngine(ExplicitEngine):
    """Conv4 with all episodes of a batch at once, at most `episodes_at_once` of them."""

    capturable = True

    @property
    def episodes_at_once(self) -> int:
        """As many as were asked for, else 64."""
        return self.episode_chunk or _EPISODES_AT_ONCE

    @torch.no_grad()
    def meta_gradient(
        self,
        learner: Learner,
        params: Mapping[str, Tensor],
        inner_lr: Mapping[str, Tensor],
        algorithm: Algorithm,
        episodes: Episode,
        *,
        steps: int,
        loss_weights: LossWeights | None = None,
    ) -> MetaGradient:
        """Return losses, accuracies and the meta-gradient of a batch of episodes."""
        models = [params], [inner_lr], [episodes]
        return self.meta_gradients(learner, *models, algorithm, steps=steps, loss_weights=loss_weights)[0]

    @torch.no_grad()
    def meta_gradients(
        self,
        learner: Learner,
        params: Models,
        inner_lr: Models,
        episodes: Sequence[Episode],
        algorithm: Algorithm,
        *,
        steps: int,
        loss_weights: LossWeights | None = None,
    ) -> list[MetaGradient]:
        """Return the same for several models of one shape, each on a batch of its own, in each operation."""
        return [
            gradient
            for part in _parts(len(params), self.episodes_at_once)
            for gradient in self._side_by_side(
                params[part], inner_lr[part], episodes[part], algorithm, steps=steps, loss_weights=loss_weights
            )
        ]

    def _side_by_side(
        self,
        params: Models,
        inner_lr: Models,
        episodes: Sequence[Episode],
        algorithm: Algorithm,
        *,
        steps: int,
        loss_weights: LossWeights | None,
    ) -> list[MetaGradient]:
        """Return the meta-gradients of at most `episodes_at_once` models."""
        size, at_once = len(episodes[0]), self.episodes_at_once // len(params)
        start = {name: torch.stack([model[name] for model in params]) for name in params[0]}
        rates = {name: torch.stack([model[name] for model in inner_lr]) for name in inner_lr[0]}
        total = {name: torch.zeros_like(value) for name, value in start.items()}
        total_lr = {name: torch.zeros_like(value) for name, value in rates.items() if algorithm.learns_rates}
        losses, accuracies = [], []
        for part in _parts(size, at_once):
            chunk = [_of(batch, part) for batch in episodes]
            e = len(chunk[0])
            task = Task(
                self._see(torch.cat([batch.support_x for batch in chunk])),
                torch.cat([batch.support_y for batch in chunk]),
                self._see(torch.cat([batch.query_x for batch in chunk])),
                torch.cat([batch.query_y for batch in chunk]),
            )
            of_steps = [_rates(rates, start, step, e) for step in range(steps)]
            outcome = task_gradient(
                _for_each(start, e), of_steps, task, exact=algorithm.order == 2, weights=loss_weights
            )
            for name, value in outcome.params.items():
                total[name] += _by_model(value, e).sum(1)
            for step, change in enumerate(outcome.rates):
                for name, value in total_lr.items():
                    _add_change(value, _by_model(change[name], e).sum(1), step)
            losses.append(_by_model(outcome.loss, e))
            accuracies.append(_by_model(accuracy(outcome.logits, task.query_y), e))
        loss, right = torch.cat(losses, 1), torch.cat(accuracies, 1)
        return [
            MetaGradient(
                loss[i],
                right[i],
                {name: value[i] / size for name, value in total.items()},
                {name: value[i] / size for name, value in total_lr.items()},
            )
            for i in range(len(params))
        ]

    @torch.no_grad()
    def adapted_logits(
        self,
        learner: Learner,
        params: Mapping[str, Tensor],
        inner_lr: Mapping[str, Tensor],
        episodes: Episode,
        *,
        steps: int,
    ) -> Tensor:
        """Return the logits (E, N*Q, N) of the queries after adapting to each episode's support."""
        parts = (_of(episodes, part) for part in _parts(len(episodes), self.episodes_at_once))
        return torch.cat([self._adapted_logits(params, inner_lr, part, steps) for part in parts])

    def _adapted_logits(
        self, params: Mapping[str, Tensor], inner_lr: Mapping[str, Tensor], episodes: Episode, steps: int
    ) -> Tensor:
        e = len(episodes)
        start = {name: value[None] for name, value in params.items()}
        rates = {name: value[None] for name, value in inner_lr.items()}
        of_steps = [_rates(rates, start, step, e) for step in range(steps)]
        adapted = adapt(_for_each(start, e), of_steps, self._see(episodes.support_x), episodes.support_y)
        features = flatten(deque(activations(self._see(episodes.query_x), adapted), maxlen=1).pop(), e)
        return features @ adapted["head.weight"].mT + adapted["head.bias"].unsqueeze(-2)


def _parts(size: int, at_once: int) -> Iterator[slice]:
    return (slice(i, i + at_once) for i in range(0, size, at_once))


def _of(episodes: Episode, part: slice) -> Episode:
    return Episode(episodes.support_x[part], episodes.support_y[part], episodes.query_x[part], episodes.query_y[part])


def _for_each(models: Mapping[str, Tensor], episodes: int) -> Params:
    """Return the parameters (S, ...) of S models once for each of their episodes, (S*E, ...)."""
    return {name: value.repeat_interleave(episodes, 0) for name, value in models.items()}


def _by_model(value: Tensor, episodes: int) -> Tensor:
    """Return (S*E, ...) as (S, E, ...)."""
    return value.reshape(-1, episodes, *value.shape[1:])


def _rates(rates: Mapping[str, Tensor], params: Mapping[str, Tensor], step: int, episodes: int) -> Params:
    """Return a step's rates of S models, (S*E, ...), with ones where a rate is broadcast."""
    of_step = {}
    for name, rate in rates.items():
        dims = params[name].dim()
        rate = rate[:, min(step, rate.shape[1] - 1)] if rate.dim() == dims + 1 else rate
        of_step[name] = rate.reshape(len(rate), *(1,) * (dims - rate.dim()), *rate.shape[1:])
    return _for_each(of_step, episodes)


def _add_change(total: Tensor, change: Tensor, step: int) -> None:
    """Add a step's change (S, ...), in the parameter's shape, to the gradient of S models' rates."""
    of_step = total[:, min(step, total.shape[1] - 1)] if total.dim() == change.dim() + 1 else total
    shape = len(of_step), *(1,) * (change.dim() - of_step.dim()), *of_step.shape[1:]
    of_step += change.sum_to_size(shape).reshape(of_step.shape)
