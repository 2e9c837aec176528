"""The explicit engine: no autograd graph at all, for Conv4.

With rates a, support gradient g and Hessian H, a step is theta_{k+1} = theta_k - a g(theta_k). The meta-gradient starts
as the query loss's gradient at theta_K, v; then from the last step to the first, da += -g_k v and
v <- v - H(theta_k) (a v), with the v of that moment. What is left in v is the gradient in the meta-initialisation.
First-order rows leave the Hessian out. Where the query losses after earlier steps count too, v takes up the gradient of
each when it comes by.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nilr.episodes import Episode
from nilr.meta.algorithms import Algorithm
from nilr.meta.engine.contract import MetaGradient
from nilr.meta.engine.network import activations, first_needed, flatten, hessian_product, look_at, loss_pass
from nilr.meta.engine.passes import Passes
from nilr.meta.engine.workers import in_order
from nilr.meta.inner_loop import rate_at
from nilr.metrics import accuracy
from nilr.models.conv4 import BLOCKS, Conv4
from nilr.models.learner import Learner, Params


class EpisodeGradient(NamedTuple):
    """Query loss and logits, the gradient in the parameters, and that in the rates (empty where they are fixed)."""

    loss: Tensor
    logits: Tensor
    params: Params
    inner_lr: Params


class ExplicitEngine:
    """Forward, backward and Hessian-vector product of Conv4 as plain tensor functions, an episode per core.

    Args:
        name: its name in the table.
        passes: what sweeps over memory.
        available: tells whether the passes can compute on a device.
    """

    def __init__(self, name: str, passes: Passes, available: Callable[[torch.device], bool]) -> None:
        self.name = name
        self._passes = passes
        self._available = available

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
        loss_weights: Sequence[float] | None = None,
    ) -> MetaGradient:
        """Return losses, accuracies and the meta-gradient of a batch of episodes."""
        total = {name: torch.zeros_like(value) for name, value in params.items()}
        total_lr = {name: torch.zeros_like(value) for name, value in inner_lr.items() if algorithm.learns_rates}
        losses: list[Tensor] = []
        accuracies: list[Tensor] = []

        def one(i: int) -> EpisodeGradient:
            return _episode_gradient(self._passes, params, inner_lr, algorithm, episodes[i], steps, loss_weights)

        for loss, logits, v, da in in_order(one, range(len(episodes)), device=episodes.query_x.device):
            for sums, values in ((total, v), (total_lr, da)):
                for name, value in values.items():
                    sums[name] += value
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
        images = look_at(self._passes, support_x)
        adapted = dict(params)
        for step in range(first_step, first_step + steps):
            support = loss_pass(adapted, images, support_y, first_block=first_needed(inner_lr))
            _move(adapted, inner_lr, support.gradient, step)
        return adapted

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
        images = look_at(self._passes, support_x)
        gradient = loss_pass(params, images, support_y, first_block=first_needed(wanted)).gradient
        return {name: gradient[name] for name in wanted}

    @torch.no_grad()
    def activations(self, learner: Learner, params: Mapping[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        """Return the outputs of the blocks by name."""
        return dict(zip(BLOCKS, activations(look_at(self._passes, x), params), strict=True))

    @torch.no_grad()
    def features(self, learner: Learner, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Return the body's features."""
        return flatten(deque(activations(look_at(self._passes, x), params), maxlen=1).pop())


def _episode_gradient(
    passes: Passes,
    params: Mapping[str, Tensor],
    inner_lr: Mapping[str, Tensor],
    row: Algorithm,
    episode: Episode,
    steps: int,
    weights: Sequence[float] | None,
) -> EpisodeGradient:
    support_images, query_images = look_at(passes, episode.support_x), look_at(passes, episode.query_x)
    adapted = dict(params)
    exact = row.order == 2
    first_block = 0 if exact else first_needed(inner_lr)
    trace = []
    for step in range(steps):
        support = loss_pass(adapted, support_images, episode.support_y, first_block=first_block, keep=exact)
        trace.append((dict(adapted), support))
        _move(adapted, inner_lr, support.gradient, step)
    query = loss_pass(adapted, query_images, episode.query_y)
    v = {name: value * (weights[-1] if weights else 1) for name, value in query.gradient.items()}
    da = {name: torch.zeros_like(rate) for name, rate in inner_lr.items() if row.learns_rates}
    for step, (at, support) in reversed(list(enumerate(trace))):
        for name in da:
            of_step = rate_at(da[name], v[name], step)
            of_step -= (support.gradient[name] * v[name]).sum_to_size(of_step.shape)
        if exact:
            direction = {name: rate_at(rate, v[name], step) * v[name] for name, rate in inner_lr.items()}
            product = hessian_product(at, support, direction)
            v = {name: value - product[name] for name, value in v.items()}
        if weights and step and weights[step - 1]:
            earlier = loss_pass(at, query_images, episode.query_y)
            v = {name: value + weights[step - 1] * earlier.gradient[name] for name, value in v.items()}
    return EpisodeGradient(query.loss, query.logits, v, da)


def _move(params: Params, inner_lr: Mapping[str, Tensor], gradient: Mapping[str, Tensor], step: int) -> None:
    for name, rate in inner_lr.items():
        params[name] = params[name] - rate_at(rate, params[name], step) * gradient[name]
