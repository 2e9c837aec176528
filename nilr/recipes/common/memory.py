"""A device that runs out of memory: one error that says how much was taken, and which flag takes less."""

from __future__ import annotations

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
    """Return what to tell the user after `torch.OutOfMemoryError`.

    Args:
        device: that had too little.
        at_once: episodes that were computed at the same time.
        smaller: what to make smaller where that is one episode.
        saved: the commands that go on with what is saved; what lowers memory is appended to them.
    """
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    peak, total = (f"{value / _GIB:.2f}" for value in (peak_memory(device), total_memory(device)))
    flag, lower = "--device cpu", f"take {smaller}"
    if at_once > 1:
        flag = f"--episode-chunk {at_once // 2}"
        lower = f"compute fewer than {at_once} episodes at the same time: {flag}"
    lower = "; ".join([lower, *(f"resume with `{command} {flag}`" for command in saved)])
    return DeviceError(f"out of memory on `{device}`{name}: {peak} GiB of its {total} GiB taken at most", hint=lower)


def with_memory_hint(
    smaller: str, at_once: int | None = None
) -> Callable[[Callable[[S, Reporter], R]], Callable[[S, Reporter], R]]:
    """Return a decorator of a recipe's `run`.

    Args:
        smaller: what to make smaller where one episode is too much.
        at_once: episodes that are computed at the same time; None: one by each of `in_order`'s workers.
    """

    def decorated(run: Callable[[S, Reporter], R]) -> Callable[[S, Reporter], R]:
        @functools.wraps(run)
        def told(settings: S, reporter: Reporter) -> R:
            try:
                return run(settings, reporter)
            except torch.OutOfMemoryError as error:
                device = find_device(settings.device)
                chunk = settings.episode_chunk if isinstance(settings, ChunkSettings) else None
                n = workers(device, chunk) if at_once is None else at_once
                raise out_of_memory(device, at_once=n, smaller=smaller) from error

        return told

    return decorated
