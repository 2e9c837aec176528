"""The batched engine: many episodes, of one model or of several, in each operation. For GPUs.

The channels of G episodes lie side by side, and convolutions run in G groups, each with its own parameters. The
arithmetic is that of the explicit engine, and no operation waits for the device.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from nilr.episodes import Episode
from nilr.meta.engine.contract import MetaGradient, Objective
from nilr.meta.engine.explicit import ExplicitEngine
from nilr.meta.engine.passes import PlanePasses
from nilr.meta.engine.trajectory import adapt, task_gradient
from nilr.meta.engine.workers import in_order
from nilr.metrics import accuracy
from nilr.models.learner import Params, Tensors

_EPISODES_AT_ONCE = 64


class BatchedEngine(ExplicitEngine):
    """The explicit engine on up to `episodes_at_once` episodes in each operation."""

    name = "batched"
    capturable = True
    passes = PlanePasses()

    @property
    @override
    def episodes_at_once(self) -> int:
        return self.episode_chunk or _EPISODES_AT_ONCE

    @override
    @torch.no_grad()
    def meta_gradients(
        self, params: Sequence[Tensors], inner_lr: Sequence[Tensors], episodes: Sequence[Episode], objective: Objective
    ) -> list[MetaGradient]:
        if len(params) > self.episodes_at_once:
            return [
                gradient
                for part in _parts(len(params), self.episodes_at_once)
                for gradient in self.meta_gradients(params[part], inner_lr[part], episodes[part], objective)
            ]
        algorithm, steps, weights, inductive = objective
        size = len(episodes[0])
        start, rates = _stacked(params), _stacked(inner_lr)
        total = {name: torch.zeros_like(value) for name, value in start.items()}
        total_lr = {name: torch.zeros_like(value) for name, value in rates.items() if algorithm.learns_rates}
        losses, accuracies = [], []

        def gradient_of(part: slice) -> _PartGradient:
            task = self._task(_side_by_side([batch[part] for batch in episodes]), inductive=inductive)
            e = len(task.query_y) // len(params)
            rates_by_step = [_rates_at(rates, start, step, e) for step in range(steps)]
            how = {"exact": algorithm.order == 2, "recompute": self.recompute, "learned": algorithm.learns_rates}
            found = task_gradient(_for_each(start, e), rates_by_step, task, weights=weights, **how)
            right = _by_model(accuracy(found.logits, task.query_y), e)
            of_params, *of_rates = (
                {name: _by_model(value, e).sum(1) for name, value in values.items()}
                for values in (found.params, *found.rates)
            )
            return _PartGradient(_by_model(found.loss, e), right, of_params, of_rates)

        # How an operation rounds depends on its number of episodes, so processes share whole operations.
        for gradient in in_order(gradient_of, _parts(size, self.episodes_at_once // len(params)), device=None):
            for name, value in gradient.params.items():
                total[name] += value
            for step, change in enumerate(gradient.rates):
                for name, value in total_lr.items():
                    _add_change(value, change[name], step)
            losses.append(gradient.loss)
            accuracies.append(gradient.accuracy)
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

    @override
    @torch.no_grad()
    def adapted_logits(
        self, params: Tensors, inner_lr: Tensors, episodes: Episode, *, steps: int, inductive: bool = False
    ) -> Tensor:
        start, rates = _stacked([params]), _stacked([inner_lr])
        logits = []
        for part in _parts(len(episodes), self.episodes_at_once):
            some = episodes[part]
            rates_by_step = [_rates_at(rates, start, step, len(some)) for step in range(steps)]
            adapted = adapt(_for_each(start, len(some)), rates_by_step, self._images(some.support_x), some.support_y)
            statistics = self.statistics(adapted, some.support_x) if inductive else None
            features = self.features(adapted, some.query_x, statistics)
            logits.append(features @ adapted["head.weight"].mT + adapted["head.bias"].unsqueeze(-2))
        return torch.cat(logits)


class _PartGradient(NamedTuple):
    """The meta-gradients of E episodes of S models: losses and accuracies (S, E), and sums (S, ...)."""

    loss: Tensor
    accuracy: Tensor
    params: Params
    rates: list[Params]  # by step


def _side_by_side(batches: Sequence[Episode]) -> Episode:
    """Return the episodes of all models as one batch."""
    names = ("support_x", "support_y", "query_x", "query_y")
    return Episode(**{name: torch.cat([getattr(batch, name) for batch in batches]) for name in names})


def _parts(size: int, at_once: int) -> Iterator[slice]:
    return (slice(i, i + at_once) for i in range(0, size, at_once))


def _stacked(models: Sequence[Tensors]) -> Params:
    """Return the tensors of S models as (S, ...)."""
    return {name: torch.stack([model[name] for model in models]) for name in models[0]}


def _for_each(models: Tensors, episodes: int) -> Params:
    """Repeat the tensors (S, ...) of S models for each of their episodes, (S*E, ...)."""
    return {name: value.repeat_interleave(episodes, 0) for name, value in models.items()}


def _by_model(value: Tensor, episodes: int) -> Tensor:
    """Return (S*E, ...) as (S, E, ...)."""
    return value.reshape(-1, episodes, *value.shape[1:])


def _rates_at(rates: Tensors, params: Tensors, step: int, episodes: int) -> Params:
    """Return a step's rates of S models, (S*E, ...), with ones in dimensions that broadcast."""
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
