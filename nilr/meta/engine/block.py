"""A Conv4 block: forward, backward, and the tangents of both.

Notation: a block maps x (n, Ci, H, W) to a (n, Co, H/2, W/2). y is the convolution's output, m and r its channels'
mean and 1/standard deviation over M = n*H*W positions, h = (y - m) r, z = s h + t with scale s and shift t, and a is
relu(z), pooled. A suffix `_t` marks a tangent, a prefix `d` the gradient of the loss.

The block pools the raw y and applies the rest to the pooled values, a quarter of the work: z rises with y if s > 0 and
falls with it if s < 0, so the block pools sign(s) y. This is exact; if s is exactly 0, the gradient in s is the limit
s -> 0 from above.

A block may normalise by given statistics, or all images by the statistics of the first ones alone (`ConvBlock`). In the
second case M counts the positions of the first images, and b + c y is added there only.

Channels may be those of G episodes side by side, each with its own parameters: planes (n, G*C, H, W) and weights
(G*Co, Ci, 3, 3).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nilr.meta.engine.passes import Channels, Passes, Pooled, positions

_GEOMETRY = ([1, 1], [1, 1], [1, 1], False, [0, 0])  # stride, padding, dilation, transposed, output padding


class BlockParams(NamedTuple):
    """Convolution weight (Co, Ci, 3, 3), norm scale (Co,), norm shift (Co,)."""

    weight: Tensor
    scale: Tensor
    shift: Tensor


class Kept(NamedTuple):
    """What the forward pass keeps: x, y, the positions of the pooled values, m, r, pooled h, and a."""

    x: Tensor
    y: Tensor
    where: Tensor
    mean: Tensor
    rstd: Tensor
    h: Tensor
    a: Tensor


class Gradient(NamedTuple):
    """What the backward pass keeps for its tangent: u, and the gradients in y, scale and shift.

    The first block keeps no dy: only the tangent of its input needs it, and images have none.
    """

    u: Tensor
    dy: Tensor | None
    dscale: Tensor
    dshift: Tensor


class Tangent(NamedTuple):
    """What the tangent's forward pass keeps: tangents of x, y, m, pooled h, and q = mean(h y_t)."""

    x_t: Tensor | None
    y_t: Tensor
    mean_t: Tensor
    h_t: Tensor
    q: Tensor


@dataclass(frozen=True)
class ConvBlock:
    """A block for any input.

    With given statistics, a block has a forward pass only; with `first`, it has no tangents.
    """

    passes: Passes
    precision: torch.dtype | None = None  # dtype of the inputs of convolutions; None: that of the planes
    statistics: Tensor | None = None  # m and r, (2, Co); None: those of y
    first: int | None = None  # m and r are those of the first images; None: those of all images

    def forward(self, x: Tensor, params: BlockParams, *, last: bool = False) -> tuple[Tensor, Kept]:
        """Return a, and what the other passes need; no pass may follow a `last` one.

        y = conv(x, w); h = (y - m) r; a = relu(s pool(h) + t).
        """
        y = self._convolve(x, params.weight)
        pooled, where, mean, rstd = self._pool(y, params.scale)
        h, a = self.passes.normalise(pooled, mean, rstd, params.scale, params.shift)
        return a, Kept(x, y, where, mean, rstd, h, a)

    def backward(
        self, da: Tensor, kept: Kept, params: BlockParams, *, input_gradient: bool, last: bool = False
    ) -> tuple[Tensor | None, BlockParams, Gradient | None]:
        """Return the gradients in x (with `input_gradient`) and in the parameters, and what the tangent needs.

        u = da where a > 0; dt = sum u; ds = sum u h; dy = scatter(s r u) + b + c y, with per channel
        c = -s r^2 ds / M and b = -s r dt / M - c m. A `last` pass overwrites y, and keeps nothing for the tangent.
        """
        u, dshift, dscale = self.passes.masked_sums(da, kept.a, kept.h)
        m = positions(kept.y[: self.first])
        k = params.scale * kept.rstd
        c = -k * kept.rstd * dscale / m
        b = -k * dshift / m - c * kept.mean
        dy = self._spread(kept, u, (b, c, k), reuse=last)
        dx, dweight = self._convolve_backward(dy, kept.x, params.weight, input_gradient=input_gradient)
        gradient = None if last else Gradient(u, dy if input_gradient else None, dscale, dshift)
        return dx if input_gradient else None, BlockParams(dweight, dscale, dshift), gradient

    def forward_tangent(
        self, x_t: Tensor | None, kept: Kept, params: BlockParams, params_t: BlockParams
    ) -> tuple[Tensor, Tangent]:
        """Return the tangent of a, and what the backward pass's tangent needs. Images have no tangent.

        y_t = conv(x_t, w) + conv(x, w_t); with q = mean(h y_t), h_t = r (y_t - m_t - h q); the pooled positions and the
        positions where a > 0 stay; a_t = s_t h + s h_t + t_t where a > 0.
        """
        if x_t is None:
            y_t = self._convolve(kept.x, params_t.weight)
        else:
            both = _beside(kept.x, x_t, params.weight.shape[1]).contiguous(memory_format=self.passes.memory_format)
            y_t = self._convolve(both, torch.cat([params_t.weight, params.weight], 1))
        taken, mean_t, crossed = self.passes.tangent_statistics(kept.y, y_t, kept.where, kept.mean)
        q = crossed * kept.rstd
        channels = (kept.rstd, mean_t, q, params.scale, params_t.scale, params_t.shift)
        h_t, a_t = self.passes.normalise_tangent(taken, kept.h, kept.a, channels)
        return a_t, Tangent(x_t, y_t, mean_t, h_t, q)

    def backward_tangent(
        self, da_t: Tensor, kept: Kept, gradient: Gradient, tangent: Tangent, params: BlockParams, params_t: BlockParams
    ) -> tuple[Tensor | None, BlockParams]:
        """Return the tangents of the gradients in x and in the parameters: the formulas of `backward`, differentiated.

        r_t = -r^2 q; with k = s r: dy_t = scatter(k_t u + k u_t) + b_t + c_t y + c y_t.
        """
        m = positions(kept.y)
        u, dy, dscale, dshift = gradient
        u_t, dshift_t, dscale_t = self.passes.masked_sums(da_t, kept.a, kept.h, (u, tangent.h_t))
        r, r_t = kept.rstd, -kept.rstd.square() * tangent.q
        k, k_t = params.scale * r, params_t.scale * r + params.scale * r_t
        c = -k * r * dscale / m
        c_t = -(k_t * r * dscale + k * r_t * dscale + k * r * dscale_t) / m
        b_t = -(k_t * dshift + k * dshift_t) / m - c_t * kept.mean - c * tangent.mean_t
        dy_t = self.passes.spread_tangent((kept.y, tangent.y_t), (u, u_t), kept.where, (b_t, c_t, c, k_t, k))
        if tangent.x_t is None or dy is None:
            _, dweight_t = self._convolve_backward(dy_t, kept.x, params.weight, input_gradient=False)
            return None, BlockParams(dweight_t, dscale_t, dshift_t)
        dx_t, dweight_t = self._convolve_backward(dy_t, kept.x, params.weight, input_gradient=True)
        dx_more, dweight_more = self._convolve_backward(dy, tangent.x_t, params_t.weight, input_gradient=True)
        return dx_t.add_(dx_more), BlockParams(dweight_t.add_(dweight_more), dscale_t, dshift_t)

    def _pool(self, y: Tensor, scale: Tensor) -> Pooled:
        if self.first is not None:
            first, others = (self.passes.pool_statistics(part, scale) for part in self._parts(y))
            pooled, where = (torch.cat(both) for both in zip(first[:2], others[:2], strict=True))
            memory_format = self.passes.memory_format
            return first._replace(
                pooled=pooled.contiguous(memory_format=memory_format),
                where=where.contiguous(memory_format=memory_format),
            )
        found = self.passes.pool_statistics(y, scale)
        if self.statistics is None:
            return found
        mean, rstd = self.statistics
        return found._replace(mean=mean, rstd=rstd)

    def _spread(self, kept: Kept, u: Tensor, channels: Channels, *, reuse: bool) -> Tensor:
        if self.first is None:
            return self.passes.spread(kept.y, u, kept.where, channels, reuse=reuse)
        zero = torch.zeros_like(channels[0])
        parts = zip(*(self._parts(x) for x in (kept.y, u, kept.where)), strict=True)
        for (y, of_u, where), b_c in zip(parts, (channels[:2], (zero, zero)), strict=True):
            self.passes.spread(y, of_u, where, (*b_c, channels[2]), reuse=True)
        return kept.y

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first images and the others."""
        return x[: self.first], x[self.first :]

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        groups = x.shape[1] // weight.shape[1]
        y = torch.nn.functional.conv2d(self._rounded(x), self._rounded(weight), padding=1, groups=groups)
        return y.to(x.dtype).contiguous(memory_format=self.passes.memory_format)

    def _convolve_backward(
        self, dy: Tensor, x: Tensor, weight: Tensor, *, input_gradient: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of a convolution in its input (invalid without `input_gradient`) and in its weight."""
        inputs = (self._rounded(value) for value in (dy, x, weight))
        groups = x.shape[1] // weight.shape[1]
        dx, dweight, _ = torch.ops.aten.convolution_backward(
            *inputs, None, *_GEOMETRY, groups, [input_gradient, True, False]
        )
        return dx.to(x.dtype) if input_gradient else dx, dweight.to(weight.dtype)

    def _rounded(self, x: Tensor) -> Tensor:
        return x if self.precision is None else x.to(self.precision)


def _beside(x: Tensor, y: Tensor, channels: int) -> Tensor:
    """Return the channels of each episode's x and y side by side."""
    if x.shape[1] == channels:
        return torch.cat([x, y], 1)
    separate = [z.reshape(len(z), -1, channels, *z.shape[2:]) for z in (x, y)]
    return torch.cat(separate, 2).flatten(1, 2)
