"""The C kernels, built when nilr is installed where there is a C compiler; nothing needs them.

They compute on the caller's thread, in float32 or float64.
"""

from __future__ import annotations

import ctypes
import functools
from importlib import resources

import torch
from torch import Tensor

LIBRARY = "_kernels.so"
VERSION = 3  # of the kernels; a library of another version is not used

_SUFFIX = {torch.float32: "f32", torch.float64: "f64"}


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


@functools.cache
def fast_images() -> bool:
    """Tell whether the image kernels have their fast form on this processor."""
    found = library()
    return found is not None and bool(found.nilr_fast_images())


def call(kernel: str, *arguments: Tensor | float | None, dtype: torch.dtype, form: str | None = None) -> None:
    """Call a kernel with tensors' memory, numbers (int as int64, float as double), and null.

    Args:
        kernel: its name.
        arguments: what it takes. Planes (n, C, H, W) are in channels-last memory, all others without gaps.
        dtype: of its planes and channels; whole planes of uint8 and matrices of float64 may stand beside them.
        form: its form, where it has several; by default that of the dtype.

    Raises:
        ValueError: a tensor is not what a kernel reads: it would read something else, or past the end.
    """
    found = library()
    if found is None:
        raise RuntimeError("the kernels were not built")
    held = [_readable(x, dtype) if isinstance(x, Tensor) else x for x in arguments]
    getattr(found, f"{kernel}_{form or _SUFFIX[dtype]}")(*map(_argument, held))


def _readable(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return channels (C,) without gaps, and all else as it is."""
    if x.dim() == 1:
        if x.dtype != dtype:
            raise ValueError(f"channels of {x.dtype} beside {dtype}")
        return x.contiguous()
    if x.dim() == 4 and x.dtype in (dtype, torch.uint8) and x.is_contiguous(memory_format=torch.channels_last):
        return x
    if x.dim() == 2 and x.dtype in (dtype, torch.float64) and x.is_contiguous():
        return x
    raise ValueError(f"a tensor {tuple(x.shape)} of {x.dtype} in strides {x.stride()} beside channels-last {dtype}")


def _argument(x: Tensor | float | None) -> ctypes.c_void_p | ctypes.c_int64 | ctypes.c_double:
    if isinstance(x, Tensor):
        return ctypes.c_void_p(x.data_ptr())
    if x is None:
        return ctypes.c_void_p(None)
    return ctypes.c_int64(x) if isinstance(x, int) else ctypes.c_double(x)
