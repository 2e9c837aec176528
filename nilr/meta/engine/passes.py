"""The passes over memory of a Conv4 block, as torch operations; `native_passes` has the same ones in C.

Planes are (n, C, H, W), pooled planes (n, C, H/2, W/2), channels (C,). The names are those of
`block`.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from nilr.meta.engine.block import Block

EPS = 1e-5  # of nn.BatchNorm2d


class Statistics(NamedTuple):
    """Pooled y, where it came from (in the implementation's own terms), and the channels' m and r."""

    pooled: Tensor
    where: Tensor
    mean: Tensor
    rstd: Tensor


class Passes(Protocol):
    """One implementation of the passes, for planes in one memory format."""

    @property
    def memory_format(self) -> torch.memory_format:
        """How planes lie in memory."""

    def image_block(self, x: Tensor) -> Block | None:
        """Return a first block made for these images, or None where `ConvBlock` serves them best."""

    def pool_statistics(self, y: Tensor, scale: Tensor) -> Statistics:
        """Pool sign(scale) y, and return m and r = 1/sqrt(variance + eps) over all positions."""

    def normalise(self, pooled: Tensor, mean: Tensor, rstd: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return h = (pooled - m) r and a = relu(s h + t)."""

    def masked_sums(
        self, da: Tensor, a: Tensor, h: Tensor, more: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return u = da where a > 0, sum u, and sum u h, plus the sum of the product of `more`."""

    def spread(
        self, y: Tensor, u: Tensor, where: Tensor, channels: tuple[Tensor, Tensor, Tensor], *, reuse: bool = False
    ) -> Tensor:
        """Return b + c y, plus k u at the pooled positions; channels b, c, k; with `reuse` in the place of y."""

    def tangent_statistics(self, y: Tensor, y_t: Tensor, where: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return y_t at the pooled positions, and the means of y_t and of (y - m) y_t over all positions."""

    def normalise_tangent(
        self, taken: Tensor, h: Tensor, a: Tensor, channels: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return h_t = r (taken - m_t - h q), and a_t = s_t h + s h_t + t_t where a > 0.

        The channels are r, m_t, q, s, s_t, t_t.
        """

    def spread_tangent(
        self,
        planes: tuple[Tensor, Tensor],
        pooled: tuple[Tensor, Tensor],
        where: Tensor,
        channels: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    ) -> Tensor:
        """Return b_t + c_t y + c y_t, plus k_t u + k u_t at the pooled positions; channels b_t, c_t, c, k_t, k."""


class AtenPasses:
    """The passes as operations of torch, for planes in channels-last memory: any device, any dtype."""

    memory_format = torch.channels_last

    def image_block(self, x: Tensor) -> Block | None:
        """See `Passes`."""
        return None

    def pool_statistics(self, y: Tensor, scale: Tensor) -> Statistics:
        """See `Passes`; `where` holds positions in the plane."""
        rows = _rows(y)
        mean = rows.mean(0)
        rstd = (rows - mean).square_().mean(0).add_(EPS).rsqrt_()
        if not bool((scale < 0).any()):
            pooled, where = torch.nn.functional.max_pool2d(y, 2, return_indices=True)
            return Statistics(pooled, where, mean, rstd)
        return Statistics(*_pool_by_sign(y, scale), mean, rstd)

    def normalise(self, pooled: Tensor, mean: Tensor, rstd: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """See `Passes`."""
        h = (pooled - _wide(mean)).mul_(_wide(rstd))
        return h, torch.addcmul(_wide(t), h, _wide(s)).relu_()

    def masked_sums(
        self, da: Tensor, a: Tensor, h: Tensor, more: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Passes`."""
        u = da * (a > 0)
        product = u * h if more is None else torch.addcmul(u * h, *more)
        return u, self._sum(u), self._sum(product)

    def spread(
        self, y: Tensor, u: Tensor, where: Tensor, channels: tuple[Tensor, Tensor, Tensor], *, reuse: bool = False
    ) -> Tensor:
        """See `Passes`."""
        b, c, k = (_wide(channel) for channel in channels)
        return self._scatter(y.mul_(c).add_(b) if reuse else torch.addcmul(b, y, c), where, u * k)

    def tangent_statistics(self, y: Tensor, y_t: Tensor, where: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Passes`."""
        positions = y.shape[0] * y.shape[2] * y.shape[3]
        crossed = self._sum((y - _wide(mean)) * y_t) / positions
        return self._gather(y_t, where), self._sum(y_t) / positions, crossed

    def normalise_tangent(
        self, taken: Tensor, h: Tensor, a: Tensor, channels: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """See `Passes`."""
        r, m_t, q, s, s_t, t_t = (_wide(channel) for channel in channels)
        h_t = (taken - m_t - h * q) * r
        return h_t, torch.addcmul(t_t + h * s_t, h_t, s) * (a > 0)

    def spread_tangent(
        self,
        planes: tuple[Tensor, Tensor],
        pooled: tuple[Tensor, Tensor],
        where: Tensor,
        channels: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    ) -> Tensor:
        """See `Passes`."""
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
    """The same for planes channel by channel, of many episodes side by side; nothing in them waits for a device."""

    memory_format = torch.contiguous_format

    def pool_statistics(self, y: Tensor, scale: Tensor) -> Statistics:
        """See `Passes`; `where` holds positions in the plane."""
        variance, mean = torch.var_mean(y, (0, 2, 3), correction=0)
        return Statistics(*_pool_by_sign(y, scale), mean, (variance + EPS).rsqrt_())

    def _sum(self, x: Tensor) -> Tensor:
        return x.sum((0, 2, 3))

    def _scatter(self, plane: Tensor, where: Tensor, pooled: Tensor) -> Tensor:
        plane.flatten(2).scatter_add_(2, where.flatten(2), pooled.flatten(2))
        return plane

    def _gather(self, plane: Tensor, where: Tensor) -> Tensor:
        return plane.flatten(2).gather(2, where.flatten(2)).reshape(where.shape)


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
