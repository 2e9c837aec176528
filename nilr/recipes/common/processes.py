"""Child processes that run the code of this process and nothing from the working directory.

Each side notices the end of the other by the closed connection. A child then has `SECONDS_TO_END` to save its state.
"""

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

import nilr
from nilr.errors import NilrError
from nilr.signals import ignore_repeated_signals

SECONDS_TO_END = 30.0

_SECONDS_BETWEEN_CHECKS = 2.0

# Until the child handles signals, each of them ends it on the spot, without a traceback. If its parent ends while it is
# stopped, Linux continues it (PR_SET_PDEATHSIG), so that it ends as well.
_START = (
    "import sys; sys.path[:] = sys.argv[2:]; import ctypes, signal; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "sys.platform == 'linux' and ctypes.CDLL(None).prctl(1, signal.SIGCONT); "
    "from nilr.recipes.common.processes import run_child; run_child(int(sys.argv[1]))"
)


class KilledError(NilrError):
    """A signal ended a child process."""


class Child:
    """A child process for a task, and this process's end of the connection to it.

    It runs the target, an importable function, with a `Parent` and the arguments.
    """

    def __init__(self, task: str, target: Callable[..., None], *arguments: object) -> None:
        self.task = task
        self._checked_at, self._times_stopped = time.monotonic(), 0
        self.connection, theirs = multiprocessing.Pipe()
        with theirs:
            # -P: the working directory is not searched for modules
            command = [sys.executable, "-P", "-c", _START, str(theirs.fileno()), *search_path()]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        self.send((target, arguments))

    def send(self, message: object) -> None:
        """Send a message; a child that has ended is found by `receive`."""
        with contextlib.suppress(OSError):
            self.connection.send(message)

    def receive(self, note: Callable[[str], object]) -> Any:  # noqa: ANN401 - whatever the target sends
        """Return the next message, after waiting as `ready` does.

        Raises:
            KilledError: a signal ended the child.
            NilrError: the child has ended by itself.
        """
        ready([self], note)
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            end([self])
        status = self.process.returncode
        if status >= 0:
            raise NilrError(f"the process for {self.task} ended with status {status}")
        name = next((known.name for known in signal.Signals if known == -status), f"signal {-status}")
        how = f"the process for {self.task} was ended by {name}"
        if -status != signal.SIGKILL:
            raise KilledError(how)
        raise KilledError(
            f"{how}; the machine may have run out of memory",
            hint="close other programs, run fewer jobs at a time, or use smaller images, episodes or batches",
        )

    def note_if_stopped(self, note: Callable[[str], object]) -> None:
        """Note once that the child is stopped, unless it continues soon, as it does after Ctrl-Z and `fg`."""
        if time.monotonic() - self._checked_at < _SECONDS_BETWEEN_CHECKS or not hasattr(os, "waitid"):
            return
        self._checked_at = time.monotonic()
        options = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
        stopped = self.process.poll() is None and os.waitid(os.P_PID, self.process.pid, options) is not None
        self._times_stopped = self._times_stopped + 1 if stopped else 0
        if self._times_stopped == 2:
            note(f"the process for {self.task} is stopped; to continue it: kill -CONT {self.process.pid}")

    def close(self) -> None:
        """End the child; see `end`."""
        end([self])


AnyChild = TypeVar("AnyChild", bound=Child)


def ready(children: Sequence[AnyChild], note: Callable[[str], object]) -> list[AnyChild]:
    """Wait until some of the children have sent a message or have ended, and return these; note stopped ones."""
    while True:
        found = wait([child.connection for child in children], _SECONDS_BETWEEN_CHECKS)
        for child in children:
            child.note_if_stopped(note)
        if found:
            return [child for child in children if child.connection in found]


def end(children: Sequence[Child]) -> None:
    """End children, stopped ones too. Each may save its state; a signal or the end of the time kills the rest."""
    deadline = time.monotonic() + SECONDS_TO_END
    try:
        for child in children:
            child.connection.close()
            child.process.terminate()
            child.process.send_signal(signal.SIGCONT)
        for child in children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, deadline - time.monotonic()))
    finally:
        for child in children:
            child.process.kill()
            child.process.wait()


def search_path() -> list[str]:
    """Return this process's search path for modules.

    It has the working directory only if PYTHONPATH names it, or if nilr itself is there.
    """
    named = [Path(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    wanted = [path.absolute() for path in (Path(nilr.__file__).parents[1], *named)]
    here = Path.cwd()
    return [str(path) for path in map(Path.absolute, map(Path, sys.path)) if path != here or path in wanted]


class Parent:
    """A child's end of the connection to its parent process, whose end or whose closing it ends this process too."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._messages = queue.SimpleQueue[bytes]()
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, message: object) -> None:
        """Send a message. A state must be saved even if the parent process has ended, so a failure is not an error."""
        with contextlib.suppress(OSError):
            self._connection.send(message)

    def receive(self) -> Any:  # noqa: ANN401 - whatever the parent process sends
        """Wait for the next message."""
        return pickle.loads(self._messages.get())  # noqa: S301 - from the parent process

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                self._messages.put(self._connection.recv_bytes())
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(SECONDS_TO_END)
        os.kill(os.getpid(), signal.SIGKILL)


def run_child(handle: int) -> None:
    """Run what the parent process sends, in a child process."""
    os.set_inheritable(handle, False)  # the parent must see the end of this process, whatever this one starts
    ignore_repeated_signals()  # a job scheduler, the terminal, the parent process and `Parent` may all send one
    parent = Parent(Connection(handle))
    target, arguments = parent.receive()
    target(parent, *arguments)
