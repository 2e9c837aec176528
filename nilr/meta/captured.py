"""Work that a device repeats: its kernels captured once in a CUDA graph, and launched together from then on.

What is captured runs again on the very memory that it was captured on. So a function that is captured takes nothing,
reads what changes between its runs from tensors that stay where they are, and never waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

_WARM_UPS = 3  # as torch's documentation has it: libraries set themselves up in the first runs


class Recorder(Protocol):
    """One way to capture."""

    def record(self, function: Callable[[], T]) -> tuple[Callable[[], object], T]:
        """Return what runs the function again, and the outcome that every such run overwrites.

        Raises:
            RuntimeError: it cannot be captured.
        """


class CudaGraphs:
    """Captures in CUDA graphs.

    Args:
        device: where the functions compute.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def record(self, function: Callable[[], T]) -> tuple[Callable[[], object], T]:
        """See `Recorder`; the function runs a few times before."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device):
            aside, current = torch.cuda.Stream(), torch.cuda.current_stream()  # type: ignore[no-untyped-call]
            aside.wait_stream(current)
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UPS):
                    function()
            current.wait_stream(aside)
            try:
                with torch.cuda.graph(graph):
                    outcome = function()
            finally:
                torch.cuda.set_stream(current)  # a capture that fails would leave its own stream in place
        return graph.replay, outcome


class Capture:
    """Whether the work of a run is captured; after the first that could not be, none is tried again.

    Args:
        recorder: how.
        note: told why something could not be captured.

    Attributes:
        works: everything that was tried so far could be captured; None before the first.
    """

    def __init__(self, recorder: Recorder, note: Callable[[str], object]) -> None:
        self._recorder, self._note = recorder, note
        self.works: bool | None = None

    def record(self, function: Callable[[], T]) -> tuple[Callable[[], object], T] | None:
        """Return what the recorder does, or None where that is impossible.

        Raises:
            torch.OutOfMemoryError: the device has too little memory.
        """
        if self.works is False:
            return None
        try:
            recorded = self._recorder.record(function)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.works = False
            first: BaseException = error
            while first.__context__ is not None:  # leaving a capture that has failed fails once more
                first = first.__context__
            why = (str(first) or type(first).__name__).splitlines()[0]
            self._note(f"updates are not captured in a CUDA graph, and their kernels are launched one by one: {why}")
            return None
        self.works = True
        return recorded


def capture_on(device: torch.device, note: Callable[[str], object]) -> Capture | None:
    """Return how work is captured on a device; None where it does not wait to be launched, as on a CPU."""
    return Capture(CudaGraphs(device), note) if device.type == "cuda" else None


class Captured(Generic[T]):
    """A function that is captured at its first call, and runs as it is where it cannot be.

    Args:
        function: what to do.
        capture: whether and how; None: it always runs as it is.
        changes: gives the tensors that it changes from what they were: capturing leaves them as they are.
    """

    def __init__(
        self,
        function: Callable[[], T],
        capture: Capture | None,
        changes: Callable[[], Iterable[Tensor]] = tuple,
    ) -> None:
        self._function, self._capture, self._changes = function, capture, changes
        self._recorded: tuple[Callable[[], object], T] | None = None

    def __call__(self) -> T:
        """Do it; what is returned holds until the next call."""
        if self._recorded is None and self._capture is not None:
            self._recorded = self._record(self._capture)
        if self._recorded is None:
            return self._function()
        replay, outcome = self._recorded
        replay()
        return outcome

    def _record(self, capture: Capture) -> tuple[Callable[[], object], T] | None:
        before = [(value, value.clone()) for value in self._changes()]
        try:
            return capture.record(self._function)
        finally:
            for value, kept in before:
                value.copy_(kept)
