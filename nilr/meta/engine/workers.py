"""Independent work on all cores and in all processes: one episode per thread, one core per episode.

Conv4 on 5 or 75 images is too small to split: two threads that share one convolution wait for each other at every
operation, and wait long if another process uses a core. Whole episodes need no waiting, and the results of an episode
do not depend on the number of threads, nor on the number of processes that `nilr.distributed` connects.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar, cast

import torch

from nilr import distributed

T = TypeVar("T")
R = TypeVar("R")


def workers(device: torch.device | None, at_most: int | None = None) -> int:
    """Return how many items `in_order` processes at a time: one per CPU thread of torch, and one on other devices."""
    threads = torch.get_num_threads() if device is not None and device.type == "cpu" else 1
    return threads if at_most is None else min(threads, at_most)


# Results of each process that are exchanged at once: more would take memory, fewer would make processes wait longer.
_EXCHANGED = 4


class _Outcome(NamedTuple, Generic[R]):
    """The result of an item, or why there is none."""

    result: R | None
    error: Exception | None


def in_order(
    work: Callable[[T], R], items: Iterable[T], *, device: torch.device | None, at_most: int | None = None
) -> Iterator[R]:
    """Do the work for each item, on as many CPU threads as torch may use, and yield the results in the items' order.

    In each thread torch uses one core. `at_most` bounds the number of threads. The caller's thread consumes the items,
    at most two per thread ahead, so memory does not grow with their number. On other devices, without a device, and if
    torch may use only one thread, the caller's thread also does the work.

    Of several processes, each does every n-th item, and yields the results of all. They raise the same exception: that
    of the first item that fails.
    """
    rank, size = distributed.rank(), distributed.size()
    if size == 1:
        yield from _on_threads(work, items, device, at_most)
        return
    items = list(items)
    results = _on_threads(work, items[rank::size], device, at_most)
    for _ in range(0, len(items), _EXCHANGED * size):
        of_ranks = distributed.gather(_outcomes(results, _EXCHANGED))
        for outcome in itertools.chain(*itertools.zip_longest(*of_ranks)):
            if outcome is not None and outcome.error is not None:
                raise outcome.error
            if outcome is not None:
                yield cast(R, outcome.result)


def _outcomes(results: Iterator[R], n: int) -> list[_Outcome[R]]:
    """Return the next n results at most; a failure is the last one."""
    outcomes = list[_Outcome[R]]()
    try:
        for result in itertools.islice(results, n):
            outcomes.append(_Outcome(result, None))
    except Exception as error:
        outcomes.append(_Outcome(None, error))
    return outcomes


def _on_threads(
    work: Callable[[T], R], items: Iterable[T], device: torch.device | None, at_most: int | None
) -> Iterator[R]:
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
