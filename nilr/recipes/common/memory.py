"""Out of memory: an error with the memory that was used and a flag that lowers it."""

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from nilr.config.base import ChunkSettings, DeviceSettings
from nilr.errors import DeviceError
from nilr.meta.engine.workers import workers
from nilr.reporting import Reporter
from nilr.runtime import find_device, peak_memory, total_memory

S = TypeVar("S", bound=DeviceSettings)
R = TypeVar("R")

_GIB = 2**30


def out_of_memory(device: torch.device, *, at_once: int, smaller: str, saved: Sequence[str] = ()) -> DeviceError:
    """Return the error to raise after `torch.OutOfMemoryError`.

    Args:
        device: the device that ran out of memory.
        at_once: number of episodes that were computed at the same time.
        smaller: settings to reduce, for the hint, if that number is 1.
        saved: commands that resume the saved trainings; the flag that lowers memory is appended.
    """
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    peak, total = (f"{value / _GIB:.2f}" for value in (peak_memory(device), total_memory(device)))
    flag, lower = "--device cpu", f"use {smaller}"
    if at_once > 1:
        flag = f"--episode-chunk {at_once // 2}"
        lower = f"compute fewer than {at_once} episodes at the same time: {flag}"
    lower = "; ".join([lower, *(f"resume with `{command} {flag}`" for command in saved)])
    return DeviceError(f"out of memory on `{device}`{name}: {peak} GiB of {total} GiB used at most", hint=lower)


def with_memory_hint(
    smaller: str, at_once: int | None = None
) -> Callable[[Callable[[S, Reporter], R]], Callable[[S, Reporter], R]]:
    """Return a decorator of a recipe's `run` that adds a hint to out-of-memory errors.

    Args:
        smaller: settings to reduce, if one episode is too large.
        at_once: number of episodes that are computed at the same time; None: one per worker of `in_order`.
    """

    def decorate(run: Callable[[S, Reporter], R]) -> Callable[[S, Reporter], R]:
        @functools.wraps(run)
        def wrapped(settings: S, reporter: Reporter) -> R:
            try:
                return run(settings, reporter)
            except torch.OutOfMemoryError as error:
                device = find_device(settings.device)
                chunk = settings.episode_chunk if isinstance(settings, ChunkSettings) else None
                n = workers(device, chunk) if at_once is None else at_once
                raise out_of_memory(device, at_once=n, smaller=smaller) from error

        return wrapped

    return decorate
