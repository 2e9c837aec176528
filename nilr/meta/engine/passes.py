"""The passes over memory of a layer: as torch operations, and in C, where one pass replaces three or four.

Planes are (n, C, H, W), pooled planes (n, C, H/2, W/2), channels (C,). The notation is that of `layer`. `where` holds
the positions of pooled values in the implementation's own encoding; without pooling it is None.
"""

import abc
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from nilr.meta.engine.native import call, empty_pooled, sizes
from nilr.models.conv_body import EPS

Channels = tuple[Tensor, ...]
Pair = tuple[Tensor, Tensor]
Centred = Sequence[Pair]  # planes p with their channels' m, one pair per branch


class Term(NamedTuple):
    """k (p - m), of a plane p and channels m and k."""

    p: Tensor
    m: Tensor
    k: Tensor


class Pooled(NamedTuple):
    """Pooled y, the positions it came from, and the channels' m and r."""

    pooled: Tensor
    where: Tensor
    mean: Tensor
    rstd: Tensor


class Passes(abc.ABC):
    """One implementation of the passes, for planes in one memory format."""

    memory_format: ClassVar[torch.memory_format]

    @abc.abstractmethod
    def statistics(self, y: Tensor) -> Pair:
        """Return m and r = 1/sqrt(variance + eps) over all positions."""

    @abc.abstractmethod
    def pool_statistics(self, y: Tensor, scale: Tensor, *, first: int | None = None) -> Pooled:
        """Pool sign(scale) y, and return m and r over all positions of the first images, by default of all."""

    @abc.abstractmethod
    def normalise(self, terms: Sequence[Term], t: Tensor, slope: float) -> Tensor:
        """Return a = act(t + the sum of one or two terms)."""

    @abc.abstractmethod
    def pool_sum(self, terms: Sequence[Term], t: Tensor, slope: float) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return pooled a = act(t + the sum of two terms), where it came from, and the terms' planes there."""

    @abc.abstractmethod
    def masked_sums(
        self, da: Tensor, a: Tensor, slope: float, ps: Centred, more: tuple[Tensor, Centred] | None = None
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return u = da act', sum u, and for each branch sum u (p - m), plus sum u (p_t - m_t) of `more`.

        act' is 1 where a > 0, else the slope. u overwrites da.
        """

    @abc.abstractmethod
    def spread(self, y: Tensor, u: Tensor, where: Tensor | None, channels: Channels, *, reuse: bool = False) -> Tensor:
        """Return b + c y, plus k u at the pooled positions; channels b, c, k. `reuse` overwrites y."""

    @abc.abstractmethod
    def tangent_statistics(
        self, y: Tensor, y_t: Tensor, where: Tensor | None, mean: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return p_t, y_t at the pooled positions, and the means of y_t and of (y - m) y_t over all positions."""

    @abc.abstractmethod
    def normalise_tangent(self, terms: Sequence[Term], t_t: Tensor, a: Tensor, slope: float) -> Tensor:
        """Return a_t = act' (t_t + the sum of two or four terms)."""

    @abc.abstractmethod
    def spread_tangent(self, planes: Pair, us: Pair, where: Tensor | None, channels: Channels) -> Tensor:
        """Return b_t + c_t y + c y_t, plus k_t u + k u_t at the pooled positions.

        The planes are y, y_t; the us are u, u_t; the channels b_t, c_t, c, k_t, k.
        """


class AtenPasses(Passes):
    """The passes as operations of torch, for planes in channels-last memory: any device, any dtype."""

    memory_format = torch.channels_last

    @override
    def statistics(self, y: Tensor) -> Pair:
        rows = _rows(y)
        mean = rows.mean(0)
        return mean, (rows - mean).square_().mean(0).add_(EPS).rsqrt_()

    @override
    def pool_statistics(self, y: Tensor, scale: Tensor, *, first: int | None = None) -> Pooled:
        # `where` holds positions in the plane
        moments = self.statistics(y[:first])
        if not bool((scale < 0).any()):
            return Pooled(*_pool(y), *moments)
        return Pooled(*_pool_by_sign(y, scale), *moments)

    @override
    def normalise(self, terms: Sequence[Term], t: Tensor, slope: float) -> Tensor:
        return _activate(_total(terms, t), slope)

    @override
    def pool_sum(self, terms: Sequence[Term], t: Tensor, slope: float) -> tuple[Tensor, Tensor, list[Tensor]]:
        pooled, where = _pool(_total(terms, t))
        return _activate(pooled, slope), where, [self._gather(term.p, where) for term in terms]

    @override
    def masked_sums(
        self, da: Tensor, a: Tensor, slope: float, ps: Centred, more: tuple[Tensor, Centred] | None = None
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        u = _times_slope(da, a, slope)
        sums = [self._sum(u * (p - _wide(m))) for p, m in ps]
        if more is not None:
            v, ps_t = more
            sums = [total + self._sum(v * (p_t - _wide(m_t))) for total, (p_t, m_t) in zip(sums, ps_t, strict=True)]
        return u, self._sum(u), sums

    @override
    def spread(self, y: Tensor, u: Tensor, where: Tensor | None, channels: Channels, *, reuse: bool = False) -> Tensor:
        b, c, k = (_wide(channel) for channel in channels)
        dy = torch.addcmul(b, y, c, out=y if reuse else torch.empty_like(y))
        return dy.addcmul_(u, k) if where is None else self._scatter(dy, where, u * k)

    @override
    def tangent_statistics(
        self, y: Tensor, y_t: Tensor, where: Tensor | None, mean: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        crossed = self._sum((y - _wide(mean)).mul_(y_t)) / positions(y)
        return y_t if where is None else self._gather(y_t, where), self._sum(y_t) / positions(y), crossed

    @override
    def normalise_tangent(self, terms: Sequence[Term], t_t: Tensor, a: Tensor, slope: float) -> Tensor:
        return _times_slope(_total(terms, t_t), a, slope)

    @override
    def spread_tangent(self, planes: Pair, us: Pair, where: Tensor | None, channels: Channels) -> Tensor:
        (y, y_t), (u, u_t) = planes, us
        b_t, c_t, c, k_t, k = (_wide(channel) for channel in channels)
        dy_t = torch.addcmul(b_t, y, c_t).addcmul_(y_t, c)
        if where is None:
            return dy_t.addcmul_(u, k_t).addcmul_(u_t, k)
        return self._scatter(dy_t, where, (u * k_t).addcmul_(u_t, k))

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
    def statistics(self, y: Tensor) -> Pair:
        variance, mean = torch.var_mean(y, (0, 2, 3), correction=0)
        return mean, (variance + EPS).rsqrt_()

    @override
    def pool_statistics(self, y: Tensor, scale: Tensor, *, first: int | None = None) -> Pooled:
        return Pooled(*_pool_by_sign(y, scale), *self.statistics(y[:first]))

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
    def statistics(self, y: Tensor) -> Pair:
        return self._statistics(y, len(y), None, None, None)

    @override
    def pool_statistics(self, y: Tensor, scale: Tensor, *, first: int | None = None) -> Pooled:
        # `where` holds positions in the window
        pooled, where = (empty_pooled(y, y.shape[1], dtype) for dtype in (y.dtype, torch.uint8))
        moments = self._statistics(y, len(y) if first is None else first, scale, pooled, where)
        return Pooled(pooled, where, *moments)

    @override
    def normalise(self, terms: Sequence[Term], t: Tensor, slope: float) -> Tensor:
        a = torch.empty_like(terms[0].p)
        _call("normalise", a, *_padded(terms, 2), t, slope, positions(a), a.shape[1], a)
        return a

    @override
    def pool_sum(self, terms: Sequence[Term], t: Tensor, slope: float) -> tuple[Tensor, Tensor, list[Tensor]]:
        y, c = terms[0].p, terms[0].p.shape[1]
        a, where, *ps = (empty_pooled(y, c, dtype) for dtype in (y.dtype, torch.uint8, y.dtype, y.dtype))
        _call("pool_sum", y, *_padded(terms, 2), t, slope, *sizes(y), c, a, where, *ps)
        return a, where, ps

    @override
    def masked_sums(
        self, da: Tensor, a: Tensor, slope: float, ps: Centred, more: tuple[Tensor, Centred] | None = None
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        u = da.contiguous(memory_format=self.memory_format)
        sums = a.new_empty(1 + len(ps), a.shape[1], dtype=torch.float64)
        for i, (p, m) in enumerate(ps):
            mask = a if i == 0 else None  # u is made with the first branch
            tangent = (None, None, None) if more is None else (more[0], *more[1][i])
            totals = sums[:1], sums[i + 1 : i + 2]
            _call("masked_sums", u, u, mask, slope, p, m, *tangent, positions(a), a.shape[1], *totals)
        dshift, *of_branches = sums.to(a.dtype)
        return u, dshift, of_branches

    @override
    def spread(self, y: Tensor, u: Tensor, where: Tensor | None, channels: Channels, *, reuse: bool = False) -> Tensor:
        dy = y if reuse else torch.empty_like(y)
        _call("spread", y, y, u, where, *channels, *sizes(y), y.shape[1], dy)
        return dy

    @override
    def tangent_statistics(
        self, y: Tensor, y_t: Tensor, where: Tensor | None, mean: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        taken = None if where is None else empty_pooled(y, y.shape[1], y.dtype)
        sums = y.new_empty(2, y.shape[1], dtype=torch.float64)
        _call("tangent_statistics", y, y, y_t, where, mean, *sizes(y), y.shape[1], taken, sums[:1], sums[1:])
        total, crossed = (sums / positions(y)).to(y.dtype)
        return y_t if taken is None else taken, total, crossed

    @override
    def normalise_tangent(self, terms: Sequence[Term], t_t: Tensor, a: Tensor, slope: float) -> Tensor:
        a_t = torch.empty_like(a)
        _call("normalise_tangent", a, *_padded(terms, 4), t_t, a, slope, positions(a), a.shape[1], a_t)
        return a_t

    @override
    def spread_tangent(self, planes: Pair, us: Pair, where: Tensor | None, channels: Channels) -> Tensor:
        dy_t = torch.empty_like(planes[0])
        _call("spread_tangent", dy_t, *planes, *us, where, *channels, *sizes(dy_t), dy_t.shape[1], dy_t)
        return dy_t

    def _statistics(
        self, y: Tensor, first: int, scale: Tensor | None, pooled: Tensor | None, where: Tensor | None
    ) -> Pair:
        sums = y.new_empty(2, y.shape[1], dtype=torch.float64)
        _call("pool_statistics", y, y, scale, first, *sizes(y), y.shape[1], pooled, where, sums[:1], sums[1:])
        rstd = (sums[1] / positions(y[:first]) + EPS).rsqrt()
        return sums[0].to(y.dtype), rstd.to(y.dtype)


def _total(terms: Sequence[Term], t: Tensor) -> Tensor:
    total = torch.addcmul(_wide(t), terms[0].p - _wide(terms[0].m), _wide(terms[0].k))
    for p, m, k in terms[1:]:
        total.addcmul_(p - _wide(m), _wide(k))
    return total


def _activate(z: Tensor, slope: float) -> Tensor:
    return z.relu_() if slope == 0 else torch.nn.functional.leaky_relu_(z, slope)


def _times_slope(x: Tensor, a: Tensor, slope: float) -> Tensor:
    """Multiply x by the slope, in place, except where a > 0."""
    return x.mul_(a > 0) if slope == 0 else torch.where(a > 0, x, x * slope, out=x)


def _pool(y: Tensor) -> Pair:
    pooled, where = torch.nn.functional.max_pool2d(y, 2, return_indices=True)
    return pooled, where


def _pool_by_sign(y: Tensor, scale: Tensor) -> Pair:
    sign = _wide(1 - 2 * (scale < 0).to(y.dtype))
    pooled, where = _pool(y * sign)
    return pooled * sign, where


def _pixels(x: Tensor) -> Tensor:
    """View (n, C, H, W) in channels-last memory as (n, H*W, C)."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _rows(x: Tensor) -> Tensor:
    """View (n, C, H, W) in channels-last memory as (n*H*W, C)."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def _wide(channels: Tensor) -> Tensor:
    return channels[:, None, None]


def _padded(terms: Sequence[Term], n: int) -> list[Tensor | None]:
    """Return the planes and channels of n terms in a row; those that are missing are null."""
    return [*(value for term in terms for value in term), *[None] * (3 * (n - len(terms)))]


def _call(kernel: str, plane: Tensor, *arguments: Tensor | float | None) -> None:
    """Call a kernel for tensors with the dtype and the number of channels of a plane.

    Raises:
        ValueError: a tensor has another number of channels, or a layout that the kernels do not read.
    """
    channels = plane.shape[1]
    for x in arguments:
        if isinstance(x, Tensor) and x.dim() == 1 and x.shape[0] != channels:
            raise ValueError(f"{x.shape[0]} channels of {x.dtype}, expected {channels}")
    call(kernel, *arguments, dtype=plane.dtype)


def positions(y: Tensor) -> int:
    """Return M, the number of positions of a plane."""
    return y.shape[0] * y.shape[2] * y.shape[3]
