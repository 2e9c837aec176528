"""The reference engine: a plain loop of `torch.autograd.grad` for any architecture. All other engines must agree."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from typing_extensions import override

from nilr.episodes import Episode
from nilr.meta.algorithms import Algorithm
from nilr.meta.engine.contract import Engine, LossWeights, MetaGradient
from nilr.meta.inner_loop import SupportLoss, adapt, classification_loss, loss_gradient
from nilr.metrics import accuracy
from nilr.models.learner import Learner, Params, Tensors


class ReferenceEngine(Engine):
    """Autograd, one episode after another."""

    name = "reference"

    @override
    @classmethod
    def supports(cls, learner: Learner, device: torch.device) -> bool:
        return True

    @override
    def meta_gradient(
        self,
        params: Tensors,
        inner_lr: Tensors,
        episodes: Episode,
        algorithm: Algorithm,
        *,
        steps: int,
        loss_weights: LossWeights | None = None,
    ) -> MetaGradient:
        start = {name: value.detach().requires_grad_() for name, value in params.items()}
        learned = algorithm.learns_rates
        rates = {name: value.detach().requires_grad_(learned) for name, value in inner_lr.items()}
        leaves = [*start.values(), *(rates.values() if learned else ())]
        total = [torch.zeros_like(leaf) for leaf in leaves]
        weights = (1.0,) if loss_weights is None else loss_weights
        losses, accuracies = [], []
        for episode in (episodes[i] for i in range(len(episodes))):
            support_loss = self._loss(episode.support_x, episode.support_y)
            adapted, query_losses = start, []
            for step in range(steps):
                adapted = adapt(support_loss, adapted, rates, steps=1, order=algorithm.order, first_step=step)
                if loss_weights is not None or step == steps - 1:
                    logits = self.learner.logits(adapted, _plain(episode.query_x))
                    query_losses.append(cross_entropy(logits, episode.query_y))
            weighted = torch.stack([w * loss for w, loss in zip(weights, query_losses, strict=True)]).sum()
            gradients = torch.autograd.grad(weighted, leaves, materialize_grads=True)
            total = [a + b for a, b in zip(total, gradients, strict=True)]
            losses.append(query_losses[-1].detach())
            accuracies.append(accuracy(logits.detach(), episode.query_y))
        mean = [value / len(episodes) for value in total]
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
        return loss_gradient(self._loss(x, y), params, names)

    @override
    @torch.no_grad()
    def activations(self, params: Tensors, x: Tensor) -> dict[str, Tensor]:
        return self.learner.activations(params, _plain(x))

    @override
    @torch.no_grad()
    def features(self, params: Tensors, x: Tensor) -> Tensor:
        return self.learner.features(params, _plain(x))

    def _loss(self, x: Tensor, y: Tensor) -> SupportLoss:
        return classification_loss(self.learner, _plain(x), y)


def _plain(x: Tensor) -> Tensor:
    """Return images in (n, C, H, W) memory: torch's batch norm of channels-last tensors errs by 1e-4 on a CPU."""
    return x.contiguous()
