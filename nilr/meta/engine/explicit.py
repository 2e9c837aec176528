"""The explicit engine: no autograd graph at all, for Conv4.

With rates a, support gradient g and Hessian H, a step is theta_{k+1} = theta_k - a g(theta_k). The meta-gradient starts
as the query loss's gradient at theta_K, v; then from the last step to the first, da += -g_k v and
v <- v - H(theta_k) (a v), with the v of that moment. What is left in v is the gradient in the meta-initialisation. The
product with the Hessian is the tangent of the support gradient along a v (forward over reverse; Pearlmutter: Fast Exact
Multiplication by the Hessian, 1994), on the activations that the step kept. First-order rows leave the Hessian out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nilr.episodes import Episode
from nilr.meta.algorithms import Algorithm
from nilr.meta.engine import conv_block, linear_head
from nilr.meta.engine.contract import MetaGradient
from nilr.meta.engine.conv_block import BlockGradient, BlockKept, BlockParams, BlockTangent
from nilr.meta.engine.linear_head import HeadKept, HeadParams
from nilr.meta.engine.passes import Passes
from nilr.meta.engine.workers import in_order
from nilr.metrics import accuracy
from nilr.models.conv4 import N_BLOCKS, Conv4
from nilr.models.learner import Learner, Params, part

Images = Tensor  # (n, C, H, W) in channels-last memory


@dataclass(frozen=True)
class Pass:
    """A forward and backward pass: the loss, the logits, its gradient, and what the Hessian needs."""

    loss: Tensor
    logits: Tensor
    gradient: Params
    head: HeadKept
    blocks: list[tuple[BlockKept, BlockGradient]]


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
    ) -> MetaGradient:
        """Return losses, accuracies and the meta-gradient of a batch of episodes."""
        total = {name: torch.zeros_like(value) for name, value in params.items()}
        total_lr = {name: torch.zeros_like(value) for name, value in inner_lr.items() if algorithm.learns_rates}
        losses: list[Tensor] = []
        accuracies: list[Tensor] = []

        def one(i: int) -> EpisodeGradient:
            return _episode_gradient(self._passes, params, inner_lr, algorithm, episodes[i], steps)

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
    ) -> Params:
        """Return the parameters adapted to one support set."""
        x = _channels_last(support_x)
        adapted = dict(params)
        for _ in range(steps):
            support = _loss_pass(self._passes, adapted, x, support_y, first_block=_first_needed(inner_lr))
            _move(adapted, inner_lr, support.gradient)
        return adapted

    @torch.no_grad()
    def features(self, learner: Learner, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Return the body's features."""
        x = _channels_last(x)
        for i in range(N_BLOCKS):
            x = conv_block.forward(self._passes, x, _block(params, i))[0]  # what it keeps is freed at once
        return _flatten(x)


def _episode_gradient(
    passes: Passes,
    params: Mapping[str, Tensor],
    inner_lr: Mapping[str, Tensor],
    row: Algorithm,
    episode: Episode,
    steps: int,
) -> EpisodeGradient:
    support_x = _channels_last(episode.support_x)
    adapted = dict(params)
    exact = row.order == 2
    first_block = 0 if exact else _first_needed(inner_lr)
    trace = []
    for _ in range(steps):
        support = _loss_pass(passes, adapted, support_x, episode.support_y, first_block=first_block, keep=exact)
        trace.append((dict(adapted), support))
        _move(adapted, inner_lr, support.gradient)
    query = _loss_pass(passes, adapted, _channels_last(episode.query_x), episode.query_y)
    v = dict(query.gradient)
    da: Params = {}
    for at, support in reversed(trace):
        if row.learns_rates:
            for name in inner_lr:
                change = -support.gradient[name] * v[name]
                da[name] = da[name] + change if name in da else change
        if exact:
            product = _hessian_product(passes, at, support, {name: rate * v[name] for name, rate in inner_lr.items()})
            v = {name: value - product[name] for name, value in v.items()}
    return EpisodeGradient(query.loss, query.logits, v, da)


def _move(params: Params, inner_lr: Mapping[str, Tensor], gradient: Mapping[str, Tensor]) -> None:
    for name, rate in inner_lr.items():
        params[name] = params[name] - rate * gradient[name]


def _first_needed(inner_lr: Mapping[str, Tensor]) -> int:
    """Return the first block whose gradient a step needs: none where only the head moves."""
    return 0 if any(part(name) == "body" for name in inner_lr) else N_BLOCKS


def _loss_pass(
    passes: Passes, params: Mapping[str, Tensor], x: Images, labels: Tensor, *, first_block: int = 0, keep: bool = False
) -> Pass:
    """Return the loss and its gradient in the head and in the blocks from `first_block` on.

    With `keep` the pass holds what the Hessian needs; without, activations are freed on the way back.
    """
    kept = []
    for i in range(N_BLOCKS):
        x, block_kept = conv_block.forward(passes, x, _block(params, i))
        kept.append(block_kept)
    loss, logits, dfeatures, dhead, head = linear_head.loss_and_gradient(_flatten(x), labels, _head(params))
    gradient = {"head.weight": dhead.weight, "head.bias": dhead.bias}
    blocks: list[tuple[BlockKept, BlockGradient]] = []
    da: Tensor | None = _unflatten(dfeatures, x)
    for i in reversed(range(first_block, N_BLOCKS)):
        if da is None:
            break
        block = kept.pop()
        da, dparams, block_gradient = conv_block.backward(
            passes, da, block, _block(params, i), input_gradient=i > 0, reuse=not keep
        )
        gradient |= _named(i, dparams)
        if keep:
            blocks.insert(0, (block, block_gradient))
    return Pass(loss, logits, gradient, head, blocks)


def _hessian_product(passes: Passes, params: Mapping[str, Tensor], at: Pass, direction: Mapping[str, Tensor]) -> Params:
    """Return the Hessian of the support loss times a direction (zero where it names no value), in all parameters."""
    full = {name: direction[name] if name in direction else torch.zeros_like(value) for name, value in params.items()}
    in_body = any(part(name) == "body" for name in direction)
    x_t: Tensor | None = None
    tangents: list[BlockTangent | None] = [None] * N_BLOCKS
    if in_body:
        for i, (kept, _) in enumerate(at.blocks):
            x_t, tangents[i] = conv_block.forward_tangent(passes, x_t, kept, _block(params, i), _block(full, i))
    features_t = None if x_t is None else _flatten(x_t)
    dfeatures_t, dhead_t = linear_head.gradient_tangent(features_t, at.head, _head(params), _head(full))
    product = {"head.weight": dhead_t.weight, "head.bias": dhead_t.bias}
    da_t: Tensor | None = _unflatten(dfeatures_t, at.blocks[-1][0].h)
    for i in reversed(range(N_BLOCKS)):
        if da_t is None:
            break
        (kept, gradient), tangent = at.blocks[i], tangents[i]
        if tangent is None:
            # a body that does not move: its gradient is linear in what comes down from the head
            da_t, dparams_t, _ = conv_block.backward(passes, da_t, kept, _block(params, i), input_gradient=i > 0)
        else:
            da_t, dparams_t = conv_block.backward_tangent(
                passes, da_t, kept, gradient, tangent, _block(params, i), _block(full, i)
            )
        product |= _named(i, dparams_t)
    return product


def _block(params: Mapping[str, Tensor], i: int) -> BlockParams:
    prefix = f"body.block{i + 1}."
    return BlockParams(params[prefix + "conv.weight"], params[prefix + "norm.weight"], params[prefix + "norm.bias"])


def _named(i: int, block: BlockParams) -> Params:
    prefix = f"body.block{i + 1}."
    return {
        prefix + "conv.weight": block.weight,
        prefix + "norm.weight": block.scale,
        prefix + "norm.bias": block.shift,
    }


def _head(params: Mapping[str, Tensor]) -> HeadParams:
    return HeadParams(params["head.weight"], params["head.bias"])


def _channels_last(x: Tensor) -> Images:
    return x.contiguous(memory_format=torch.channels_last)


def _flatten(a: Images) -> Tensor:
    """Return (n, C, H, W) as features (n, C*H*W), in the order of the definition."""
    return a.contiguous().flatten(1)


def _unflatten(features: Tensor, like: Images) -> Images:
    return _channels_last(features.reshape(like.shape))
