"""A convolutional body with its linear head under a mean cross-entropy: loss, gradient, and product with the Hessian.

The product is the tangent of the gradient along a direction (forward over reverse; Pearlmutter: Fast Exact
Multiplication by the Hessian, 1994), on the activations that the gradient's passes kept. Both walk the table of layers
of `structure`.

The head: features f (n, D), weight w (N, D), bias b (N,), logits l = f w' + b, probabilities p = softmax(l), loss
-mean log p[label]. A prefix d marks the gradient of the loss, a suffix _t a tangent. All tensors may have a leading G:
the number of episodes, each with its own parameters.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nilr.meta.engine.image_block import ImageBlock
from nilr.meta.engine.layer import BranchParams, ConvLayer, Ends
from nilr.meta.engine.native_layer import NativeLayer
from nilr.meta.engine.structure import Row, kept_planes
from nilr.models.learner import Params, Tensors
from nilr.models.parameters import part

Kept = Any  # what a layer's pass keeps for its later passes


class Images(NamedTuple):
    """Images (n, C, H, W) as the layers read them, or those of G episodes side by side, (n, G*C, H, W).

    The first layer may be made for these images.
    """

    x: Tensor
    rows: tuple[Row, ...]  # the table of layers
    layers: tuple[ConvLayer | NativeLayer | ImageBlock, ...]  # one for each row
    mean: bool  # whether the features are means over the positions of the last plane
    groups: int | None  # G; None for a single episode, without a leading G
    memory_format: torch.memory_format
    first: int = 0  # the number of first images that only give the statistics; the loss is that of the others


class Embedding(NamedTuple):
    """The body's features, the shape of its last plane, the planes that are kept, and what the layers keep."""

    features: Tensor
    shape: torch.Size
    planes: list[Tensor | None]
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


def as_images(
    x: Tensor,
    rows: Sequence[Row],
    layers: Sequence[ConvLayer | NativeLayer],
    memory_format: torch.memory_format,
    *,
    mean: bool,
    first: int = 0,
) -> Images:
    """Return images (n, C, H, W), or (G, n, C, H, W), in the memory format of the layers."""
    groups = len(x) if x.dim() == 5 else None
    x = x if groups is None else x.transpose(0, 1).flatten(1, 2)
    x = x.contiguous(memory_format=memory_format)
    return Images(x, tuple(rows), tuple(layers), mean, groups, memory_format, first)


def moves_body(names: Iterable[str]) -> bool:
    """Return whether any of the named parameters is the body's."""
    return any(part(name) == "body" for name in names)


def outputs(images: Images, params: Tensors) -> Iterator[tuple[Row, Tensor, Kept]]:
    """Yield each layer's row, its output and what its pass keeps; free planes that no later layer reads."""
    planes = {0: images.x}
    layers = zip(images.rows, images.layers, kept_planes(images.rows), strict=True)
    for i, (row, layer, later) in enumerate(layers):
        a, kept = layer.forward([planes[plane] for plane in row.inputs], _branches(params, row), last=True)
        planes[i + 1] = a
        planes = {plane: value for plane, value in planes.items() if plane in later}
        yield row, a, kept


def activations(images: Images, params: Tensors) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the output of every stage; the last output, flattened, is the features."""
    last = images.rows[-1]
    for row, a, _ in outputs(images, params):
        if row.stage is not None:
            yield row.stage, a.mean((2, 3), keepdim=True) if row is last and images.mean else a


def embed(params: Tensors, images: Images, *, keep: bool = False) -> Embedding:
    """Return the body's features, and what its derivative needs.

    Without `keep`, planes that one pass over memory makes again are freed: the outputs of layers that do not pool.
    """
    planes: list[Tensor | None] = [images.x]
    kept: list[Kept] = []
    a = images.x
    for row, layer, later in zip(images.rows, images.layers, kept_planes(images.rows), strict=True):
        a, of_layer = layer.forward(_held(planes, row.inputs), _branches(params, row))
        planes.append(a)
        kept.append(of_layer)
        for plane in range(1, len(planes)):
            if not (keep or plane in later or images.rows[plane - 1].pool):
                planes[plane] = None
    return Embedding(_features(a, images), a.shape, planes, kept)


def body_gradient(
    params: Tensors, images: Images, embedding: Embedding, dfeatures: Tensor, *, keep: bool = False
) -> tuple[Params, list[Kept]]:
    """Return the gradient in the body, and with `keep` what the Hessian needs.

    Without `keep` the embedding is consumed: activations are freed on the way back.
    """
    gradient: Params = {}
    gradients: list[Kept] = [None] * len(images.rows)
    das = {len(images.rows): _plane_gradient(dfeatures, embedding.shape, images)}
    for i in reversed(range(len(images.rows))):
        row = images.rows[i]
        for plane in (*row.inputs, i + 1):
            _make_again(plane, params, images, embedding)
        planes, kept = embedding.planes, embedding.kept
        needed, branches = [plane > 0 for plane in row.inputs], _branches(params, row)
        dxs, of_branches, gradients[i] = images.layers[i].backward(
            das.pop(i + 1), _ends(planes, row, i), kept[i], branches, needed=needed, last=not keep
        )
        if not keep:
            del planes[i + 1 :], kept[i:]
        _add(das, row, dxs)
        gradient |= _named(params, row, of_branches)
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


def loss_pass(params: Tensors, images: Images, labels: Tensor, *, body: bool = True, keep: bool = False) -> Pass:
    """Return the loss and its gradient in the head and, with `body`, in the body.

    With `keep` the pass holds what the Hessian needs.
    """
    embedding = embed(params, images, keep=keep)
    judged = embedding.features[..., images.first :, :]
    loss, logits, dfeatures, dhead, head = head_gradient(judged, labels, head_of(params))
    if not body:
        return Pass(loss, logits, head_named(dhead), images, head, embedding, [])
    dfeatures = torch.nn.functional.pad(dfeatures, (0, 0, images.first, 0)) if images.first else dfeatures
    gradient, gradients = body_gradient(params, images, embedding, dfeatures, keep=keep)
    return Pass(loss, logits, gradient | head_named(dhead), images, head, embedding, gradients)


def hessian_product(params: Tensors, at: Pass, direction: Tensors) -> Params:
    """Return the Hessian of the support loss times a direction, in all parameters; the pass is consumed.

    The direction is zero in the parameters that it does not name.
    """
    full = {name: direction[name] if name in direction else torch.zeros_like(value) for name, value in params.items()}
    images, planes, kept = at.images, at.embedding.planes, at.embedding.kept
    planes_t: dict[int, Tensor | None] = {0: None}
    a_t: Tensor | None = None
    tangents: list[Kept] = []
    for i, (row, layer) in enumerate(zip(images.rows, images.layers, strict=True)):
        x_ts = [planes_t[plane] for plane in row.inputs]
        ends = _ends(planes, row, i)
        a_t, tangent = layer.forward_tangent(x_ts, ends, kept[i], _branches(params, row), _branches(full, row))
        planes_t[i + 1] = a_t
        tangents.append(tangent)
    del planes_t
    features_t = None if a_t is None else _features(a_t, images)
    dfeatures_t, dhead_t = head_gradient_tangent(features_t, at.head, head_of(params), head_of(full))
    product = head_named(dhead_t)
    da_ts = {len(images.rows): _plane_gradient(dfeatures_t, at.embedding.shape, images)}
    for i in reversed(range(len(images.rows))):
        row, da_t = images.rows[i], da_ts.pop(i + 1)
        branches = _branches(params, row), _branches(full, row)
        of_layer = _ends(planes, row, i), kept.pop(), at.gradients.pop(), tangents.pop()
        planes.pop()
        dx_ts, of_branches = images.layers[i].backward_tangent(da_t, *of_layer, *branches)
        _add(da_ts, row, dx_ts)
        product |= _named(params, row, of_branches)
    return product


def head_of(params: Tensors) -> HeadParams:
    """Return the head's parameters."""
    return HeadParams(params["head.weight"], params["head.bias"])


def head_named(head: HeadParams) -> Params:
    """Return the head's values by parameter name."""
    return {"head.weight": head.weight, "head.bias": head.bias}


def flatten(a: Tensor, groups: int | None) -> Tensor:
    """Return a body's last output as features (n, D), or (G, n, D)."""
    return a.reshape(len(a), -1) if groups is None else a.reshape(len(a), groups, -1).transpose(0, 1)


def _features(a: Tensor, images: Images) -> Tensor:
    """Return the features of a body's last plane."""
    return flatten(a.mean((2, 3)) if images.mean else a, images.groups)


def _plane_gradient(dfeatures: Tensor, shape: torch.Size, images: Images) -> Tensor:
    """Return the gradient in a body's last plane of a gradient in its features."""
    dfeatures = dfeatures if images.groups is None else dfeatures.transpose(0, 1)
    if images.mean:
        dfeatures = dfeatures.reshape(*shape[:2], 1, 1).expand(shape) / (shape[2] * shape[3])
    return dfeatures.reshape(shape).clone(memory_format=images.memory_format)


def _held(planes: Sequence[Tensor | None], numbers: Iterable[int]) -> list[Tensor]:
    """Return planes that are held."""
    return [plane for number in numbers if (plane := planes[number]) is not None]


def _ends(planes: Sequence[Tensor | None], row: Row, layer: int) -> Ends:
    """Return the planes that a layer reads and writes."""
    *xs, a = _held(planes, (*row.inputs, layer + 1))
    return Ends(xs, a)


def _make_again(plane: int, params: Tensors, images: Images, embedding: Embedding) -> None:
    """Compute a plane that was not kept."""
    if embedding.planes[plane] is None:
        of = plane - 1
        branches = _branches(params, images.rows[of])
        embedding.planes[plane] = images.layers[of].output(embedding.kept[of], branches)


def _add(to: dict[int, Tensor], row: Row, dxs: Sequence[Tensor | None]) -> None:
    """Add a layer's gradients to those of the planes that it reads."""
    for plane, dx in zip(row.inputs, dxs, strict=True):
        if dx is not None:
            to[plane] = to[plane].add_(dx) if plane in to else dx


def _branches(params: Tensors, row: Row) -> list[BranchParams]:
    """Return the parameters of a layer's branches; those of G episodes as channels side by side."""
    branches = [BranchParams(*(params[name] for name in _names(unit.name))) for unit in row.branches]
    if branches[0].shift.dim() == 1:
        return branches
    return [BranchParams(of.weight.flatten(0, 1), of.scale.flatten(), of.shift.flatten()) for of in branches]


def _named(params: Tensors, row: Row, branches: Sequence[BranchParams]) -> Params:
    return {
        name: value.view_as(params[name])
        for unit, branch in zip(row.branches, branches, strict=True)
        for name, value in zip(_names(unit.name), branch, strict=True)
    }


def _names(unit: str) -> tuple[str, str, str]:
    prefix = f"body.{unit}."
    return prefix + "conv.weight", prefix + "norm.weight", prefix + "norm.bias"
