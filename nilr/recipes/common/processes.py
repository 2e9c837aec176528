"""Processes of our own: how they start, and when they begin to hear signals."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from nilr.signals import STOPPING

# A fork server imports torch once for all processes; elsewhere than on Linux forking is not safe.
_METHOD = "forkserver" if sys.platform == "linux" else "spawn"


class Child:
    """A process of our own, and the parent's end of the pipe to it; it does not run before `start`.

    Args:
        target: what it does, given its end of the pipe and the arguments; a fork server imports its module for all.
        arguments: sent to the process.

    Attributes:
        here: the parent's end.
        process: the process, which ends with the parent where that leaves as it should.
    """

    def __init__(self, target: Callable[..., None], *arguments: object) -> None:
        context: Any = multiprocessing.get_context(_METHOD)
        context.set_forkserver_preload([target.__module__])
        self.here: Connection
        self.here, self._there = context.Pipe()
        self.process: BaseProcess = context.Process(target=target, args=(self._there, *arguments), daemon=True)

    def start(self) -> None:
        """Start it; it hears no signal before it listens: not while it imports, and a fork server never."""
        resource_tracker.ensure_running()  # which would let signals through again
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._there.close()


def listen(*signals: signal.Signals) -> None:
    """Let this process hear signals from now on, those among them that came before."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
