"""One meta-gradient along the inner loop and back, from passes alone, without an autograd graph.

With rates a, support gradient g and Hessian H, a step is theta_{k+1} = theta_k - a g(theta_k). The meta-gradient starts
as the query loss's gradient at theta_K, v. Then, from the last step to the first, da += -g_k v and
v <- v - H(theta_k) (a v), with the v of that moment. The final v is the gradient in the meta-initialisation.
First-order rows omit the Hessian. If the query losses after earlier steps count too, their gradients are added to v on
the way.

Everything holds for one episode, and for G at once if all tensors have a leading G.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nilr.meta.engine.contract import LossWeights
from nilr.meta.engine.network import (
    Images,
    Pass,
    body_gradient,
    embed,
    head_gradient,
    head_gradient_tangent,
    head_named,
    head_of,
    hessian_product,
    loss_pass,
    moves_body,
)
from nilr.models.learner import Params, Tensors


class Task(NamedTuple):
    """Support and query as the network reads them, with labels."""

    support: Images
    support_y: Tensor
    query: Images
    query_y: Tensor


class TaskGradient(NamedTuple):
    """Query loss and logits, the gradient in the parameters, and per step that in the rates (parameters' shapes)."""

    loss: Tensor
    logits: Tensor
    params: Params
    rates: list[Params]


def task_gradient(
    params: Tensors,
    rates: Sequence[Tensors],
    task: Task,
    *,
    exact: bool,
    weights: LossWeights | None = None,
    recompute: bool = False,
    learned: bool = True,
) -> TaskGradient:
    """Return the meta-gradient of a task.

    `rates` are those of each step, which broadcast to their parameters; unless they are `learned`, their gradient is
    left out. `exact` is second order; otherwise inner gradients are constants. `weights` are those of `Objective`. With
    `recompute` only the parameters of each step are kept, and its activations are computed again on the way back; the
    numbers are the same.
    """
    params, rates = _in_format(params, task.support), [_in_format(of_step, task.support) for of_step in rates]
    if weights is None and rates and not moves_body(rates[0]):
        return _head_task_gradient(params, rates, task, exact=exact)
    adapted, trace, keep = dict(params), list[_Step](), exact and not recompute
    for of_step in rates:
        support = loss_pass(adapted, task.support, task.support_y, body=exact or moves_body(of_step), keep=keep)
        trace.append(_Step(dict(adapted), None if exact else support.gradient, support if keep else None))
        _move(adapted, of_step, support.gradient)
        del support
    query = loss_pass(adapted, task.query, task.query_y)
    v = {name: value * (1 if weights is None else weights[-1]) for name, value in query.gradient.items()}
    loss, logits = query.loss, query.logits
    del adapted, query
    changes: list[Params] = []
    for step in reversed(range(len(rates))):
        (at, gradient, kept), of_step = trace.pop(), rates[step]
        if gradient is None:
            kept = kept or loss_pass(at, task.support, task.support_y, keep=True)
            gradient = kept.gradient
        if learned:
            changes.insert(0, {name: -gradient[name] * v[name] for name in of_step})
        if kept is not None:
            product = hessian_product(at, kept, {name: rate * v[name] for name, rate in of_step.items()})
            v = {name: value - product.pop(name) for name, value in v.items()}
        if weights is not None and step:
            earlier = loss_pass(at, task.query, task.query_y)
            v = {name: value + weights[step - 1] * earlier.gradient[name] for name, value in v.items()}
        del gradient, kept
    return TaskGradient(loss, logits, v, changes)


class _Step(NamedTuple):
    """An inner step: the parameters before it, their gradient (first order), and its pass, if that is kept."""

    params: Params
    gradient: Params | None
    support: Pass | None


def adapt(params: Tensors, rates: Sequence[Tensors], images: Images, labels: Tensor) -> Params:
    """Return the parameters after the steps; if only the head moves, the images are embedded once."""
    adapted = dict(params)
    head_alone = bool(rates) and not moves_body(rates[0])
    features = embed(params, images).features if head_alone else None
    for of_step in rates:
        if features is None:
            gradient = loss_pass(adapted, images, labels).gradient
        else:
            gradient = head_named(head_gradient(features, labels, head_of(adapted))[3])
        _move(adapted, of_step, gradient)
    return adapted


def _in_format(values: Tensors, images: Images) -> Params:
    """Return weights in the memory format of the planes, which every convolution would otherwise copy them to."""
    memory_format = images.memory_format
    return {name: v.contiguous(memory_format=memory_format) if v.dim() == 4 else v for name, v in values.items()}


def _move(params: Params, rates: Tensors, gradient: Tensors) -> None:
    for name, rate in rates.items():
        params[name] = params[name] - rate * gradient[name]


def _head_task_gradient(params: Tensors, rates: Sequence[Tensors], task: Task, *, exact: bool) -> TaskGradient:
    """Return the meta-gradient if only the head moves: support and query are embedded once.

    The body's part of H (a v) is linear in the gradient that the head passes down, so all steps share one backward
    pass through the body.
    """
    support = embed(params, task.support)
    adapted, trace = dict(params), []
    for of_step in rates:
        *_, dhead, kept = head_gradient(support.features, task.support_y, head_of(adapted))
        trace.append((head_of(adapted), kept, head_named(dhead)))
        _move(adapted, of_step, head_named(dhead))
    query = loss_pass(adapted, task.query, task.query_y)
    v, changes = dict(query.gradient), list[Params]()
    down = torch.zeros_like(support.features)
    for (head, kept, gradient), of_step in zip(reversed(trace), reversed(rates), strict=True):
        changes.insert(0, {name: -gradient[name] * v[name] for name in of_step})
        if not exact:
            continue
        along = {name: of_step[name] * v[name] if name in of_step else torch.zeros_like(v[name]) for name in gradient}
        dfeatures_t, dhead_t = head_gradient_tangent(None, kept, head, head_of(along))
        down += dfeatures_t
        v |= {name: v[name] - value for name, value in head_named(dhead_t).items()}
    if exact:
        of_body, _ = body_gradient(params, task.support, support, down)
        v |= {name: v[name] - value for name, value in of_body.items()}
    return TaskGradient(query.loss, query.logits, v, changes)
