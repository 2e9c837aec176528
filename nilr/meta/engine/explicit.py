"""The explicit engine: no autograd graph at all, for Conv4, an episode per core."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from nilr.episodes import Episode
from nilr.meta.algorithms import Algorithm
from nilr.meta.engine.contract import LossWeights, MetaGradient, OneByOne
from nilr.meta.engine.network import Images, activations, first_needed, flatten, look_at, loss_pass
from nilr.meta.engine.passes import Passes
from nilr.meta.engine.trajectory import Task, TaskGradient, adapt, task_gradient
from nilr.meta.engine.workers import in_order
from nilr.meta.inner_loop import rate_at
from nilr.metrics import accuracy
from nilr.models.conv4 import BLOCKS, Conv4
from nilr.models.learner import Learner, Params


class ExplicitEngine(OneByOne):
    """Forward, backward and Hessian-vector product of Conv4 as plain tensor functions.

    Args:
        name: its name in the table.
        passes: what sweeps over memory.
        available: tells whether the passes can compute on a device.
        precision: dtype of what convolutions take in; None, that of the parameters.
    """

    def __init__(
        self,
        name: str,
        passes: Passes,
        available: Callable[[torch.device], bool],
        precision: torch.dtype | None = None,
    ) -> None:
        self.name = name
        self._passes = passes
        self._available = available
        self._precision = precision

    def rounding_to(self, precision: torch.dtype) -> ExplicitEngine:
        """Return the same engine with convolutions of another precision."""
        return type(self)(self.name, self._passes, self._available, precision)

    def supports(self, learner: Learner, device: torch.device) -> bool:
        """Support Conv4."""
        return isinstance(learner.body, Conv4) and self._available(device)

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
        total = {name: torch.zeros_like(value) for name, value in params.items()}
        total_lr = {name: torch.zeros_like(value) for name, value in inner_lr.items() if algorithm.learns_rates}
        rates = rates_of_steps(params, inner_lr, range(steps))
        losses: list[Tensor] = []
        accuracies: list[Tensor] = []

        def one(i: int) -> TaskGradient:
            episode = episodes[i]
            task = Task(self._see(episode.support_x), episode.support_y, self._see(episode.query_x), episode.query_y)
            return task_gradient(params, rates, task, exact=algorithm.order == 2, weights=loss_weights)

        for loss, logits, v, changes in in_order(
            one, range(len(episodes)), device=episodes.query_x.device, at_most=self.episode_chunk
        ):
            for name, value in v.items():
                total[name] += value
            for step, change in enumerate(changes):
                for name, value in total_lr.items():
                    of_step = rate_at(value, change[name], step)
                    of_step += change[name].sum_to_size(of_step.shape)
            losses.append(loss)
            accuracies.append(accuracy(logits, episodes.query_y[len(accuracies)]))
        for value in (*total.values(), *total_lr.values()):
            value /= len(episodes)
        return MetaGradient(torch.stack(losses), torch.stack(accuracies), total, total_lr)

    @torch.no_grad()
    def adapt(
        self,
        learner: Learner,
        params: Mapping[str, Tensor],
        inner_lr: Mapping[str, Tensor],
        support_x: Tensor,
        support_y: Tensor,
        *,
        steps: int,
        first_step: int = 0,
    ) -> Params:
        """Return the parameters adapted to one support set."""
        rates = rates_of_steps(params, inner_lr, range(first_step, first_step + steps))
        return adapt(params, rates, self._see(support_x), support_y)

    @torch.no_grad()
    def support_gradient(
        self,
        learner: Learner,
        params: Mapping[str, Tensor],
        support_x: Tensor,
        support_y: Tensor,
        names: Iterable[str],
    ) -> Params:
        """Return the gradient of the mean support loss in the named parameters."""
        wanted = list(names)
        first_block = first_needed(wanted)
        gradient = loss_pass(params, self._see(support_x), support_y, first_block=first_block).gradient
        return {name: gradient[name] for name in wanted}

    @torch.no_grad()
    def activations(self, learner: Learner, params: Mapping[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        """Return the outputs of the blocks by name."""
        return dict(zip(BLOCKS, activations(self._see(x), params), strict=True))

    @torch.no_grad()
    def features(self, learner: Learner, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Return the body's features."""
        return flatten(deque(activations(self._see(x), params), maxlen=1).pop(), None)

    def _see(self, x: Tensor) -> Images:
        return look_at(self._passes, x, self._precision)


def rates_of_steps(
    params: Mapping[str, Tensor], inner_lr: Mapping[str, Tensor], steps: Iterable[int]
) -> list[dict[str, Tensor]]:
    """Return the rates of each of the steps, by name."""
    return [{name: rate_at(rate, params[name], step) for name, rate in inner_lr.items()} for step in steps]
