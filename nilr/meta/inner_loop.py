"""The inner loop: support loss -> adapted parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nilr.models.learner import Learner, Params

Rates = dict[str, Tensor]


def adapt(
    learner: Learner,
    params: Mapping[str, Tensor],
    inner_lr: Mapping[str, Tensor],
    support_x: Tensor,
    support_y: Tensor,
    *,
    steps: int,
    order: Literal[0, 1, 2] = 0,
) -> Params:
    """Take gradient steps on the support loss; only the names in `inner_lr` move.

    Args:
        learner: body and head.
        params: where to start, by name.
        inner_lr: a rate per moved parameter, of any shape that broadcasts to it; negative rates ascend.
        support_x: images (N*K, C, H, W).
        support_y: labels (N*K,).
        steps: number of steps.
        order: 2 keeps the graph through the inner gradients (exact); 1 takes them as constants; 0 keeps no graph.

    Returns:
        All parameters by name; those that did not move are the very tensors of `params`.
    """
    adapted = dict(params)
    for _ in range(steps):
        gradients = support_gradient(learner, adapted, list(inner_lr), support_x, support_y, order=order)
        with torch.set_grad_enabled(order > 0):
            for name, gradient in gradients.items():
                adapted[name] = adapted[name] - inner_lr[name] * gradient
    return adapted


def support_gradient(
    learner: Learner,
    params: Mapping[str, Tensor],
    names: list[str],
    support_x: Tensor,
    support_y: Tensor,
    *,
    order: Literal[0, 1, 2] = 0,
) -> Params:
    """Return the gradient of the mean support loss in the parameters `names`; see `adapt` for the arguments."""
    with torch.enable_grad():
        if order == 2:
            start = {name: params[name] for name in names}
        else:
            start = {name: params[name].detach().requires_grad_() for name in names}
        loss = cross_entropy(learner.logits({**params, **start}, support_x), support_y)
        gradients = torch.autograd.grad(loss, list(start.values()), create_graph=order == 2)
    return dict(zip(names, gradients, strict=True))
