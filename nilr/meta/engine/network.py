"""Conv4 with its linear head under a mean cross-entropy: loss and gradient, and the product with the Hessian.

The product is the tangent of the gradient along a direction (forward over reverse; Pearlmutter: Fast Exact
Multiplication by the Hessian, 1994), on the activations that the gradient's passes kept.

The head: features f (n, D), weight w (N, D), bias b (N,), logits l = f w' + b, probabilities p = softmax(l), loss
-mean log p[label]. A prefix d marks the gradient of the loss, a suffix _t a tangent. All tensors may have a leading G:
the number of episodes, each with its own parameters.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nilr.meta.engine.block import BlockParams, ConvBlock
from nilr.meta.engine.image_block import ImageBlock
from nilr.models.learner import Params, Tensors
from nilr.models.parameters import part

N_BLOCKS = 4
BLOCKS = tuple(f"block{i + 1}" for i in range(N_BLOCKS))

Kept = Any  # what a block's pass keeps for its later passes


class Images(NamedTuple):
    """Images (n, C, H, W) as the blocks read them, or those of G episodes side by side, (n, G*C, H, W).

    The first block may be made for these images.
    """

    x: Tensor
    blocks: tuple[ConvBlock | ImageBlock, ...]
    groups: int | None  # G; None for a single episode, without a leading G
    memory_format: torch.memory_format
    first: int = 0  # the number of first images that only give the statistics; the loss is that of the others


class Embedding(NamedTuple):
    """The body's features, its last plane, and what its blocks keep."""

    features: Tensor
    a: Tensor
    kept: list[Kept]


class HeadParams(NamedTuple):
    """Weight (N, D) and bias (N,)."""

    weight: Tensor
    bias: Tensor


class HeadKept(NamedTuple):
    """What the head's tangent needs: features, probabilities, and the gradient in the logits."""

    features: Tensor
    probabilities: Tensor
    dlogits: Tensor


class Pass(NamedTuple):
    """A forward and backward pass: the loss, the logits, the gradient, and what the Hessian needs."""

    loss: Tensor
    logits: Tensor
    gradient: Params
    images: Images
    head: HeadKept
    embedding: Embedding
    gradients: list[Kept]


def as_images(x: Tensor, blocks: Sequence[ConvBlock]) -> Images:
    """Return images (n, C, H, W), or (G, n, C, H, W), in the memory format of the blocks."""
    groups = len(x) if x.dim() == 5 else None
    x = x if groups is None else x.transpose(0, 1).flatten(1, 2)
    memory_format = blocks[0].passes.memory_format
    return Images(x.contiguous(memory_format=memory_format), tuple(blocks), groups, memory_format, blocks[0].first or 0)


def first_needed(names: Iterable[str]) -> int:
    """Return the first block whose gradient the named parameters need; `N_BLOCKS` if all of them are the head's."""
    return 0 if any(part(name) == "body" for name in names) else N_BLOCKS


def activations(images: Images, params: Tensors) -> Iterator[Tensor]:
    """Yield the output of every block; keep nothing."""
    a = images.x
    for i, block in enumerate(images.blocks):
        a = block.forward(a, _block(params, i), last=True)[0]
        yield a


def embed(params: Tensors, images: Images) -> Embedding:
    """Return the body's features, and what its derivative needs."""
    a, kept = images.x, []
    for i, block in enumerate(images.blocks):
        a, block_kept = block.forward(a, _block(params, i))
        kept.append(block_kept)
    return Embedding(flatten(a, images.groups), a, kept)


def body_gradient(
    params: Tensors,
    images: Images,
    embedding: Embedding,
    dfeatures: Tensor,
    *,
    first_block: int = 0,
    keep: bool = False,
) -> tuple[Params, list[Kept]]:
    """Return the gradient in the blocks from `first_block` on, and with `keep` what the Hessian needs of them.

    Without `keep` the embedding is consumed: activations are freed on the way back.
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


def head_gradient(
    features: Tensor, labels: Tensor, params: HeadParams
) -> tuple[Tensor, Tensor, Tensor, HeadParams, HeadKept]:
    """Return loss, logits, the gradients in features and parameters, and what the tangent needs.

    dl = (p - onehot) / n; dw = dl' f; db = sum dl; df = dl w.
    """
    logits = features @ params.weight.mT + params.bias.unsqueeze(-2)
    log_p = logits.log_softmax(-1)
    loss = -log_p.gather(-1, labels[..., None]).squeeze(-1).mean(-1)
    p = log_p.exp()
    onehot = labels[..., None] == torch.arange(p.shape[-1], device=labels.device)
    dlogits = (p - onehot.to(p.dtype)) / labels.shape[-1]
    gradient = HeadParams(dlogits.mT @ features, dlogits.sum(-2))
    return loss, logits, dlogits @ params.weight, gradient, HeadKept(features, p, dlogits)


def head_gradient_tangent(
    features_t: Tensor | None, kept: HeadKept, params: HeadParams, params_t: HeadParams
) -> tuple[Tensor, HeadParams]:
    """Return the tangents of the gradients in features and in parameters.

    l_t = f_t w' + f w_t' + b_t; dl_t = p (l_t - sum p l_t) / n; then the product rule.
    """
    logits_t = kept.features @ params_t.weight.mT + params_t.bias.unsqueeze(-2)
    if features_t is not None:
        logits_t = logits_t + features_t @ params.weight.mT
    p = kept.probabilities
    dlogits_t = p * (logits_t - (p * logits_t).sum(-1, keepdim=True)) / p.shape[-2]
    dweight_t = dlogits_t.mT @ kept.features
    if features_t is not None:
        dweight_t = dweight_t + kept.dlogits.mT @ features_t
    dfeatures_t = dlogits_t @ params.weight + kept.dlogits @ params_t.weight
    return dfeatures_t, HeadParams(dweight_t, dlogits_t.sum(-2))


def loss_pass(params: Tensors, images: Images, labels: Tensor, *, first_block: int = 0, keep: bool = False) -> Pass:
    """Return the loss and its gradient in the head and in the blocks from `first_block` on.

    With `keep` the pass holds what the Hessian needs.
    """
    embedding = embed(params, images)
    judged = embedding.features[..., images.first :, :]
    loss, logits, dfeatures, dhead, head = head_gradient(judged, labels, head_of(params))
    dfeatures = torch.nn.functional.pad(dfeatures, (0, 0, images.first, 0)) if images.first else dfeatures
    gradient, gradients = body_gradient(params, images, embedding, dfeatures, first_block=first_block, keep=keep)
    return Pass(loss, logits, gradient | head_named(dhead), images, head, embedding, gradients)


def hessian_product(params: Tensors, at: Pass, direction: Tensors) -> Params:
    """Return the Hessian of the support loss times a direction, in all parameters.

    The direction is zero in the parameters that it does not name.
    """
    full = {name: direction[name] if name in direction else torch.zeros_like(value) for name, value in params.items()}
    blocks = list(enumerate(zip(at.images.blocks, at.embedding.kept, at.gradients, strict=True)))
    a_t: Tensor | None = None
    tangents: list[Kept] = []
    for i, (block, kept, _) in blocks:
        a_t, tangent = block.forward_tangent(a_t, kept, _block(params, i), _block(full, i))
        tangents.append(tangent)
    features_t = None if a_t is None else flatten(a_t, at.images.groups)
    dfeatures_t, dhead_t = head_gradient_tangent(features_t, at.head, head_of(params), head_of(full))
    product = head_named(dhead_t)
    da_t: Tensor | None = _unflatten(dfeatures_t, at.embedding.a, at.images)
    for i, (block, kept, gradient) in reversed(blocks):
        if da_t is None:
            break
        da_t, dparams_t = block.backward_tangent(da_t, kept, gradient, tangents[i], _block(params, i), _block(full, i))
        product |= _named(params, i, dparams_t)
    return product


def head_of(params: Tensors) -> HeadParams:
    """Return the head's parameters."""
    return HeadParams(params["head.weight"], params["head.bias"])


def head_named(head: HeadParams) -> Params:
    """Return the head's values by parameter name."""
    return {"head.weight": head.weight, "head.bias": head.bias}


def flatten(a: Tensor, groups: int | None) -> Tensor:
    """Return a body's last plane as features (n, D), or (G, n, D)."""
    return a.reshape(len(a), -1) if groups is None else a.reshape(len(a), groups, -1).transpose(0, 1)


def _unflatten(features: Tensor, like: Tensor, images: Images) -> Tensor:
    features = features if images.groups is None else features.transpose(0, 1)
    return features.reshape(like.shape).contiguous(memory_format=images.memory_format)


def _block(params: Tensors, i: int) -> BlockParams:
    """Return a block's parameters; those of G episodes as channels side by side."""
    weight, scale, shift = (params[name] for name in _names(i))
    return BlockParams(weight.reshape(-1, *weight.shape[-3:]), scale.reshape(-1), shift.reshape(-1))


def _named(params: Tensors, i: int, block: BlockParams) -> Params:
    return {name: value.reshape(params[name].shape) for name, value in zip(_names(i), block, strict=True)}


def _names(i: int) -> tuple[str, str, str]:
    prefix = f"body.{BLOCKS[i]}."
    return prefix + "conv.weight", prefix + "norm.weight", prefix + "norm.bias"
