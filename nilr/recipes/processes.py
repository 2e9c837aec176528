"""Processes of our own: how they start, and when they begin to hear signals."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any

from nilr.signals import STOPPING

# A fork server imports torch once for all processes; elsewhere than on Linux forking is not safe.
_METHOD = "forkserver" if sys.platform == "linux" else "spawn"


def start_method(module: str) -> Any:  # noqa: ANN401 - a context of multiprocessing
    """Return how processes are made that need what a module imports."""
    context: Any = multiprocessing.get_context(_METHOD)
    context.set_forkserver_preload([module])
    return context


def start(process: BaseProcess) -> None:
    """Start a process that hears no signal before it listens: not while it imports, and a fork server never."""
    resource_tracker.ensure_running()  # which would let signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def listen(*signals: signal.Signals) -> None:
    """Let this process hear signals from now on, those among them that came before."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
