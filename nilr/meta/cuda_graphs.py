"""Work that a device repeats: its kernels are captured once in a CUDA graph, and launched together from then on.

A graph always uses the memory that it was captured on. So a captured function takes no arguments, reads what changes
between its calls from tensors that keep their memory, and never waits for the device.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from nilr import distributed

T = TypeVar("T")

# Takes a function, and returns what runs it again and the outcome that every run overwrites.
Record = Callable[[Callable[[], Any]], tuple[Callable[[], object], Any]]

_WARM_UPS = 3  # as in torch's documentation: libraries initialise themselves in the first runs


def record_cuda_graph(function: Callable[[], T], *, device: torch.device) -> tuple[Callable[[], object], T]:
    """Capture a function in a CUDA graph, after a few runs, and return the graph's replay and the outcome.

    Raises:
        RuntimeError: the function cannot be captured.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device):
        side, current = torch.cuda.Stream(), torch.cuda.current_stream()  # type: ignore[no-untyped-call]
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                function()
        current.wait_stream(side)
        try:
            with torch.cuda.graph(graph):
                outcome = function()
        finally:
            torch.cuda.set_stream(current)  # a failed capture leaves its own stream in place
    return graph.replay, outcome


class Capture:
    """Captures functions, with a note of the first failure; after it no further ones are tried.

    Attributes:
        works: whether all attempts so far have succeeded; None before the first.
    """

    def __init__(self, record: Record, note: Callable[[str], object]) -> None:
        self._record, self._note = record, note
        self.works: bool | None = None

    def record(self, function: Callable[[], T]) -> tuple[Callable[[], object], T] | None:
        """Return what runs the function again and its outcome, or None if the function cannot be captured.

        Raises:
            torch.OutOfMemoryError: the device has too little memory.
        """
        if self.works is False:
            return None
        try:
            recorded = self._record(function)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            self.works = False
            first: BaseException = error
            while isinstance(first.__context__, RuntimeError):  # leaving a failed capture raises a second error
                first = first.__context__
            reason = (str(first) or type(first).__name__).splitlines()[0]
            self._note(f"updates are not captured in a CUDA graph, so their kernels are launched one by one: {reason}")
            return None
        self.works = True
        return recorded


def capture_on(device: torch.device, note: Callable[[str], object]) -> Capture | None:
    """Return how work on a device is captured; None for a CPU, where it need not be.

    Work of several processes is not captured. It has a `Capture` all the same, so that it rounds as captured work does.
    """
    if device.type != "cuda":
        return None
    capture = Capture(functools.partial(record_cuda_graph, device=device), note)
    if distributed.size() > 1:
        capture.works = False
    return capture


class Captured(Generic[T]):
    """A function that is captured at its first call; without `capture`, or if that fails, it runs as it is.

    `changes` returns the tensors that the function changes. Capturing leaves them unchanged.
    """

    def __init__(
        self, function: Callable[[], T], capture: Capture | None, changes: Callable[[], Iterable[Tensor]] = tuple
    ) -> None:
        self._function, self._capture, self._changes = function, capture, changes
        self._recorded: tuple[Callable[[], object], T] | None = None

    def __call__(self) -> T:
        """Do the work; the outcome is valid until the next call."""
        if self._recorded is None and self._capture is not None:
            before = [(value, value.clone()) for value in self._changes()]
            try:
                self._recorded = self._capture.record(self._function)
            finally:
                for value, copy in before:
                    value.copy_(copy)
        if self._recorded is None:
            return self._function()
        replay, outcome = self._recorded
        replay()
        return outcome
