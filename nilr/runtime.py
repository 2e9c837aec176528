"""The device, the threads and the versions of a run."""

import contextlib
import ctypes
import os
import platform
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from pydantic import JsonValue

from nilr import __version__, distributed
from nilr.errors import DeviceError, UsageError
from nilr.limits import available_cores, control_groups
from nilr.words import counted

# Of a control group, by version: its limit, its usage, and the entry of memory.stat that can be reclaimed.
_GROUP_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def prepare(device: str, threads: int | None, precision: str = "float32") -> torch.device:
    """Set the number of CPU threads and a GPU's precision, and return the device to compute on.

    Args:
        device: "auto" (the first CUDA device, else the CPU), "cpu", "cuda" or "cuda:N".
        threads: CPU threads; None for `default_threads`.
        precision: "tf32" lets a GPU round the inputs of float32 products and convolutions to 10 bits. All others
            disable this; it is torch's default for convolutions.

    Raises:
        UsageError: the device or its precision is unsupported.
        DeviceError: the device is missing.
    """
    keep_freed_memory()
    torch.set_num_threads(default_threads() if threads is None else threads)
    chosen = find_device(device)
    if chosen.type == "cuda" and distributed.size() > 1:
        torch.cuda.set_device(chosen)  # NCCL uses it
    if precision == "tf32" and chosen.type != "cuda":
        raise UsageError(f"--precision tf32 needs a GPU, and the device is `{chosen}`", hint="use float32 or bf16")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    return chosen


def default_threads(system: Path = Path("/")) -> int:
    """Return the number of CPU threads without `--threads`: torch's, and no more than the process may use.

    Processes that torchrun starts on one machine share its cores. torchrun sets OMP_NUM_THREADS to 1 for them unless it
    is set, so there a 1 does not count.
    """
    cores, here = available_cores(system), distributed.started_here()
    if here > 1 and os.environ.get("OMP_NUM_THREADS", "1") == "1":
        return max(1, cores // here)
    return min(torch.get_num_threads(), cores)


def find_device(device: str) -> torch.device:
    """Return the device for a name such as "auto", "cpu" or "cuda:1"; case does not matter, and "cpu:0" is the CPU."""
    name = device.lower().replace("cpu:0", "cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind == "mps":
        problem = "the device `mps` is not supported: it has no float64, in which nilr computes results"
        raise UsageError(problem, hint="use --device cpu")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()) or (kind == "cpu" and number):
        raise UsageError(f"invalid device `{device}`", hint="known: auto, cpu, cuda, cuda:N")
    if kind == "cuda" and distributed.size() > 1:
        if number:
            raise UsageError(f"`{name}` is one GPU, and torchrun started several processes", hint="use --device cuda")
        number = str(distributed.local_rank())
        name = f"cuda:{number}"
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"there is no device `{name}`: torch {torch.__version__} finds "
            f"{counted(torch.cuda.device_count(), 'CUDA device')}",
            hint="use --device cpu, or install a torch build for this GPU and its driver",
        )
    return torch.device(name)


def keep_freed_memory() -> None:
    """Make glibc reuse freed memory instead of returning it to the system; do nothing with another C library.

    Each update allocates activations of tens of megabytes many times. As new memory maps, their page faults take up to
    half the time of an update on a CPU.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_ARENA_MAX, 1)


def peak_memory(device: torch.device) -> int:
    """Return the peak memory of this process in bytes: of tensors on a CUDA device, else of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError), Path("/proc/self/status").open() as status:
        # On Linux a process inherits the value of getrusage from its parent.
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def total_memory(device: torch.device) -> int:
    """Return the memory of a device in bytes; for a CPU, of the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def available_memory(device: torch.device, system: Path = Path("/")) -> int:
    """Return the memory of a device in bytes that this process can still use.

    For a CPU that is what the machine has free, and no more than the process's control groups (containers, batch jobs)
    leave; without this information, half of the machine's memory.

    Args:
        device: the device.
        system: the root of the file system with /proc and /sys.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    left = [*_free_memory(system), *_left_by_groups(system)]
    return min(left) if left else total_memory(device) // 2


def _free_memory(system: Path) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for line in (system / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024


def _left_by_groups(system: Path) -> Iterator[int]:
    """Yield what each memory limit of the process's control groups leaves, without pages that can be reclaimed."""
    for version, directory in control_groups("memory", system):
        limit, usage, reclaimable = _GROUP_FILES[version]
        with contextlib.suppress(OSError, ValueError):
            bound, used = (int((directory / file).read_text()) for file in (limit, usage))
            statistics = dict(entry.split() for entry in (directory / "memory.stat").read_text().splitlines())
            yield max(0, bound - used + int(statistics.get(reclaimable, 0)))


def environment(
    device: torch.device | None = None,
    engine: str | None = None,
    *,
    captured: bool | None = None,
    recompute: bool | None = None,
) -> dict[str, JsonValue]:
    """Return what a result records about the machine, without names of hosts and users."""
    name = None
    if device is not None:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    record: dict[str, JsonValue] = {
        "nilr": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": distributed.size() if distributed.size() > 1 else None,
        "device": name,
        "engine": engine,
        "captured": captured,
        "recompute": recompute,
    }
    return {key: value for key, value in record.items() if value is not None}
