"""What a run happens on: device, threads, versions, and how it is stopped."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from types import FrameType

import torch
from pydantic import JsonValue

from nilr import __version__
from nilr.errors import DeviceError, Interrupted, UsageError

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def utc_now() -> str:
    """Return the time as ISO 8601 in UTC, to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def prepare(device: str, threads: int | None) -> torch.device:
    """Set the number of CPU threads and return the device to compute on.

    Args:
        device: "auto" (the first CUDA device, else the CPU), "cpu", "cuda" or "cuda:N".
        threads: CPU threads, or None to leave torch's choice.

    Raises:
        UsageError: no such kind of device.
        DeviceError: the device is not there.
    """
    keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)
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


def environment(device: torch.device | None = None, engine: str | None = None) -> dict[str, JsonValue]:
    """Return what a result records about the machine: versions, device, threads, engine; no names of hosts or users."""
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
    return record


class StopRequest:
    """Whether SIGINT or SIGTERM has arrived."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def __bool__(self) -> bool:
        """Tell whether to stop."""
        return self.signum is not None

    def raise_if_set(self) -> None:
        """Raise `Interrupted` where a signal has arrived."""
        if self.signum is not None:
            raise Interrupted(self.signum)


@contextlib.contextmanager
def stopping_gracefully() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request that the block may honour when its state is whole.

    The second one raises `Interrupted` at once. Outside the main thread signals are left alone.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(signum: int, _frame: FrameType | None) -> None:
        if request:
            raise Interrupted(signum)
        request.signum = signum

    before = {signum: signal.signal(signum, handle) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
