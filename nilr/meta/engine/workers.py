"""Independent pieces of work on all cores: one episode per thread, one core per episode.

Conv4 on 5 or 75 images is too small to split: two threads that share one convolution wait for each other at every
operation, and wait long where something else runs on a core. Whole episodes need no waiting, and the arithmetic of an
episode does not depend on the number of threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def workers(device: torch.device, at_most: int | None = None) -> int:
    """Return how many items `in_order` does at the same time: one per CPU thread of torch, on other devices one."""
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    return threads if at_most is None else min(threads, at_most)


def in_order(
    work: Callable[[T], R], items: Iterable[T], *, device: torch.device, at_most: int | None = None
) -> Iterator[R]:
    """Do the work for each item, on as many CPU threads as torch may use, and yield the outcomes in the items' order.

    At most two items per thread are under way or waiting to be taken, so memory does not grow with their number. On
    other devices, and where torch may use one thread, the items are done one after another.

    Args:
        work: done for each item, in a thread where torch computes on one core.
        items: taken one after another, in the caller's thread.
        device: where the work computes.
        at_most: bound on the items that are done at the same time; each has one core all the same.
    """
    threads = workers(device, at_most)
    if workers(device) == 1:
        yield from map(work, items)
        return
    grad = torch.is_grad_enabled()

    def alone(item: T) -> R:
        with torch.set_grad_enabled(grad):
            return work(item)

    pool = ThreadPoolExecutor(threads, "episode", initializer=torch.set_num_threads, initargs=(1,))
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(alone, item))
            if len(waiting) >= 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
        pool.shutdown()
    finally:
        # Whoever is interrupted does not wait for what is under way.
        pool.shutdown(wait=False, cancel_futures=True)
        torch.set_num_threads(torch.get_num_threads())  # threads that start later begin with the number set last
