"""Independent work on all cores and in all processes: one episode per thread.

One core per episode is best, because whole episodes need no waiting. If there are more cores than episodes, the C
kernels of an episode may share several (`CoreSharing`). The results of an episode do not depend on the number of cores
and threads, nor on the number of processes that `nilr.distributed` connects.
"""

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar, cast

import torch

from nilr import distributed
from nilr.meta.engine.native import use_cores

T = TypeVar("T")
R = TypeVar("R")


def workers(device: torch.device | None, at_most: int | None = None) -> int:
    """Return how many items `in_order` processes at a time: one per CPU thread of torch, and one on other devices."""
    threads = torch.get_num_threads() if device is not None and device.type == "cpu" else 1
    return threads if at_most is None else min(threads, at_most)


class Share(NamedTuple):
    """The number of items that are computed at the same time, and the number of cores of each."""

    at_once: int
    cores: int


class CoreSharing:
    """Chooses how items share the cores, by timing the first calls; the results are the same.

    Items that occupy all cores have one each. If some cores would be idle, every way to use them is timed in turn, and
    the fastest is used from then on.
    """

    _TIMES = 3  # that each way is timed; the shortest time counts

    def __init__(self) -> None:
        self._seconds: dict[tuple[int, int], dict[Share, list[float]]] = {}

    @property
    def settled(self) -> bool:
        """Whether all that was computed so far is now computed in the fastest way."""
        return all(self._is_settled(seconds) for seconds in self._seconds.values())

    def _is_settled(self, seconds: dict[Share, list[float]]) -> bool:
        return len(seconds) == 1 or all(len(times) == self._TIMES for times in seconds.values())

    @contextlib.contextmanager
    def choose(self, n_items: int, at_once: int) -> Iterator[Share]:
        """Yield how n items of all processes share this one's cores, on `at_once` threads at most; time the block."""
        n_items, threads = -(-n_items // distributed.size()), torch.get_num_threads()
        if (n_items, threads) not in self._seconds:
            self._seconds[n_items, threads] = {share: [] for share in shares(n_items, threads, at_once)}
        seconds = self._seconds[n_items, threads]
        settled = self._is_settled(seconds)
        fastest = min(seconds, key=lambda share: min(seconds[share], default=0))
        share = fastest if settled else min(seconds, key=lambda share: len(seconds[share]))
        start = time.perf_counter()
        yield share
        if not settled:
            seconds[share].append(time.perf_counter() - start)


def shares(n_items: int, threads: int, at_once: int) -> list[Share]:
    """Return the ways to share cores that are worth a trial; the first is one core for each item."""
    most = min(n_items, at_once)
    ways = [Share(most, 1)]
    if most < threads or n_items % threads:
        for rounds in range(-(-n_items // most), n_items + 1):
            way = Share(-(-n_items // rounds), threads // -(-n_items // rounds))
            if way.cores > 1 and way not in ways:
                ways.append(way)
    return ways


# Results of each process that are exchanged at once: more would take memory, fewer would make processes wait longer.
_EXCHANGED = 4


class _Outcome(NamedTuple, Generic[R]):
    """The result of an item, or why there is none."""

    result: R | None
    error: Exception | None


def in_order(
    work: Callable[[T], R],
    items: Iterable[T],
    *,
    device: torch.device | None,
    at_most: int | None = None,
    cores: int = 1,
) -> Iterator[R]:
    """Do the work for each item, on as many CPU threads as torch may use, and yield the results in the items' order.

    In each thread torch uses one core, and the C kernels use `cores`. `at_most` bounds the number of threads. The
    caller's thread consumes the items, at most two per thread ahead, so memory does not grow with their number. On
    other devices, without a device, and if torch may use only one thread, the caller's thread also does the work.

    Of several processes, each does every n-th item, and yields the results of all. They raise the same exception: that
    of the first item that fails.
    """
    rank, size = distributed.rank(), distributed.size()
    if size == 1:
        yield from _on_threads(work, items, device, at_most, cores)
        return
    items = list(items)
    results = _on_threads(work, items[rank::size], device, at_most, cores)
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
    work: Callable[[T], R], items: Iterable[T], device: torch.device | None, at_most: int | None, cores: int
) -> Iterator[R]:
    threads = workers(device, at_most)
    if workers(device) == 1:
        yield from map(work, items)
        return
    grad = torch.is_grad_enabled()

    def work_on(item: T) -> R:
        with torch.set_grad_enabled(grad):
            return work(item)

    pool = ThreadPoolExecutor(threads, "episode", initializer=_start_thread, initargs=(cores,))
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


def _start_thread(cores: int) -> None:
    torch.set_num_threads(1)
    use_cores(cores)
