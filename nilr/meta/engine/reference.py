"""The reference engine: a plain loop of `torch.autograd.grad` for any architecture. All other engines must agree."""

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from typing_extensions import override

from nilr.episodes import Episode
from nilr.meta.engine.contract import Engine, MetaGradient, Objective
from nilr.meta.inner_lr import rate_at
from nilr.metrics import accuracy
from nilr.models.learner import Learner, Params, Statistics, Tensors

Loss = Callable[[Tensors], Tensor]  # of parameters, by name
Order = Literal[0, 1, 2]


class ReferenceEngine(Engine):
    """Autograd, one episode after another."""

    name = "reference"

    @override
    @classmethod
    def supports(cls, learner: Learner, device: torch.device) -> bool:
        return True

    @override
    def meta_gradient(self, params: Tensors, inner_lr: Tensors, batch: Episode, objective: Objective) -> MetaGradient:
        algorithm, steps, loss_weights, inductive = objective
        start = {name: value.detach().requires_grad_() for name, value in params.items()}
        learned = algorithm.learns_rates
        rates = {name: value.detach().requires_grad_(learned) for name, value in inner_lr.items()}
        leaves = [*start.values(), *(rates.values() if learned else ())]
        total = [torch.zeros_like(leaf) for leaf in leaves]
        weights = (1.0,) if loss_weights is None else loss_weights
        losses, accuracies = [], []
        for episode in (batch[i] for i in range(len(batch))):
            support_loss = self._loss(episode.support_x, episode.support_y)
            adapted, query_losses = start, []
            for step in range(steps):
                adapted = adapt(support_loss, adapted, rates, steps=1, order=algorithm.order, first_step=step)
                if loss_weights is not None or step == steps - 1:
                    statistics = self.learner.statistics(adapted, _plain(episode.support_x)) if inductive else None
                    logits = self.learner.logits(adapted, _plain(episode.query_x), statistics)
                    query_losses.append(cross_entropy(logits, episode.query_y))
            weighted = torch.stack([w * loss for w, loss in zip(weights, query_losses, strict=True)]).sum()
            gradients = torch.autograd.grad(weighted, leaves, materialize_grads=True)
            total = [a + b for a, b in zip(total, gradients, strict=True)]
            losses.append(query_losses[-1].detach())
            accuracies.append(accuracy(logits.detach(), episode.query_y))
        mean = [value / len(batch) for value in total]
        return MetaGradient(
            query_loss=torch.stack(losses),
            accuracy=torch.stack(accuracies),
            params=dict(zip(start, mean[: len(start)], strict=True)),
            inner_lr=dict(zip(rates, mean[len(start) :], strict=True)) if learned else {},
        )

    @override
    def adapt(
        self, params: Tensors, inner_lr: Tensors, x: Tensor, y: Tensor, *, steps: int, first_step: int = 0
    ) -> Params:
        return adapt(self._loss(x, y), params, inner_lr, steps=steps, first_step=first_step)

    @override
    def support_gradient(self, params: Tensors, x: Tensor, y: Tensor, names: Iterable[str]) -> Params:
        return _gradient(self._loss(x, y), params, names, order=0)

    @override
    @torch.no_grad()
    def statistics(self, params: Tensors, x: Tensor) -> dict[str, Tensor]:
        return self.learner.statistics(params, _plain(x))

    @override
    @torch.no_grad()
    def activations(self, params: Tensors, x: Tensor, statistics: Statistics | None = None) -> dict[str, Tensor]:
        return self.learner.activations(params, _plain(x), statistics)

    @override
    @torch.no_grad()
    def features(self, params: Tensors, x: Tensor, statistics: Statistics | None = None) -> Tensor:
        return self.learner.features(params, _plain(x), statistics)

    def _loss(self, x: Tensor, y: Tensor) -> Loss:
        """Return the mean cross-entropy of images (n, C, H, W) with labels (n,), as a function of parameters."""
        x = _plain(x)
        return lambda params: cross_entropy(self.learner.logits(params, x), y)


def adapt(
    loss: Loss, params: Tensors, inner_lr: Tensors, *, steps: int, order: Order = 0, first_step: int = 0
) -> Params:
    """Return the parameters after gradient steps on a loss; those without a rate are the tensors of `params`.

    Negative rates ascend; rates per step are those from `first_step` (see `rate_at`). The order 2 keeps the graph
    through the inner gradients (exact), 1 takes inner gradients as constants, 0 keeps no graph.
    """
    adapted = dict(params)
    for step in range(first_step, first_step + steps):
        gradients = _gradient(loss, adapted, inner_lr, order=order)
        with torch.set_grad_enabled(order > 0):
            for name, gradient in gradients.items():
                adapted[name] = adapted[name] - rate_at(inner_lr[name], gradient, step) * gradient
    return adapted


def _gradient(loss: Loss, params: Tensors, names: Iterable[str], *, order: Order) -> Params:
    """Return a loss's gradient with respect to the named parameters, differentiable if the order is 2."""
    with torch.enable_grad():
        moved = {name: params[name] for name in names}
        if order < 2:
            moved = {name: value.detach().requires_grad_() for name, value in moved.items()}
        gradients = torch.autograd.grad(loss({**params, **moved}), list(moved.values()), create_graph=order == 2)
    return dict(zip(moved, gradients, strict=True))


def _plain(x: Tensor) -> Tensor:
    """Return images in (n, C, H, W) memory: torch's batch norm of channels-last tensors errs by 1e-4 on a CPU."""
    return x.contiguous()
