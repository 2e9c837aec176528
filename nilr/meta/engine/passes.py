"""The passes over memory of a Conv4 block: as torch operations, and in C, where one pass replaces three or four.

Planes are (n, C, H, W), pooled planes (n, C, H/2, W/2), channels (C,). The notation is that of `block`.
"""

import abc
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from nilr.meta.engine.native import call, empty_pooled, sizes
from nilr.models.conv_body import EPS

Channels = tuple[Tensor, ...]
Pair = tuple[Tensor, Tensor]


class Pooled(NamedTuple):
    """Pooled y, the positions it came from (in the implementation's own encoding), and the channels' m and r."""

    pooled: Tensor
    where: Tensor
    mean: Tensor
    rstd: Tensor


class Passes(abc.ABC):
    """One implementation of the passes, for planes in one memory format."""

    memory_format: ClassVar[torch.memory_format]

    @abc.abstractmethod
    def pool_statistics(self, y: Tensor, scale: Tensor) -> Pooled:
        """Pool sign(scale) y, and return m and r = 1/sqrt(variance + eps) over all positions."""

    @abc.abstractmethod
    def normalise(self, pooled: Tensor, mean: Tensor, rstd: Tensor, s: Tensor, t: Tensor) -> Pair:
        """Return h = (pooled - m) r and a = relu(s h + t). h may overwrite `pooled`."""

    @abc.abstractmethod
    def masked_sums(self, da: Tensor, a: Tensor, h: Tensor, more: Pair | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return u = da where a > 0, sum u, and sum u h, plus the sum of the product of `more`."""

    @abc.abstractmethod
    def spread(self, y: Tensor, u: Tensor, where: Tensor, channels: Channels, *, reuse: bool = False) -> Tensor:
        """Return b + c y, plus k u at the pooled positions; channels b, c, k. `reuse` overwrites y."""

    @abc.abstractmethod
    def tangent_statistics(self, y: Tensor, y_t: Tensor, where: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return y_t at the pooled positions, and the means of y_t and of (y - m) y_t over all positions."""

    @abc.abstractmethod
    def normalise_tangent(self, taken: Tensor, h: Tensor, a: Tensor, channels: Channels) -> Pair:
        """Return h_t = r (taken - m_t - h q), and a_t = s_t h + s h_t + t_t where a > 0.

        The channels are r, m_t, q, s, s_t, t_t. h_t may overwrite `taken`.
        """

    @abc.abstractmethod
    def spread_tangent(self, planes: Pair, pooled: Pair, where: Tensor, channels: Channels) -> Tensor:
        """Return b_t + c_t y + c y_t, plus k_t u + k u_t at the pooled positions.

        The planes are y, y_t; the pooled planes u, u_t; the channels b_t, c_t, c, k_t, k.
        """


class AtenPasses(Passes):
    """The passes as operations of torch, for planes in channels-last memory: any device, any dtype."""

    memory_format = torch.channels_last

    @override
    def pool_statistics(self, y: Tensor, scale: Tensor) -> Pooled:
        # `where` holds positions in the plane
        rows = _rows(y)
        mean = rows.mean(0)
        rstd = (rows - mean).square_().mean(0).add_(EPS).rsqrt_()
        if not bool((scale < 0).any()):
            pooled, where = torch.nn.functional.max_pool2d(y, 2, return_indices=True)
            return Pooled(pooled, where, mean, rstd)
        return Pooled(*_pool_by_sign(y, scale), mean, rstd)

    @override
    def normalise(self, pooled: Tensor, mean: Tensor, rstd: Tensor, s: Tensor, t: Tensor) -> Pair:
        h = (pooled - _wide(mean)).mul_(_wide(rstd))
        return h, torch.addcmul(_wide(t), h, _wide(s)).relu_()

    @override
    def masked_sums(self, da: Tensor, a: Tensor, h: Tensor, more: Pair | None = None) -> tuple[Tensor, Tensor, Tensor]:
        u = da * (a > 0)
        product = u * h if more is None else torch.addcmul(u * h, *more)
        return u, self._sum(u), self._sum(product)

    @override
    def spread(self, y: Tensor, u: Tensor, where: Tensor, channels: Channels, *, reuse: bool = False) -> Tensor:
        b, c, k = (_wide(channel) for channel in channels)
        return self._scatter(y.mul_(c).add_(b) if reuse else torch.addcmul(b, y, c), where, u * k)

    @override
    def tangent_statistics(self, y: Tensor, y_t: Tensor, where: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        crossed = self._sum((y - _wide(mean)) * y_t) / positions(y)
        return self._gather(y_t, where), self._sum(y_t) / positions(y), crossed

    @override
    def normalise_tangent(self, taken: Tensor, h: Tensor, a: Tensor, channels: Channels) -> Pair:
        r, m_t, q, s, s_t, t_t = (_wide(channel) for channel in channels)
        h_t = (taken - m_t - h * q) * r
        return h_t, torch.addcmul(t_t + h * s_t, h_t, s) * (a > 0)

    @override
    def spread_tangent(self, planes: Pair, pooled: Pair, where: Tensor, channels: Channels) -> Tensor:
        (y, y_t), (u, u_t) = planes, pooled
        b_t, c_t, c, k_t, k = (_wide(channel) for channel in channels)
        dy_t = torch.addcmul(b_t, y, c_t).addcmul_(y_t, c)
        return self._scatter(dy_t, where, torch.addcmul(u * k_t, u_t, k))

    def _sum(self, x: Tensor) -> Tensor:
        return _rows(x).sum(0)

    def _scatter(self, plane: Tensor, where: Tensor, pooled: Tensor) -> Tensor:
        _pixels(plane).scatter_add_(1, _pixels(where), _pixels(pooled))
        return plane

    def _gather(self, plane: Tensor, where: Tensor) -> Tensor:
        taken = _pixels(plane).gather(1, _pixels(where)).reshape(where.permute(0, 2, 3, 1).shape)
        return taken.permute(0, 3, 1, 2)


class PlanePasses(AtenPasses):
    """The same for contiguous planes of many episodes side by side; no operation waits for the device."""

    memory_format = torch.contiguous_format

    @override
    def pool_statistics(self, y: Tensor, scale: Tensor) -> Pooled:
        # `where` holds positions in the plane
        variance, mean = torch.var_mean(y, (0, 2, 3), correction=0)
        return Pooled(*_pool_by_sign(y, scale), mean, (variance + EPS).rsqrt_())

    def _sum(self, x: Tensor) -> Tensor:
        return x.sum((0, 2, 3))

    def _scatter(self, plane: Tensor, where: Tensor, pooled: Tensor) -> Tensor:
        plane.flatten(2).scatter_add_(2, where.flatten(2), pooled.flatten(2))
        return plane

    def _gather(self, plane: Tensor, where: Tensor) -> Tensor:
        return plane.flatten(2).gather(2, where.flatten(2)).reshape(where.shape)


class NativePasses(Passes):
    """The passes as C functions."""

    memory_format = torch.channels_last

    @override
    def pool_statistics(self, y: Tensor, scale: Tensor) -> Pooled:
        # `where` holds positions in the window
        pooled, where = (empty_pooled(y, y.shape[1], dtype) for dtype in (y.dtype, torch.uint8))
        sums = y.new_empty(2, y.shape[1], dtype=torch.float64)
        _call("pool_statistics", y, scale, *sizes(y), y.shape[1], pooled, where, sums[:1], sums[1:])
        rstd = (sums[1] / positions(y) + EPS).rsqrt()
        return Pooled(pooled, where, sums[0].to(y.dtype), rstd.to(y.dtype))

    @override
    def normalise(self, pooled: Tensor, mean: Tensor, rstd: Tensor, s: Tensor, t: Tensor) -> Pair:
        a = torch.empty_like(pooled)
        _call("normalise", pooled, mean, rstd, s, t, positions(a), a.shape[1], a)
        return pooled, a

    @override
    def masked_sums(self, da: Tensor, a: Tensor, h: Tensor, more: Pair | None = None) -> tuple[Tensor, Tensor, Tensor]:
        u = torch.empty_like(a)
        sums = a.new_empty(2, a.shape[1], dtype=torch.float64)
        _call(
            "masked_sums",
            da.contiguous(memory_format=self.memory_format),
            a,
            h,
            *(more or (None, None)),
            positions(a),
            a.shape[1],
            u,
            sums[:1],
            sums[1:],
        )
        dshift, dscale = sums.to(a.dtype)
        return u, dshift, dscale

    @override
    def spread(self, y: Tensor, u: Tensor, where: Tensor, channels: Channels, *, reuse: bool = False) -> Tensor:
        dy = y if reuse else torch.empty_like(y)
        _call("spread", y, u, where, *channels, *sizes(y), y.shape[1], dy)
        return dy

    @override
    def tangent_statistics(self, y: Tensor, y_t: Tensor, where: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        taken = empty_pooled(y, y.shape[1], y.dtype)
        sums = y.new_empty(2, y.shape[1], dtype=torch.float64)
        _call("tangent_statistics", y, y_t, where, mean, *sizes(y), y.shape[1], taken, sums[:1], sums[1:])
        total, crossed = (sums / positions(y)).to(y.dtype)
        return taken, total, crossed

    @override
    def normalise_tangent(self, taken: Tensor, h: Tensor, a: Tensor, channels: Channels) -> Pair:
        a_t = torch.empty_like(a)
        _call("normalise_tangent", taken, h, a, *channels, positions(a), a.shape[1], a_t)
        return taken, a_t

    @override
    def spread_tangent(self, planes: Pair, pooled: Pair, where: Tensor, channels: Channels) -> Tensor:
        dy_t = torch.empty_like(planes[0])
        _call("spread_tangent", *planes, *pooled, where, *channels, *sizes(dy_t), dy_t.shape[1], dy_t)
        return dy_t


def _pool_by_sign(y: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    sign = _wide(1 - 2 * (scale < 0).to(y.dtype))
    pooled, where = torch.nn.functional.max_pool2d(y * sign, 2, return_indices=True)
    return pooled * sign, where


def _pixels(x: Tensor) -> Tensor:
    """View (n, C, H, W) in channels-last memory as (n, H*W, C)."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _rows(x: Tensor) -> Tensor:
    """View (n, C, H, W) in channels-last memory as (n*H*W, C)."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def _wide(channels: Tensor) -> Tensor:
    return channels[:, None, None]


def _call(kernel: str, plane: Tensor, *arguments: Tensor | int | None) -> None:
    """Call a kernel on a plane and on tensors with the same number of channels.

    Raises:
        ValueError: a tensor has another number of channels, or a layout that the kernels do not read.
    """
    for x in arguments:
        if isinstance(x, Tensor) and x.dim() == 1 and len(x) != plane.shape[1]:
            raise ValueError(f"{len(x)} channels of {x.dtype}, expected {plane.shape[1]}")
    call(kernel, plane, *arguments, dtype=plane.dtype)


def positions(y: Tensor) -> int:
    """Return M, the number of positions of a plane."""
    return y.shape[0] * y.shape[2] * y.shape[3]
