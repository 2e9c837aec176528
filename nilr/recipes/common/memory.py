"""Memory: what fits, and an error with the memory that was used and a flag that lowers it if it does not."""

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from nilr.config.base import ChunkSettings, DeviceSettings, Recompute
from nilr.errors import DeviceError
from nilr.meta.algorithms import Algorithm
from nilr.meta.engine.contract import Engine
from nilr.meta.engine.workers import workers
from nilr.reporting import Reporter
from nilr.runtime import available_memory, find_device, peak_memory, total_memory
from nilr.words import counted

S = TypeVar("S", bound=DeviceSettings)
R = TypeVar("R")

_GIB = 2**30
_SHARE = 0.5  # of the available memory, which estimated activations may fill


def episodes_at_once(engine: Engine, device: torch.device) -> int:
    """Return the largest number of episodes that the engine computes at the same time on a device."""
    return max(engine.episodes_at_once, workers(device, engine.episode_chunk))


def fit_memory(
    engine: Engine,
    recompute: Recompute,
    algorithm: Algorithm,
    *,
    n_episodes: int,
    n_support: int,
    n_query: int,
    image_shape: tuple[int, int, int],
    device: torch.device,
) -> str | None:
    """Set whether the engine recomputes, and without an `episode_chunk` how many episodes it computes at a time.

    With `auto` it recomputes if the activations of all inner steps need more than half of the available memory. If that
    is not enough, it computes fewer episodes at a time.

    Args:
        engine: the engine.
        recompute: the setting.
        algorithm: the row.
        n_episodes: number of episodes of an update.
        n_support: number of support images of an episode.
        n_query: number of query images of an episode.
        image_shape: (C, H, W) of an image.
        device: where it computes.

    Returns:
        A note for the user, if memory decides something.
    """
    needed = engine.episode_bytes(
        algorithm, image_shape=image_shape, n_support=n_support, n_query=n_query, steps=algorithm.inner_steps
    )
    at_once = min(n_episodes, episodes_at_once(engine, device))
    budget, notes = _SHARE * available_memory(device), []
    engine.recompute = recompute == "on"
    if recompute == "auto" and at_once * needed.keeping > budget and needed.recomputing < needed.keeping:
        engine.recompute = True
        kept = f"{at_once * needed.keeping / _GIB:.1f} GiB"
        notes.append(f"the activations of {counted(algorithm.inner_steps, 'inner step')}, {kept}, are recomputed")
    each = needed.recomputing if engine.recompute else needed.keeping
    if engine.episode_chunk is None and at_once > 1 and at_once * each > budget:
        engine.episode_chunk = max(1, int(budget / each))
        notes.append(f"{counted(engine.episode_chunk, 'episode')} of {each / _GIB:.1f} GiB at a time")
    return f"{budget / _GIB:.1f} GiB are available for activations: {'; '.join(notes)}" if notes else None


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
