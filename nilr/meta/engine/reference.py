"""The reference engine: a plain loop of `torch.autograd.grad`, any architecture. The truth for all others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nilr.episodes import Episode
from nilr.meta.algorithms import Algorithm
from nilr.meta.engine.contract import LossWeights, MetaGradient, OneByOne
from nilr.meta.inner_loop import adapt, classification_loss, loss_gradient
from nilr.metrics import accuracy
from nilr.models.learner import Learner, Params


class ReferenceEngine(OneByOne):
    """Autograd, one episode after another."""

    name = "reference"

    def supports(self, learner: Learner, device: torch.device) -> bool:
        """Support every learner on every device."""
        return True

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
        start = {name: value.detach().requires_grad_() for name, value in params.items()}
        learned = algorithm.learns_rates
        rates = {name: value.detach().requires_grad_(learned) for name, value in inner_lr.items()}
        leaves = [*start.values(), *(rates.values() if learned else ())]
        total = [torch.zeros_like(leaf) for leaf in leaves]
        weights = (1.0,) if loss_weights is None else loss_weights
        losses, accuracies = [], []
        for i in range(len(episodes)):
            episode = episodes[i]
            support_loss = classification_loss(learner, _plain(episode.support_x), episode.support_y)
            adapted, query_losses = start, []
            for step in range(steps):
                adapted = adapt(support_loss, adapted, rates, steps=1, order=algorithm.order, first_step=step)
                if loss_weights is not None or step == steps - 1:
                    logits = learner.logits(adapted, _plain(episode.query_x))
                    query_losses.append(cross_entropy(logits, episode.query_y))
            weighed = torch.stack([w * loss for w, loss in zip(weights, query_losses, strict=True)]).sum()
            gradients = torch.autograd.grad(weighed, leaves, materialize_grads=True)
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
        loss = classification_loss(learner, _plain(support_x), support_y)
        return adapt(loss, params, inner_lr, steps=steps, first_step=first_step)

    def support_gradient(
        self,
        learner: Learner,
        params: Mapping[str, Tensor],
        support_x: Tensor,
        support_y: Tensor,
        names: Iterable[str],
    ) -> Params:
        """Return the gradient of the mean support loss in the named parameters."""
        return loss_gradient(classification_loss(learner, _plain(support_x), support_y), params, names)

    @torch.no_grad()
    def activations(self, learner: Learner, params: Mapping[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        """Return the outputs of the body's layers by name."""
        return learner.activations(params, _plain(x))

    @torch.no_grad()
    def features(self, learner: Learner, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Return the body's features."""
        return learner.features(params, _plain(x))


def _plain(x: Tensor) -> Tensor:
    """Return images in (n, C, H, W) memory: torch's batch norm of channels-last tensors errs by 1e-4 on a CPU."""
    return x.contiguous()
