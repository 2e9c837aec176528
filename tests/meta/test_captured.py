"""What is captured runs again as it was; what cannot be captured runs as it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from nilr.meta.captured import Capture, Captured, CudaGraphs, capture_on
from tests.meta.recording import Failing, RefusedError, Tapes, Watch


def counting(device: str = "cpu") -> tuple[Tensor, Tensor, Callable[[], Tensor]]:
    """Return a buffer to read, a state, and a function that adds one to the other and returns twice the sum."""
    given, state = torch.zeros(3, device=device), torch.ones(3, device=device)
    return given, state, lambda: state.add_(given) * 2


def test_a_function_that_is_not_captured_runs_as_it_is() -> None:
    given, state, function = counting()
    captured = Captured(function, None)
    given.fill_(5)
    assert captured().tolist() == [12.0] * 3
    assert captured().tolist() == [22.0] * 3
    assert state.tolist() == [11.0] * 3


def test_a_captured_function_changes_nothing_at_capturing_and_reads_its_buffers_at_every_call() -> None:
    given, state, function = counting()
    recorder, notes = Tapes(), list[str]()
    capture = Capture(recorder, notes.append)
    captured = Captured(function, capture, changes=lambda: [state])
    assert capture.works is None
    for number, expected in ((5.0, 6.0), (1.0, 7.0), (-3.0, 4.0)):
        given.fill_(number)
        assert captured().tolist() == [2 * expected] * 3
        assert state.tolist() == [expected] * 3
    assert (recorder.recorded, recorder.played) == (1, 3)
    assert capture.works
    assert notes == []


def test_what_cannot_be_captured_is_said_once_and_runs_from_the_state_before() -> None:
    given, state, function = counting()
    recorder, notes = Failing(RuntimeError("operation not permitted\nwhen stream is capturing")), list[str]()
    capture = Capture(recorder, notes.append)
    captured = Captured(function, capture, changes=lambda: [state])
    given.fill_(5)
    assert captured().tolist() == [12.0] * 3
    assert captured().tolist() == [22.0] * 3
    assert Captured(function, capture, changes=lambda: [state])().tolist() == [32.0] * 3
    assert recorder.tries == 1
    assert capture.works is False
    assert len(notes) == 1
    assert notes[0].endswith("operation not permitted")


def test_the_first_of_several_errors_is_said() -> None:
    def record(function: Callable[[], object]) -> None:
        try:
            raise RuntimeError("operation not permitted when stream is capturing")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    notes = list[str]()
    Captured(lambda: None, Capture(SimpleNamespace(record=record), notes.append))()
    assert notes[0].endswith("one by one: operation not permitted when stream is capturing")


def test_too_little_memory_is_no_reason_to_go_on_without() -> None:
    given, state, function = counting()
    capture = Capture(Failing(torch.OutOfMemoryError("full")), lambda note: None)
    given.fill_(5)
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        Captured(function, capture, changes=lambda: [state])()
    assert state.tolist() == [1.0] * 3


def test_a_cpu_captures_nothing() -> None:
    assert capture_on(torch.device("cpu"), lambda note: None) is None


@pytest.mark.parametrize("fails", [False, True])
def test_a_graph_is_captured_after_runs_aside_and_the_stream_is_then_the_one_before(
    fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = ["current"]

    @contextlib.contextmanager
    def on(name: str) -> Iterator[None]:
        streams.append(name)
        yield
        if name == "graph" and fails:
            raise RuntimeError("operation would make the legacy stream depend on a capturing blocking stream")
        streams.pop()

    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, stand_in in {
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: "replayed"),
        "device": contextlib.nullcontext,
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda given: on("aside"),
        "graph": lambda given: on("graph"),
        "set_stream": lambda given: streams.__setitem__(slice(1, None), []),
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    ran: list[str] = []
    graphs = CudaGraphs(torch.device("cuda:0"))
    with pytest.raises(RuntimeError, match="legacy") if fails else contextlib.nullcontext():
        replay, outcome = graphs.record(lambda: ran.append(streams[-1]) or "outcome")
        assert (replay(), outcome) == ("replayed", "outcome")
    assert ran == ["aside", "aside", "aside", "graph"]
    assert streams == ["current"]


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
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
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
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_goes_on_after_a_function_that_waits() -> None:
    given, state, _function = counting("cuda:0")
    notes = list[str]()
    capture = capture_on(given.device, notes.append)
    captured = Captured(lambda: state.add_(given) * given.sum().item(), capture, changes=lambda: [state])
    given.fill_(1)
    assert captured().tolist() == [6.0] * 3
    assert captured().tolist() == [9.0] * 3
    assert len(notes) == 1
