"""The passes of `passes` in C (kernels.c): one pass over memory where torch makes three or four."""

from __future__ import annotations

from collections.abc import MutableMapping

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from nilr.meta.engine.image_block import ImageBlock, Moments, moments_of
from nilr.meta.engine.native import call
from nilr.meta.engine.passes import EPS, Statistics

_Channels5 = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
_Channels6 = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class NativePasses:
    """The passes as C functions."""

    memory_format = torch.channels_last

    def __init__(self) -> None:
        self._seen: MutableMapping[Tensor, tuple[int, Moments | None]] = WeakIdKeyDictionary()

    def image_block(self, x: Tensor) -> ImageBlock | None:
        """See `Passes`; the images' moments are remembered for as long as the images are there, unchanged."""
        version, moments = self._seen.get(x, (-1, None))
        if version != x._version:
            moments = moments_of(x)
            self._seen[x] = x._version, moments  # nothing here may hold the images: they would never go
        return None if moments is None else ImageBlock(x, moments)

    def pool_statistics(self, y: Tensor, scale: Tensor) -> Statistics:
        """See `Passes`; `where` holds positions in the window."""
        pooled, where = _pooled(y, y.dtype), _pooled(y, torch.uint8)
        sums = y.new_empty(2, y.shape[1], dtype=torch.float64)
        _call("pool_statistics", y, scale, *_sizes(y), pooled, where, sums[:1], sums[1:])
        rstd = (sums[1] / _positions(y) + EPS).rsqrt()
        return Statistics(pooled, where, sums[0].to(y.dtype), rstd.to(y.dtype))

    def normalise(self, pooled: Tensor, mean: Tensor, rstd: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """See `Passes`; h takes the place of `pooled`."""
        a = torch.empty_like(pooled)
        _call("normalise", pooled, mean, rstd, s, t, *_rows(pooled), a)
        return pooled, a

    def masked_sums(
        self, da: Tensor, a: Tensor, h: Tensor, more: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Passes`."""
        u = torch.empty_like(a)
        sums = a.new_empty(2, a.shape[1], dtype=torch.float64)
        _call("masked_sums", _planes(da), a, h, *(more or (None, None)), *_rows(a), u, sums[:1], sums[1:])
        dshift, dscale = sums.to(a.dtype)
        return u, dshift, dscale

    def spread(
        self, y: Tensor, u: Tensor, where: Tensor, channels: tuple[Tensor, Tensor, Tensor], *, reuse: bool = False
    ) -> Tensor:
        """See `Passes`."""
        dy = y if reuse else torch.empty_like(y)
        _call("spread", y, u, where, *channels, *_sizes(y), dy)
        return dy

    def tangent_statistics(self, y: Tensor, y_t: Tensor, where: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Passes`."""
        taken = _pooled(y, y.dtype)
        sums = y.new_empty(2, y.shape[1], dtype=torch.float64)
        _call("tangent_statistics", y, y_t, where, mean, *_sizes(y), taken, sums[:1], sums[1:])
        total, crossed = (sums / _positions(y)).to(y.dtype)
        return taken, total, crossed

    def normalise_tangent(self, taken: Tensor, h: Tensor, a: Tensor, channels: _Channels6) -> tuple[Tensor, Tensor]:
        """See `Passes`; h_t takes the place of `taken`."""
        a_t = torch.empty_like(a)
        _call("normalise_tangent", taken, h, a, *channels, *_rows(a), a_t)
        return taken, a_t

    def spread_tangent(
        self,
        planes: tuple[Tensor, Tensor],
        pooled: tuple[Tensor, Tensor],
        where: Tensor,
        channels: _Channels5,
    ) -> Tensor:
        """See `Passes`."""
        dy_t = torch.empty_like(planes[0])
        _call("spread_tangent", *planes, *pooled, where, *channels, *_sizes(planes[0]), dy_t)
        return dy_t


def _call(kernel: str, plane: Tensor, *arguments: Tensor | int | None) -> None:
    """Call a kernel on a plane and tensors of as many channels.

    Raises:
        ValueError: a tensor has another number of channels, or is not what a kernel reads.
    """
    for x in arguments:
        if isinstance(x, Tensor) and x.dim() == 1 and len(x) != plane.shape[1]:
            raise ValueError(f"{len(x)} channels of {x.dtype} beside {plane.shape[1]} of {plane.dtype}")
    call(kernel, plane, *arguments, dtype=plane.dtype)


def _planes(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _pooled(y: Tensor, dtype: torch.dtype) -> Tensor:
    n, c, h, w = y.shape
    return torch.empty(n, c, h // 2, w // 2, dtype=dtype, memory_format=torch.channels_last)


def _sizes(y: Tensor) -> tuple[int, int, int, int]:
    n, c, h, w = y.shape
    return n, h, w, c


def _rows(x: Tensor) -> tuple[int, int]:
    n, c, h, w = x.shape
    return n * h * w, c


def _positions(y: Tensor) -> int:
    return y.shape[0] * y.shape[2] * y.shape[3]
