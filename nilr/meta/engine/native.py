"""The C kernels. They are built at installation if there is a C compiler; nothing requires them.

They compute in float32 or float64, on one core, or on several (`use_cores`) if the compiler had OpenMP; the numbers are
the same. The library has them for several instruction sets; the best that the processor supports is used.
"""

import ctypes
import functools
import threading
from importlib import resources
from typing import Any

import torch
from torch import Tensor

LIBRARY = "_kernels.so"
VERSION = 8  # of the kernels; libraries of other versions are ignored

CHANNELS = 16  # the kernels of convolutions need a multiple of it

PARTS = 16  # the number of parts in which the kernels sum a plane; vectors.h has the same

_DTYPES = {torch.float32: "f32", torch.float64: "f64"}

_ALLOCATE = ("convolve", "convolve_weight")  # kernels that return 1 if their working memory is missing

_ARGUMENTS = {int: ctypes.c_int64, float: ctypes.c_double}  # all others are addresses

# Instruction sets by torch's name for what the processor supports, best first.
_SUPPORTED = {"AVX512": ("avx512", "avx2", "base"), "AVX2": ("avx2", "base")}


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the built kernels, or None if there are none of this version."""
    with resources.as_file(resources.files("nilr.meta.engine").joinpath(LIBRARY)) as path:
        try:
            found = ctypes.CDLL(str(path))
            version = ctypes.c_int64.in_dll(found, "nilr_kernels_version_f32_base").value
        except (OSError, ValueError):
            return None
        return found if version == VERSION else None


@functools.cache
def instruction_sets() -> tuple[str, ...]:
    """Return the instruction sets of the built kernels that this processor supports, best first."""
    supported = _SUPPORTED.get(torch.backends.cpu.get_cpu_capability(), ("base",))
    return tuple(name for name in supported if hasattr(library(), f"nilr_kernels_version_f32_{name}"))


class _ThreadSettings(threading.local):
    cores = 1


_settings = _ThreadSettings()


def cores() -> int:
    """Return the number of cores that the kernels use if this thread calls them."""
    return _settings.cores


def use_cores(n: int) -> None:
    """Let the kernels that this thread calls use n cores; a new thread uses 1."""
    if library() is not None:
        _settings.cores = n
        for instructions in instruction_sets():
            for dtype in _DTYPES:
                _kernel("use_cores", dtype, instructions)(ctypes.c_int64(n))


def call(kernel: str, *arguments: Tensor | float | None, dtype: torch.dtype, instructions: str | None = None) -> None:
    """Call a kernel with the memory of tensors, with numbers (int as int64, float as double), and with null for None.

    Planes (n, C, H, W) are in channels-last memory, of `dtype` or uint8; matrices are of `dtype` or float64. By
    default the kernel is that of the best instruction set.

    Raises:
        ValueError: the kernel cannot read a tensor's dtype or layout.
        MemoryError: the kernel cannot allocate its working memory.
    """
    function = _kernel(kernel, dtype, instructions or instruction_sets()[0])
    readable = [_readable(x, dtype) if isinstance(x, Tensor) else x for x in arguments]
    if function.argtypes is None:
        function.argtypes = [_ARGUMENTS.get(type(x), ctypes.c_void_p) for x in readable]
    if function(*[x.data_ptr() if isinstance(x, Tensor) else x for x in readable]):
        raise MemoryError(f"no memory for the kernel `{kernel}`")


@functools.cache
def _kernel(name: str, dtype: torch.dtype, instructions: str) -> Any:  # noqa: ANN401 - ctypes is untyped
    found = library()
    if found is None:
        raise RuntimeError("the kernels were not built")
    function = getattr(found, f"{name}_{_DTYPES[dtype]}_{instructions}")
    function.restype = ctypes.c_int64 if name in _ALLOCATE else None
    return function


def sizes(x: Tensor) -> tuple[int, int, int]:
    """Return n, H and W of planes (n, C, H, W), as the kernels take them before the number of channels."""
    n, _, h, w = x.shape
    return n, h, w


def empty_pooled(x: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """Allocate the pooled planes of planes (n, C, H, W)."""
    n, h, w = sizes(x)
    return torch.empty(n, channels, h // 2, w // 2, dtype=dtype, memory_format=torch.channels_last)


def _readable(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return channels (C,) in contiguous memory, and other tensors unchanged."""
    dims, own = x.dim(), x.dtype
    if dims == 1 and own == dtype:
        return x.contiguous()
    if dims == 4 and own in (dtype, torch.uint8) and x.is_contiguous(memory_format=torch.channels_last):
        return x
    if dims == 2 and own in (dtype, torch.float64) and x.is_contiguous():
        return x
    expected = f"expected channels of {dtype} or channels-last planes"
    raise ValueError(f"a tensor {tuple(x.shape)} of {own} with strides {x.stride()}, {expected}")
