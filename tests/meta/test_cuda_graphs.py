"""A captured function runs again as it was; a function that cannot be captured runs as it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nilr.meta.cuda_graphs import Capture, Captured, capture_on
from tests.meta.recording import Failing, RefusedError, Tapes, Watch

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def counting(device: str = "cpu") -> tuple[Tensor, Tensor, Callable[[], Tensor]]:
    """Return a buffer to read, a state, and a function that adds one to the other and returns twice the sum."""
    given, state = torch.zeros(3, device=device), torch.ones(3, device=device)
    return given, state, lambda: state.add_(given) * 2


def test_a_function_without_capture_runs_as_it_is() -> None:
    given, state, function = counting()
    captured = Captured(function, None)
    given.fill_(5)
    assert captured().tolist() == [12.0] * 3
    assert captured().tolist() == [22.0] * 3
    assert state.tolist() == [11.0] * 3


def test_capturing_changes_nothing_and_every_call_reads_the_buffers() -> None:
    given, state, function = counting()
    tapes, notes = Tapes(), list[str]()
    capture = Capture(tapes.record, notes.append)
    captured = Captured(function, capture, changes=lambda: [state])
    assert capture.works is None
    for number, expected in ((5.0, 6.0), (1.0, 7.0), (-3.0, 4.0)):
        given.fill_(number)
        assert captured().tolist() == [2 * expected] * 3
        assert state.tolist() == [expected] * 3
    assert (tapes.recorded, tapes.played) == (1, 3)
    assert capture.works
    assert notes == []


def test_a_failed_capture_is_noted_once_and_work_continues_from_the_state_before() -> None:
    given, state, function = counting()
    failing, notes = Failing(RuntimeError("operation not permitted\nwhen stream is capturing")), list[str]()
    capture = Capture(failing.record, notes.append)
    captured = Captured(function, capture, changes=lambda: [state])
    given.fill_(5)
    assert captured().tolist() == [12.0] * 3
    assert captured().tolist() == [22.0] * 3
    assert Captured(function, capture, changes=lambda: [state])().tolist() == [32.0] * 3
    assert failing.tries == 1
    assert capture.works is False
    assert len(notes) == 1
    assert notes[0].endswith("operation not permitted")


def test_the_first_of_several_errors_is_noted() -> None:
    def record(function: Callable[[], object]) -> tuple[Callable[[], object], object]:
        try:
            raise RuntimeError("operation not permitted when stream is capturing")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    notes = list[str]()
    Captured(lambda: None, Capture(record, notes.append))()
    assert notes[0].endswith("one by one: operation not permitted when stream is capturing")


def test_too_little_memory_is_raised_and_leaves_the_state_unchanged() -> None:
    given, state, function = counting()
    capture = Capture(Failing(torch.OutOfMemoryError("full")).record, pytest.fail)
    given.fill_(5)
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        Captured(function, capture, changes=lambda: [state])()
    assert state.tolist() == [1.0] * 3


def test_a_cpu_captures_nothing() -> None:
    assert capture_on(torch.device("cpu"), lambda note: None) is None


X = torch.tensor([0.0, 1.0, 2.0])
WAITING: dict[str, Callable[[], object]] = {
    "item": lambda: X.sum().item(),
    "a condition": lambda: bool((X > 0).any()),
    "where it is not zero": lambda: X.nonzero(),
    "a mask": lambda: X[X > 0],
    "numbers of the host": lambda: X + torch.tensor([1.0, 2.0, 3.0]),
    "another device": lambda: X.to("meta"),
}


@pytest.mark.parametrize("what", WAITING)
def test_the_stand_in_refuses_what_a_graph_refuses(what: str) -> None:
    with Watch(), pytest.raises(RefusedError):
        WAITING[what]()


@pytest.mark.gpu
@GPU
def test_a_gpu_captures() -> None:
    given, state, function = counting("cuda:0")
    notes = list[str]()
    capture = capture_on(given.device, notes.append)
    assert capture is not None
    captured = Captured(function, capture, changes=lambda: [state])
    for number, expected in ((5.0, 6.0), (1.0, 7.0), (-3.0, 4.0)):
        given.fill_(number)
        assert captured().tolist() == [2 * expected] * 3
        assert state.tolist() == [expected] * 3
    assert capture.works
    assert notes == []


@pytest.mark.gpu
@GPU
def test_a_gpu_continues_on_its_stream_after_a_function_that_waits() -> None:
    given, state, _function = counting("cuda:0")
    stream = torch.cuda.current_stream()
    notes = list[str]()
    capture = capture_on(given.device, notes.append)
    captured = Captured(lambda: state.add_(given) * given.sum().item(), capture, changes=lambda: [state])
    given.fill_(1)
    assert captured().tolist() == [6.0] * 3
    assert captured().tolist() == [9.0] * 3
    assert len(notes) == 1
    assert torch.cuda.current_stream() == stream
