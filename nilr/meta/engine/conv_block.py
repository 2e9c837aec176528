"""The Conv4 block and the head as plain tensor functions: forward, backward, and the tangents of both.

Notation: a block maps x (n, Ci, H, W) to a (n, Co, H/2, W/2). y is the convolution's output, m and r its channels'
mean and 1/standard deviation over M = n*H*W positions, h = (y - m) r, z = s h + t with scale s and shift t. A suffix
`_t` marks a tangent, a prefix `d` the gradient of the loss.

The block pools the raw y and applies the rest to the pooled values, a quarter of the work: z grows with y where s > 0
and falls with it where s < 0, so the block pools sign(s) y. This is exact.

Everything is kept in channels-last memory, where the channels' statistics are sums over the rows of an (M, C) matrix.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

EPS = 1e-5  # of nn.BatchNorm2d
_GEOMETRY = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)  # stride, padding, dilation, transposed, output padding, groups


class BlockParams(NamedTuple):
    """Convolution weight (Co, Ci, 3, 3), norm scale (Co,), norm shift (Co,)."""

    weight: Tensor
    scale: Tensor
    shift: Tensor


class BlockKept(NamedTuple):
    """What the forward pass keeps: x, y, where each pooled value came from, m, r, pooled h, and where z > 0."""

    x: Tensor
    y: Tensor
    where: Tensor
    mean: Tensor
    rstd: Tensor
    pooled: Tensor
    active: Tensor


class BlockGradient(NamedTuple):
    """What the backward pass keeps for its tangent: u, and the gradients in y, scale and shift."""

    u: Tensor
    dy: Tensor
    dscale: Tensor
    dshift: Tensor


class BlockTangent(NamedTuple):
    """What the tangent's forward pass keeps: tangents of x, y, m, pooled h, and q = mean(h y_t)."""

    x_t: Tensor | None
    y_t: Tensor
    mean_t: Tensor
    pooled_t: Tensor
    q: Tensor


def forward(x: Tensor, params: BlockParams) -> tuple[Tensor, BlockKept]:
    """Return a, and what the other passes need.

    y = conv(x, w); h = (y - m) r; a = relu(s pool(h) + t).
    """
    y = _convolve(x, params.weight)
    rows = _rows(y)
    mean = rows.mean(0)
    rstd = (rows - mean).square_().mean(0).add_(EPS).rsqrt_()
    pooled, index = _pool(y, params.scale)
    h = (pooled - _wide(mean)).mul_(_wide(rstd))
    z = torch.addcmul(_wide(params.shift), h, _wide(params.scale))
    return z.relu(), BlockKept(x, y, index, mean, rstd, h, z > 0)


def backward(
    da: Tensor, kept: BlockKept, params: BlockParams, *, input_gradient: bool
) -> tuple[Tensor | None, BlockParams, BlockGradient]:
    """Return the gradients in x (if asked for) and in the parameters, and what the tangent needs.

    u = da where z > 0; dt = sum u; ds = sum u h; dy = scatter(s r u) + b + c y, where per channel
    c = -s r^2 ds / M and b = -s r dt / M - c m.
    """
    u = da * kept.active
    dshift = _rows(u).sum(0)
    dscale = _rows(u * kept.pooled).sum(0)
    k = params.scale * kept.rstd
    c = -k * kept.rstd * dscale / _positions(kept.y)
    b = -k * dshift / _positions(kept.y) - c * kept.mean
    dy = torch.addcmul(_wide(b), kept.y, _wide(c))
    _add_at(dy, kept.where, u * _wide(k))
    dx, dweight = _convolve_backward(dy, kept.x, params.weight, input_gradient=input_gradient)
    return dx if input_gradient else None, BlockParams(dweight, dscale, dshift), BlockGradient(u, dy, dscale, dshift)


def forward_tangent(
    x_t: Tensor | None, kept: BlockKept, params: BlockParams, params_t: BlockParams
) -> tuple[Tensor, BlockTangent]:
    """Return the tangent of a, and what the backward pass's tangent needs.

    y_t = conv(x_t, w) + conv(x, w_t); with q = mean(h y_t), h_t = r (y_t - m_t - h q); the pooled positions and the
    positions where z > 0 stay; a_t = s_t h + s h_t + t_t where z > 0.
    """
    if x_t is None:
        y_t = _convolve(kept.x, params_t.weight)
    else:
        both = torch.cat([kept.x, x_t], 1).contiguous(memory_format=torch.channels_last)
        y_t = _convolve(both, torch.cat([params_t.weight, params.weight], 1))
    rows_t = _rows(y_t)
    mean_t = rows_t.mean(0)
    q = ((_rows(kept.y) - kept.mean) * rows_t).mean(0) * kept.rstd
    pooled_t = (_take(y_t, kept.where) - _wide(mean_t) - kept.pooled * _wide(q)) * _wide(kept.rstd)
    z_t = torch.addcmul(_wide(params_t.shift) + kept.pooled * _wide(params_t.scale), pooled_t, _wide(params.scale))
    return z_t * kept.active, BlockTangent(x_t, y_t, mean_t, pooled_t, q)


def backward_tangent(
    da_t: Tensor,
    kept: BlockKept,
    gradient: BlockGradient,
    tangent: BlockTangent,
    params: BlockParams,
    params_t: BlockParams,
) -> tuple[Tensor | None, BlockParams]:
    """Return the tangents of the gradients in x and in the parameters: the formulas of `backward`, differentiated.

    r_t = -r^2 q; with k = s r: dy_t = scatter(k_t u + k u_t) + b_t + c_t y + c y_t.
    """
    positions = _positions(kept.y)
    u, dy, dscale, dshift = gradient
    u_t = da_t * kept.active
    dshift_t = _rows(u_t).sum(0)
    dscale_t = _rows(torch.addcmul(u_t * kept.pooled, u, tangent.pooled_t)).sum(0)
    r, r_t = kept.rstd, -kept.rstd.square() * tangent.q
    k, k_t = params.scale * r, params_t.scale * r + params.scale * r_t
    c = -k * r * dscale / positions
    c_t = -(k_t * r * dscale + k * r_t * dscale + k * r * dscale_t) / positions
    b_t = -(k_t * dshift + k * dshift_t) / positions - c_t * kept.mean - c * tangent.mean_t
    dy_t = torch.addcmul(_wide(b_t), kept.y, _wide(c_t)).addcmul_(tangent.y_t, _wide(c))
    _add_at(dy_t, kept.where, torch.addcmul(u * _wide(k_t), u_t, _wide(k)))
    if tangent.x_t is None:
        _, dweight_t = _convolve_backward(dy_t, kept.x, params.weight, input_gradient=False)
        return None, BlockParams(dweight_t, dscale_t, dshift_t)
    dx_t, dweight_t = _convolve_backward(dy_t, kept.x, params.weight, input_gradient=True)
    dx_more, dweight_more = _convolve_backward(dy, tangent.x_t, params_t.weight, input_gradient=True)
    return dx_t.add_(dx_more), BlockParams(dweight_t.add_(dweight_more), dscale_t, dshift_t)


def _convolve(x: Tensor, weight: Tensor) -> Tensor:
    return torch.nn.functional.conv2d(x, weight, padding=1)


def _convolve_backward(dy: Tensor, x: Tensor, weight: Tensor, *, input_gradient: bool) -> tuple[Tensor, Tensor]:
    """Return the gradients of a convolution in its input (nothing usable unless asked for) and in its weight."""
    wanted = [input_gradient, True, False]
    dx, dweight, _ = torch.ops.aten.convolution_backward(dy, x, weight, None, *_GEOMETRY, wanted)
    return dx, dweight


def _pool(y: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return y (n, C, H/2, W/2) where sign(scale) y is largest in its 2x2 window, and where that is in the plane."""
    negative = scale < 0
    if not bool(negative.any()):
        pooled, index = torch.nn.functional.max_pool2d(y, 2, return_indices=True)
        return pooled, index
    sign = _wide(1 - 2 * negative.to(y.dtype))
    pooled, index = torch.nn.functional.max_pool2d(y * sign, 2, return_indices=True)
    return pooled * sign, index


def _take(plane: Tensor, index: Tensor) -> Tensor:
    taken = _pixels(plane).gather(1, _pixels(index))
    return taken.reshape(_last(index).shape).permute(0, 3, 1, 2)


def _add_at(plane: Tensor, index: Tensor, values: Tensor) -> None:
    _pixels(plane).scatter_add_(1, _pixels(index), _pixels(values))


def _last(x: Tensor) -> Tensor:
    """View (n, C, H, W) in channels-last memory as (n, H, W, C)."""
    return x.permute(0, 2, 3, 1)


def _pixels(x: Tensor) -> Tensor:
    """View (n, C, H, W) in channels-last memory as (n, H*W, C)."""
    return _last(x).flatten(1, 2)


def _rows(x: Tensor) -> Tensor:
    """View (n, C, H, W) in channels-last memory as (n*H*W, C)."""
    return _last(x).flatten(0, 2)


def _wide(channels: Tensor) -> Tensor:
    return channels[:, None, None]


def _positions(y: Tensor) -> int:
    return y.shape[0] * y.shape[2] * y.shape[3]
