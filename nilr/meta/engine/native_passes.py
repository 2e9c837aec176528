"""The passes of `passes` in C (kernels.c): one pass over memory where torch makes three or four.

The kernels are built when nilr is installed, where there is a C compiler; nothing needs them. They compute on the
caller's thread, in float32 or float64.
"""

from __future__ import annotations

import ctypes
import functools
from importlib import resources

import torch
from torch import Tensor

from nilr.meta.engine.passes import EPS, Statistics

LIBRARY = "_kernels.so"
VERSION = 1  # of kernels.c; a library of another version is not used

_SUFFIX = {torch.float32: "f32", torch.float64: "f64"}
_Channels5 = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
_Channels6 = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the built kernels, or None where there are none of this version."""
    with resources.as_file(resources.files("nilr.meta.engine").joinpath(LIBRARY)) as path:
        try:
            found = ctypes.CDLL(str(path))
            version = ctypes.c_int64.in_dll(found, "nilr_kernels_version").value
        except (OSError, ValueError):
            return None
        return found if version == VERSION else None


class NativePasses:
    """The passes as C functions."""

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


def _call(kernel: str, *arguments: Tensor | int | None) -> None:
    """Call a kernel with tensors' memory, numbers, and null; the dtype of the first tensor, a plane, says the variant.

    Raises:
        ValueError: a tensor is not what a kernel reads: it would read something else, or past the end.
    """
    found = library()
    if found is None or not isinstance(first := arguments[0], Tensor):
        raise RuntimeError("the kernels were not built")
    function = getattr(found, f"{kernel}_{_SUFFIX[first.dtype]}")
    held = [_readable(x, first) if isinstance(x, Tensor) else x for x in arguments]
    function(*(ctypes.c_void_p(x.data_ptr()) if isinstance(x, Tensor) else _number(x) for x in held))


def _readable(x: Tensor, plane: Tensor) -> Tensor:
    """Return planes (n, C, H, W) and sums (1, C) as they are, and channels (C,) without gaps."""
    if x.dim() == 1:
        if x.dtype != plane.dtype or len(x) != plane.shape[1]:
            raise ValueError(f"{len(x)} channels of {x.dtype} beside {plane.shape[1]} of {plane.dtype}")
        return x.contiguous()
    if x.dim() == 4 and not (
        x.dtype in (plane.dtype, torch.uint8) and x.is_contiguous(memory_format=torch.channels_last)
    ):
        raise ValueError(f"planes of {x.dtype} in strides {x.stride()} beside channels-last {plane.dtype}")
    return x


def _number(x: int | None) -> ctypes.c_int64 | ctypes.c_void_p:
    return ctypes.c_void_p(None) if x is None else ctypes.c_int64(x)


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
