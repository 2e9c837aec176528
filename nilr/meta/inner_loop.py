"""The inner loop: support loss -> adapted parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nilr.models.learner import Learner, Params

SupportLoss = Callable[[Mapping[str, Tensor]], Tensor]


def adapt(
    support_loss: SupportLoss,
    params: Mapping[str, Tensor],
    inner_lr: Mapping[str, Tensor],
    *,
    steps: int,
    order: Literal[0, 1, 2] = 0,
    first_step: int = 0,
) -> Params:
    """Take gradient steps on the support loss; only the names in `inner_lr` move.

    Args:
        support_loss: maps parameters by name to the mean loss on the support set.
        params: where to start, by name.
        inner_lr: a rate per moved parameter (see `rate_at`); a negative rate ascends.
        steps: number of steps.
        order: 2 keeps the graph through the inner gradients (exact); 1 takes them as constants; 0 keeps no graph.
        first_step: number of the first step, where there is a rate per step.

    Returns:
        All parameters by name; those that did not move are the very tensors of `params`.
    """
    adapted = dict(params)
    for step in range(first_step, first_step + steps):
        gradients = loss_gradient(support_loss, adapted, inner_lr, order=order)
        with torch.set_grad_enabled(order > 0):
            for name, gradient in gradients.items():
                adapted[name] = adapted[name] - rate_at(inner_lr[name], gradient, step) * gradient
    return adapted


def rate_at(rate: Tensor, parameter: Tensor, step: int) -> Tensor:
    """Return the rate of a step, counted from 0.

    Args:
        rate: of any shape that broadcasts to the parameter; or, with exactly one dimension more than it, a rate per
            step, (K, ...).
        parameter: what the rate moves.
        step: its number; steps after the K-th take the last rate.
    """
    return rate[min(step, len(rate) - 1)] if rate.dim() == parameter.dim() + 1 else rate


def classification_loss(learner: Learner, x: Tensor, y: Tensor) -> SupportLoss:
    """Return the mean cross-entropy of images `x` (n, C, H, W) with labels `y` (n,), as a function of parameters."""
    return lambda params: cross_entropy(learner.logits(params, x), y)


def loss_gradient(
    support_loss: SupportLoss, params: Mapping[str, Tensor], names: Iterable[str], *, order: Literal[0, 1, 2] = 0
) -> Params:
    """Return the support loss's gradient in the named parameters, differentiable where the order is 2."""
    with torch.enable_grad():
        moved = {name: params[name] for name in names}
        if order < 2:
            moved = {name: value.detach().requires_grad_() for name, value in moved.items()}
        gradients = torch.autograd.grad(
            support_loss({**params, **moved}), list(moved.values()), create_graph=order == 2
        )
    return dict(zip(moved, gradients, strict=True))
