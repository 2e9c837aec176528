"""Conv4 under a mean cross-entropy, from its blocks and its head: loss and gradient, and the product with the Hessian.

The product is the tangent of the gradient along a direction (forward over reverse; Pearlmutter: Fast Exact
Multiplication by the Hessian, 1994), on the activations that the pass for the gradient kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nilr.meta.engine import linear_head
from nilr.meta.engine.block import Block, BlockParams
from nilr.meta.engine.conv_block import ConvBlock
from nilr.meta.engine.linear_head import HeadKept, HeadParams
from nilr.meta.engine.passes import Passes
from nilr.models.conv4 import BLOCKS, N_BLOCKS
from nilr.models.learner import Params, part


class Images(NamedTuple):
    """Images as the blocks read them.

    Attributes:
        x: (n, C, H, W) in channels-last memory.
        blocks: the network's blocks, the first of which may be made for these images.
    """

    x: Tensor
    blocks: tuple[Block, ...]


def look_at(passes: Passes, x: Tensor) -> Images:
    """Return images (n, C, H, W) as the blocks read them."""
    x = _channels_last(x)
    block = ConvBlock(passes)
    return Images(x, (passes.image_block(x) or block, *(block,) * (N_BLOCKS - 1)))


@dataclass(frozen=True)
class Pass:
    """A forward and backward pass: the loss, the logits, its gradient, and what the Hessian needs."""

    loss: Tensor
    logits: Tensor
    gradient: Params
    images: Images
    head: HeadKept
    kept: list[Any]
    gradients: list[Any]
    last: Tensor


def first_needed(names: Iterable[str]) -> int:
    """Return the first block whose gradient these parameters need: none where they are the head's alone."""
    return 0 if any(part(name) == "body" for name in names) else N_BLOCKS


def activations(images: Images, params: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """Yield the output of every block; what a block keeps is freed at once."""
    a = images.x
    for i, block in enumerate(images.blocks):
        a = block.forward(a, _block(params, i))[0]
        yield a


def loss_pass(
    params: Mapping[str, Tensor], images: Images, labels: Tensor, *, first_block: int = 0, keep: bool = False
) -> Pass:
    """Return the loss and its gradient in the head and in the blocks from `first_block` on.

    With `keep` the pass holds what the Hessian needs; without, activations are freed on the way back.
    """
    a, kept = images.x, []
    for i, block in enumerate(images.blocks):
        a, block_kept = block.forward(a, _block(params, i))
        kept.append(block_kept)
    loss, logits, dfeatures, dhead, head = linear_head.loss_and_gradient(flatten(a), labels, _head(params))
    gradient = {"head.weight": dhead.weight, "head.bias": dhead.bias}
    gradients: list[Any] = [None] * N_BLOCKS
    da: Tensor | None = _unflatten(dfeatures, a)
    for i in reversed(range(first_block, N_BLOCKS)):
        if da is None:
            break
        block_kept = kept[i] if keep else kept.pop()
        da, dparams, gradients[i] = images.blocks[i].backward(
            da, block_kept, _block(params, i), input_gradient=i > 0, spent=not keep
        )
        gradient |= _named(i, dparams)
    return Pass(loss, logits, gradient, images, head, kept if keep else [], gradients if keep else [], a)


def hessian_product(params: Mapping[str, Tensor], at: Pass, direction: Mapping[str, Tensor]) -> Params:
    """Return the Hessian of the support loss times a direction (zero where it names no value), in all parameters."""
    full = {name: direction[name] if name in direction else torch.zeros_like(value) for name, value in params.items()}
    in_body = any(part(name) == "body" for name in direction)
    blocks = list(enumerate(zip(at.images.blocks, at.kept, at.gradients, strict=True)))
    a_t: Tensor | None = None
    tangents: list[Any] = [None] * N_BLOCKS
    for i, (block, kept, _) in blocks if in_body else ():
        a_t, tangents[i] = block.forward_tangent(a_t, kept, _block(params, i), _block(full, i))
    features_t = None if a_t is None else flatten(a_t)
    dfeatures_t, dhead_t = linear_head.gradient_tangent(features_t, at.head, _head(params), _head(full))
    product = {"head.weight": dhead_t.weight, "head.bias": dhead_t.bias}
    da_t: Tensor | None = _unflatten(dfeatures_t, at.last)
    for i, (block, kept, gradient) in reversed(blocks):
        if da_t is None:
            break
        if tangents[i] is None:
            # a body that does not move: its gradient is linear in what comes down from the head
            da_t, dparams_t, _ = block.backward(da_t, kept, _block(params, i), input_gradient=i > 0)
        else:
            da_t, dparams_t = block.backward_tangent(
                da_t, kept, gradient, tangents[i], _block(params, i), _block(full, i)
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


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def flatten(a: Tensor) -> Tensor:
    """Return (n, C, H, W) as features (n, C*H*W), in the order of the definition."""
    return a.contiguous().flatten(1)


def _unflatten(features: Tensor, like: Tensor) -> Tensor:
    return _channels_last(features.reshape(like.shape))
