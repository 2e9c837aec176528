"""Conv4 under a mean cross-entropy, from its blocks and its head: loss and gradient, and the product with the Hessian.

The product is the tangent of the gradient along a direction (forward over reverse; Pearlmutter: Fast Exact
Multiplication by the Hessian, 1994), on the activations that the pass for the gradient kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nilr.meta.engine import linear_head
from nilr.meta.engine.block import Block, BlockParams, ConvBlock, Kept
from nilr.meta.engine.linear_head import HeadKept, HeadParams
from nilr.models.conv4 import BLOCKS, N_BLOCKS
from nilr.models.learner import Params
from nilr.models.parameters import part


class Images(NamedTuple):
    """Images as the blocks read them.

    Attributes:
        x: (n, C, H, W); or those of G episodes side by side, (n, G*C, H, W).
        blocks: the network's blocks, the first of which may be made for these images.
        groups: G, or None for one episode alone, whose tensors have no leading G.
        memory_format: how the blocks' planes lie in memory.
    """

    x: Tensor
    blocks: tuple[Block, ...]
    groups: int | None
    memory_format: torch.memory_format


class Embedding(NamedTuple):
    """The body's features, its last plane, and what its blocks keep."""

    features: Tensor
    a: Tensor
    kept: list[Kept]


@dataclass(frozen=True)
class Pass:
    """A forward and backward pass: the loss, the logits, its gradient, and what the Hessian needs."""

    loss: Tensor
    logits: Tensor
    gradient: Params
    images: Images
    head: HeadKept
    embedding: Embedding
    gradients: list[Kept]


def as_images(x: Tensor, block: ConvBlock) -> Images:
    """Return images (n, C, H, W), or (G, n, C, H, W), in the memory format of the block, with four such blocks."""
    groups = len(x) if x.dim() == 5 else None
    x = x if groups is None else x.transpose(0, 1).flatten(1, 2)
    memory_format = block.passes.memory_format
    return Images(x.contiguous(memory_format=memory_format), (block,) * N_BLOCKS, groups, memory_format)


def first_needed(names: Iterable[str]) -> int:
    """Return the first block whose gradient these parameters need: none where they are the head's alone."""
    return 0 if any(part(name) == "body" for name in names) else N_BLOCKS


def activations(images: Images, params: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """Yield the output of every block; nothing is kept."""
    a = images.x
    for i, block in enumerate(images.blocks):
        a = block.forward(a, _block(params, i), last=True)[0]
        yield a


def embed(params: Mapping[str, Tensor], images: Images) -> Embedding:
    """Return the body's features, and what its derivative needs."""
    a, kept = images.x, []
    for i, block in enumerate(images.blocks):
        a, block_kept = block.forward(a, _block(params, i))
        kept.append(block_kept)
    return Embedding(flatten(a, images.groups), a, kept)


def body_gradient(
    params: Mapping[str, Tensor],
    images: Images,
    embedding: Embedding,
    dfeatures: Tensor,
    *,
    first_block: int = 0,
    keep: bool = False,
) -> tuple[Params, list[Kept]]:
    """Return the gradient in the blocks from `first_block` on, and with `keep` what the Hessian needs of them.

    Without, what the embedding kept is spent: activations are freed on the way back.
    """
    gradient: Params = {}
    gradients: list[Kept] = [None] * N_BLOCKS
    da: Tensor | None = _unflatten(dfeatures, embedding.a, images)
    for i in reversed(range(first_block, N_BLOCKS)):
        if da is None:
            break
        kept = embedding.kept[i] if keep else embedding.kept.pop()
        da, dparams, gradients[i] = images.blocks[i].backward(
            da, kept, _block(params, i), input_gradient=i > 0, last=not keep
        )
        gradient |= _named(params, i, dparams)
    return gradient, gradients


def loss_pass(
    params: Mapping[str, Tensor], images: Images, labels: Tensor, *, first_block: int = 0, keep: bool = False
) -> Pass:
    """Return the loss and its gradient in the head and in the blocks from `first_block` on.

    With `keep` the pass holds what the Hessian needs.
    """
    embedding = embed(params, images)
    loss, logits, dfeatures, dhead, head = linear_head.loss_and_gradient(embedding.features, labels, head_of(params))
    gradient, gradients = body_gradient(params, images, embedding, dfeatures, first_block=first_block, keep=keep)
    return Pass(loss, logits, gradient | head_named(dhead), images, head, embedding, gradients)


def hessian_product(params: Mapping[str, Tensor], at: Pass, direction: Mapping[str, Tensor]) -> Params:
    """Return the Hessian of the support loss times a direction (zero where it names no value), in all parameters."""
    full = {name: direction[name] if name in direction else torch.zeros_like(value) for name, value in params.items()}
    blocks = list(enumerate(zip(at.images.blocks, at.embedding.kept, at.gradients, strict=True)))
    a_t: Tensor | None = None
    tangents: list[Kept] = []
    for i, (block, kept, _) in blocks:
        a_t, tangent = block.forward_tangent(a_t, kept, _block(params, i), _block(full, i))
        tangents.append(tangent)
    features_t = None if a_t is None else flatten(a_t, at.images.groups)
    dfeatures_t, dhead_t = linear_head.gradient_tangent(features_t, at.head, head_of(params), head_of(full))
    product = head_named(dhead_t)
    da_t: Tensor | None = _unflatten(dfeatures_t, at.embedding.a, at.images)
    for i, (block, kept, gradient) in reversed(blocks):
        if da_t is None:
            break
        da_t, dparams_t = block.backward_tangent(da_t, kept, gradient, tangents[i], _block(params, i), _block(full, i))
        product |= _named(params, i, dparams_t)
    return product


def head_of(params: Mapping[str, Tensor]) -> HeadParams:
    """Return the head's parameters."""
    return HeadParams(params["head.weight"], params["head.bias"])


def head_named(head: HeadParams) -> Params:
    """Return values of the head by the parameters' names."""
    return {"head.weight": head.weight, "head.bias": head.bias}


def flatten(a: Tensor, groups: int | None) -> Tensor:
    """Return a body's last plane as features (n, D), or (G, n, D), in the order of the definition."""
    if groups is None:
        return a.reshape(len(a), -1)
    return a.reshape(len(a), groups, -1).transpose(0, 1)


def _unflatten(features: Tensor, like: Tensor, images: Images) -> Tensor:
    features = features if images.groups is None else features.transpose(0, 1)
    return features.reshape(like.shape).contiguous(memory_format=images.memory_format)


def _block(params: Mapping[str, Tensor], i: int) -> BlockParams:
    """Return a block's parameters; those of G episodes as channels side by side."""
    weight, scale, shift = (params[name] for name in _names(i))
    return BlockParams(weight.reshape(-1, *weight.shape[-3:]), scale.reshape(-1), shift.reshape(-1))


def _named(params: Mapping[str, Tensor], i: int, block: BlockParams) -> Params:
    return {name: value.reshape(params[name].shape) for name, value in zip(_names(i), block, strict=True)}


def _names(i: int) -> tuple[str, str, str]:
    prefix = f"body.{BLOCKS[i]}."
    return prefix + "conv.weight", prefix + "norm.weight", prefix + "norm.bias"
