"""What a run happens on: device, threads, versions."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch
from pydantic import JsonValue

from nilr import __version__
from nilr.errors import DeviceError, UsageError

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def utc_now() -> str:
    """Return the time as ISO 8601 in UTC, to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def prepare(device: str, threads: int | None, precision: str = "float32") -> torch.device:
    """Set the number of CPU threads and a GPU's precision, and return the device to compute on.

    Args:
        device: "auto" (the first CUDA device, else the CPU), "cpu", "cuda" or "cuda:N".
        threads: CPU threads, or None to leave torch's choice.
        precision: "tf32" lets a GPU round the inputs of float32 products and convolutions to 10 bits; all others keep
            it from doing so, which it would do with convolutions unasked.

    Raises:
        UsageError: no such kind of device, or it has no such precision.
        DeviceError: the device is not there.
    """
    keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)
    chosen = find_device(device)
    if precision == "tf32" and chosen.type != "cuda":
        raise UsageError(f"--precision tf32 is a GPU's, and this runs on `{chosen}`", hint="use float32 or bf16")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    return chosen


def find_device(device: str) -> torch.device:
    """Return the device of that name; see `prepare`."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()) or (kind == "cpu" and number):
        raise UsageError(f"`{device}` is no device", hint="known: auto, cpu, cuda, cuda:N")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"the device `{device}` is not there: torch {torch.__version__} sees {torch.cuda.device_count()}",
            hint="use --device cpu, or install a torch build for this GPU and its driver",
        )
    return torch.device(device)


def keep_freed_memory() -> None:
    """Tell glibc to reuse freed memory instead of giving it back to the system; elsewhere do nothing.

    Activations of tens of megabytes are freed and allocated many times per update; as fresh memory maps, their page
    faults take up to half the time of an update on a CPU.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_ARENA_MAX, 1)


def peak_memory(device: torch.device) -> int:
    """Return the most memory, in bytes, that this process has held so far.

    On a CUDA device that is what its tensors took there; else what was resident, Python and torch with it.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError), Path("/proc/self/status").open() as status:
        # Not getrusage's figure: on Linux that one is inherited from the process that started this one.
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def total_memory(device: torch.device) -> int:
    """Return the memory of a device, or of the machine for a CPU, in bytes."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def environment(
    device: torch.device | None = None, engine: str | None = None, *, captured: bool | None = None
) -> dict[str, JsonValue]:
    """Return what a result records about the machine: versions, device, threads, engine; no names of hosts or users.

    Where updates may be captured in a CUDA graph, also whether they were.
    """
    record: dict[str, JsonValue] = {
        "nilr": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if device is not None:
        record["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    if engine is not None:
        record["engine"] = engine
    if captured is not None:
        record["captured"] = captured
    return record
