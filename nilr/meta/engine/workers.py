"""Independent work on all cores: one episode per thread, one core per episode.

Conv4 on 5 or 75 images is too small to split: two threads that share one convolution wait for each other at every
operation, and wait long if another process uses a core. Whole episodes need no waiting, and the results of an episode
do not depend on the number of threads.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def workers(device: torch.device, at_most: int | None = None) -> int:
    """Return how many items `in_order` processes at a time: one per CPU thread of torch, and one on other devices."""
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    return threads if at_most is None else min(threads, at_most)


def in_order(
    work: Callable[[T], R], items: Iterable[T], *, device: torch.device, at_most: int | None = None
) -> Iterator[R]:
    """Do the work for each item, on as many CPU threads as torch may use, and yield the results in the items' order.

    In each thread torch uses one core. `at_most` bounds the number of threads. The caller's thread consumes the items,
    at most two per thread ahead, so memory does not grow with their number. On other devices, and if torch may use only
    one thread, the caller's thread also does the work.
    """
    threads = workers(device, at_most)
    if workers(device) == 1:
        yield from map(work, items)
        return
    grad = torch.is_grad_enabled()

    def work_on(item: T) -> R:
        with torch.set_grad_enabled(grad):
            return work(item)

    pool = ThreadPoolExecutor(threads, "episode", initializer=torch.set_num_threads, initargs=(1,))
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work_on, item))
            if len(waiting) >= 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
        pool.shutdown()
    finally:
        # After an interruption, do not wait for work in progress.
        pool.shutdown(wait=False, cancel_futures=True)
        torch.set_num_threads(torch.get_num_threads())  # later threads start with the number set last
