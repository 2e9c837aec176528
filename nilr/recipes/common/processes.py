"""Child processes that run the code of this process and nothing from the working directory."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import nilr
from nilr.errors import NilrError

# Until the child handles signals, each of them ends it on the spot, without a traceback.
_START = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); sys.path[:] = sys.argv[2:]; "
    "from nilr.recipes.common.processes import run_child; run_child(int(sys.argv[1]))"
)


class Child:
    """A child process for a task, and this process's end of the connection to it.

    It runs the target, an importable function, with its end of the connection and the arguments.
    """

    def __init__(self, task: str, target: Callable[..., None], *arguments: object) -> None:
        self.task = task
        self.connection, theirs = multiprocessing.Pipe()
        with theirs:
            # -P: the working directory is not searched for modules
            command = [sys.executable, "-P", "-c", _START, str(theirs.fileno()), *_search_path()]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        self.send((target, arguments))

    def send(self, message: object) -> None:
        """Send a message; a child that has ended is found by `receive`."""
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(message)

    def receive(self) -> Any:  # noqa: ANN401 - whatever the target sends
        """Wait for the next message; NilrError if the child has ended."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            status = self.process.wait()
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        raise NilrError(
            f"the process for {self.task} {how}; the machine may have run out of memory",
            hint="close other programs, run fewer jobs at a time, or use smaller images, episodes or batches",
        )

    def close(self) -> None:
        """End the child; see `end`."""
        end([self])


def end(children: Sequence[Child]) -> None:
    """End children, each of which may save its state first; kill them if a signal interrupts the wait."""
    for child in children:
        child.connection.close()
        child.process.terminate()
    try:
        for child in children:
            child.process.wait()
    except BaseException:
        for child in children:
            child.process.kill()
            child.process.wait()
        raise


def _search_path() -> list[str]:
    """Return this process's search path for modules, without the working directory unless nilr itself is there."""
    here, home = Path.cwd(), Path(nilr.__file__).parents[1]
    return [str(path) for path in map(Path.absolute, map(Path, sys.path)) if path != here or path == home]


def run_child(handle: int) -> None:
    """Run what the parent process sends, in a child process."""
    os.set_inheritable(handle, False)  # the parent must see the end of this process, whatever this one starts
    with Connection(handle) as connection, contextlib.suppress(EOFError, BrokenPipeError):
        target, arguments = connection.recv()
        target(connection, *arguments)
