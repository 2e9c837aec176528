"""Conv4 under a mean cross-entropy, from its blocks and its head: loss and gradient, and the product with the Hessian.

The product is the tangent of the gradient along a direction (forward over reverse; Pearlmutter: Fast Exact
Multiplication by the Hessian, 1994), on the activations that the pass for the gradient kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nilr.meta.engine import conv_block, linear_head
from nilr.meta.engine.conv_block import BlockGradient, BlockKept, BlockParams, BlockTangent
from nilr.meta.engine.linear_head import HeadKept, HeadParams
from nilr.meta.engine.passes import Passes
from nilr.models.conv4 import BLOCKS, N_BLOCKS
from nilr.models.learner import Params, part

Images = Tensor  # (n, C, H, W) in channels-last memory


@dataclass(frozen=True)
class Pass:
    """A forward and backward pass: the loss, the logits, its gradient, and what the Hessian needs."""

    loss: Tensor
    logits: Tensor
    gradient: Params
    head: HeadKept
    blocks: list[tuple[BlockKept, BlockGradient]]


def first_needed(names: Iterable[str]) -> int:
    """Return the first block whose gradient these parameters need: none where they are the head's alone."""
    return 0 if any(part(name) == "body" for name in names) else N_BLOCKS


def activations(passes: Passes, params: Mapping[str, Tensor], x: Images) -> Iterator[Images]:
    """Yield the output of every block; what a block keeps is freed at once."""
    for i in range(N_BLOCKS):
        x = conv_block.forward(passes, x, _block(params, i))[0]
        yield x


def loss_pass(
    passes: Passes, params: Mapping[str, Tensor], x: Images, labels: Tensor, *, first_block: int = 0, keep: bool = False
) -> Pass:
    """Return the loss and its gradient in the head and in the blocks from `first_block` on.

    With `keep` the pass holds what the Hessian needs; without, activations are freed on the way back.
    """
    kept = []
    for i in range(N_BLOCKS):
        x, block_kept = conv_block.forward(passes, x, _block(params, i))
        kept.append(block_kept)
    loss, logits, dfeatures, dhead, head = linear_head.loss_and_gradient(flatten(x), labels, _head(params))
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


def hessian_product(passes: Passes, params: Mapping[str, Tensor], at: Pass, direction: Mapping[str, Tensor]) -> Params:
    """Return the Hessian of the support loss times a direction (zero where it names no value), in all parameters."""
    full = {name: direction[name] if name in direction else torch.zeros_like(value) for name, value in params.items()}
    in_body = any(part(name) == "body" for name in direction)
    x_t: Tensor | None = None
    tangents: list[BlockTangent | None] = [None] * N_BLOCKS
    if in_body:
        for i, (kept, _) in enumerate(at.blocks):
            x_t, tangents[i] = conv_block.forward_tangent(passes, x_t, kept, _block(params, i), _block(full, i))
    features_t = None if x_t is None else flatten(x_t)
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
    prefix = f"body.{BLOCKS[i]}."
    return BlockParams(params[prefix + "conv.weight"], params[prefix + "norm.weight"], params[prefix + "norm.bias"])


def _named(i: int, block: BlockParams) -> Params:
    prefix = f"body.{BLOCKS[i]}."
    return {
        prefix + "conv.weight": block.weight,
        prefix + "norm.weight": block.scale,
        prefix + "norm.bias": block.shift,
    }


def _head(params: Mapping[str, Tensor]) -> HeadParams:
    return HeadParams(params["head.weight"], params["head.bias"])


def channels_last(x: Tensor) -> Images:
    """Return images in the memory that the passes read."""
    return x.contiguous(memory_format=torch.channels_last)


def flatten(a: Images) -> Tensor:
    """Return (n, C, H, W) as features (n, C*H*W), in the order of the definition."""
    return a.contiguous().flatten(1)


def _unflatten(features: Tensor, like: Images) -> Images:
    return channels_last(features.reshape(like.shape))
