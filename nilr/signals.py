"""SIGINT, SIGTERM and SIGHUP: how a process stops, at every stage of its life."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from nilr.errors import Interrupted

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_repeats_ignored = False
_deferring = False
_deferred: list[int] = []
_first_at: float | None = None


class StopRequest:
    """Whether a signal has arrived.

    Attributes:
        signum: the first signal; None before it.
        urgent: whether a second signal has arrived: exit now, save nothing.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.urgent = False

    def __bool__(self) -> bool:
        """Return whether to stop."""
        return self.signum is not None


@contextlib.contextmanager
def stopping_gracefully() -> Iterator[StopRequest]:
    """Turn the first signal into a request that the block honours when its state is consistent.

    The second signal raises `Interrupted` at once. Outside the main thread signals are not handled.
    """
    request = StopRequest()

    def handle(signum: int) -> None:
        if request:
            request.urgent = True
            raise Interrupted(signum)
        request.signum = signum

    with _handled_by(handle):
        yield request


@contextlib.contextmanager
def unwinding() -> Iterator[None]:
    """Let a signal raise `Interrupted`, so that locks are released and temporary files removed.

    This includes SIGINT in a background process, for which a shell sets it to be ignored.
    """

    def handle(signum: int) -> None:
        raise Interrupted(signum)

    with _handled_by(handle):
        yield


@contextlib.contextmanager
def ending_the_process() -> Iterator[None]:
    """Let a signal end the process at once, while it imports modules and has nothing to save.

    A compiled module that is interrupted during its import hides the interruption behind errors of its own.
    """

    def handle(signum: int) -> None:
        with contextlib.suppress(OSError):
            if "TORCHELASTIC_RUN_ID" not in os.environ:  # torchrun reports which of its processes failed
                os.write(2, f"error: interrupted by {signal.Signals(signum).name}\n".encode())
        os._exit(128 + signum)

    with _handled_by(handle):
        yield


class DeferringSignals:
    """Lets signals act only after the block, so that it cleans up as a whole; with False, at once in a block within it.

    A class, because the end of a generator could itself be interrupted.
    """

    def __init__(self, deferring: bool = True) -> None:
        self._deferring = deferring

    def __enter__(self) -> None:
        self._before = _deferring
        self._set(self._deferring)

    def __exit__(self, *_: object) -> None:
        self._set(self._before)

    def _set(self, deferring: bool) -> None:
        global _deferring
        if threading.current_thread() is threading.main_thread():  # signals act there
            _deferring = deferring
        while _deferred and not _deferring:
            signal.raise_signal(_deferred.pop(0))


def ignore_repeated_signals() -> None:
    """Ignore all signals after the first one in this process: several processes may send one for the same reason."""
    global _repeats_ignored
    _repeats_ignored = True


def seconds_since_signal() -> float:
    """Return the seconds since the first signal that this process has handled; 0 if there was none."""
    return 0.0 if _first_at is None else time.monotonic() - _first_at


def ignore_signals() -> None:
    """Ignore signals from now on, so that none changes the status of a process that is about to exit."""
    for signum in STOPPING:
        signal.signal(signum, signal.SIG_IGN)


@contextlib.contextmanager
def _handled_by(handle: Callable[[int], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    raised: list[Interrupted] = []

    def handler(signum: int, _frame: FrameType | None) -> None:
        if _deferring:
            _deferred.append(signum)
            return
        global _first_at
        _first_at = _first_at or time.monotonic()
        if _repeats_ignored:
            for other in STOPPING:
                signal.signal(other, lambda *_: None)  # not SIG_IGN: one may be pending
        try:
            handle(signum)
        except Interrupted as interrupted:
            raised.append(interrupted)
            raise

    # nohup sets SIGHUP to be ignored, so that the process outlives its terminal
    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
    before = {signum: signal.signal(signum, handler) for signum in STOPPING if signum not in ignored}
    try:
        yield
    except Exception as error:
        if raised:  # compiled modules hide it behind errors of their own
            raise raised[-1] from error
        raise
    finally:
        raised.clear()  # a cycle of references would keep the interrupted frames, and what they clean up
        for signum, previous in before.items():
            if signal.getsignal(signum) is handler:  # else repeated signals are ignored
                signal.signal(signum, previous)
