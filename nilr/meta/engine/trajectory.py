"""Along the inner loop and back: one meta-gradient from passes alone, without an autograd graph.

With rates a, support gradient g and Hessian H, a step is theta_{k+1} = theta_k - a g(theta_k). The meta-gradient starts
as the query loss's gradient at theta_K, v; then from the last step to the first, da += -g_k v and
v <- v - H(theta_k) (a v), with the v of that moment. What is left in v is the gradient in the meta-initialisation.
First-order rows leave the Hessian out. Where the query losses after earlier steps count too, v takes up the gradient of
each when it comes by.

All of it holds for one episode, and for G at once whose tensors have a leading G.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nilr.meta.engine import linear_head
from nilr.meta.engine.contract import LossWeights
from nilr.meta.engine.network import (
    Images,
    body_gradient,
    embed,
    first_needed,
    head_named,
    head_of,
    hessian_product,
    loss_pass,
)
from nilr.models.learner import Params

StepRates = Mapping[str, Tensor]  # rates of one step, which broadcast to their parameters


class Task(NamedTuple):
    """Support and query as the network reads them, with labels."""

    support: Images
    support_y: Tensor
    query: Images
    query_y: Tensor


class TaskGradient(NamedTuple):
    """Query loss and logits, the gradient in the parameters, and that in the rates of each step (as the parameters)."""

    loss: Tensor
    logits: Tensor
    params: Params
    rates: list[Params]


def task_gradient(
    params: Mapping[str, Tensor],
    rates: Sequence[StepRates],
    task: Task,
    *,
    exact: bool,
    weights: LossWeights | None = None,
) -> TaskGradient:
    """Return the meta-gradient of a task.

    Args:
        params: the meta-initialisation, by name.
        rates: those of each step.
        task: support and query.
        exact: second order; else inner gradients are taken as constants.
        weights: of the query losses after each step; None: the last alone.
    """
    if weights is None and rates and first_needed(rates[0]):
        return _head_gradient(params, rates, task, exact=exact)
    adapted, trace = dict(params), []
    for of_step in rates:
        first = 0 if exact else first_needed(of_step)
        support = loss_pass(adapted, task.support, task.support_y, first_block=first, keep=exact)
        trace.append((dict(adapted), support))
        move(adapted, of_step, support.gradient)
    query = loss_pass(adapted, task.query, task.query_y)
    v = {name: value * (1 if weights is None else weights[-1]) for name, value in query.gradient.items()}
    changes: list[Params] = []
    for step in reversed(range(len(rates))):
        (at, support), of_step = trace.pop(), rates[step]
        changes.insert(0, {name: -support.gradient[name] * v[name] for name in of_step})
        if exact:
            product = hessian_product(at, support, {name: rate * v[name] for name, rate in of_step.items()})
            v = {name: value - product[name] for name, value in v.items()}
        if weights is not None and step:
            earlier = loss_pass(at, task.query, task.query_y)
            v = {name: value + weights[step - 1] * earlier.gradient[name] for name, value in v.items()}
    return TaskGradient(query.loss, query.logits, v, changes)


def adapt(params: Mapping[str, Tensor], rates: Sequence[StepRates], images: Images, labels: Tensor) -> Params:
    """Return the parameters after the steps; where the head alone moves, the images are embedded once."""
    adapted = dict(params)
    head_alone = bool(rates) and bool(first_needed(rates[0]))
    features = embed(params, images).features if head_alone else None
    for of_step in rates:
        if features is None:
            gradient = loss_pass(adapted, images, labels).gradient
        else:
            gradient = head_named(linear_head.loss_and_gradient(features, labels, head_of(adapted))[3])
        move(adapted, of_step, gradient)
    return adapted


def move(params: Params, rates: StepRates, gradient: Mapping[str, Tensor]) -> None:
    """Take one step."""
    for name, rate in rates.items():
        params[name] = params[name] - rate * gradient[name]


def _head_gradient(
    params: Mapping[str, Tensor], rates: Sequence[StepRates], task: Task, *, exact: bool
) -> TaskGradient:
    """Do the same where the head alone moves: support and query are embedded once.

    The body's part of H (a v) is linear in what comes down from the head, so that the steps' parts go back through the
    body as one.
    """
    support = embed(params, task.support)
    adapted, trace = dict(params), []
    for of_step in rates:
        *_, dhead, kept = linear_head.loss_and_gradient(support.features, task.support_y, head_of(adapted))
        trace.append((head_of(adapted), kept, head_named(dhead)))
        move(adapted, of_step, head_named(dhead))
    query = loss_pass(adapted, task.query, task.query_y)
    v, changes = dict(query.gradient), list[Params]()
    down = torch.zeros_like(support.features)
    for (head, kept, gradient), of_step in zip(reversed(trace), reversed(rates), strict=True):
        changes.insert(0, {name: -gradient[name] * v[name] for name in of_step})
        if not exact:
            continue
        along = {name: of_step[name] * v[name] if name in of_step else torch.zeros_like(v[name]) for name in gradient}
        dfeatures_t, dhead_t = linear_head.gradient_tangent(None, kept, head, head_of(along))
        down += dfeatures_t
        v |= {name: v[name] - value for name, value in head_named(dhead_t).items()}
    if exact:
        of_body, _ = body_gradient(params, task.support, support, down)
        v |= {name: v[name] - value for name, value in of_body.items()}
    return TaskGradient(query.loss, query.logits, v, changes)
