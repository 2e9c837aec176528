"""Independent pieces of work, and one way to execute them: `submit` and `result`, as in `concurrent.futures`."""

import pickle
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from nilr.errors import NilrError, UsageError
from nilr.recipes.common.processes import KilledError
from nilr.reporting import Reporter, SilentReporter
from nilr.words import counted

Message = tuple[str, float] | str  # the share of a step that is done, or a note for the user

_SECONDS_BETWEEN_REPORTS = 0.5


@dataclass(frozen=True)
class Task:
    """A call of an importable function with a `Relay` and the arguments."""

    name: str  # unique
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    after: str | None = None  # the name of another task that must be finished first

    def perform(self, send: "Callable[[Message], object]") -> "Ending":
        """Execute the task, and return its result for the process that submitted it."""
        return Ending(self.function(Relay(send), *self.arguments))


class Job(Protocol):
    """A submitted task."""

    def messages(self) -> Sequence[Message]:
        """Return what the task has sent since the last call; KilledError if a signal ended it."""

    def done(self) -> bool:
        """Return whether the task has ended."""

    def result(self) -> Any:  # noqa: ANN401 - whatever the task's function returns
        """Return what the function of an ended task returned, or raise its error."""


class Executor(Protocol):
    """Executes tasks. At the end of its block it ends those that still run; they save what is finished."""

    slots: int  # the number of tasks at a time

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def submit(self, tasks: Sequence[Task]) -> Sequence[Job]:
        """Start tasks, for which slots are free."""

    def wait(self, jobs: Sequence[Any]) -> Sequence[Any]:
        """Wait until some jobs have sent a message or have ended, and return these."""


class Progress(Protocol):
    """Shows the progress of tasks, by their names."""

    def begin(self, name: str) -> None:
        """Show a task that is starting."""

    def handle(self, name: str, message: Message | None, jobs: int) -> None:
        """Report a message of one of `jobs` tasks that run at the same time, or None at a task's end."""

    def stop(self, name: str) -> None:
        """Note that a task has ended before its time."""


def execute(tasks: Sequence[Task], executor: Executor, progress: Progress, reporter: Reporter) -> dict[str, Any]:
    """Execute tasks in their order, as many at a time as the executor has slots, and return their results by name.

    If a signal ends the process of a task and slots remain, the task starts again in one of them.

    Raises:
        KilledError: a signal ended the last process.
        NilrError: a task failed; the others save what is finished.
        Interrupted: a signal arrived; tasks save what is finished.
    """
    waiting, running, results = list(tasks), dict[Job, Task](), dict[str, Any]()
    with executor:
        while waiting or running:
            unfinished = {task.name for task in (*waiting, *running.values())}
            free = executor.slots - len(running)
            startable = [task for task in waiting if task.after not in unfinished][:free]
            for task in startable:
                waiting.remove(task)
                progress.begin(task.name)
            running |= zip(executor.submit(startable), startable, strict=True) if startable else ()
            for job in executor.wait(list(running)):
                task = running[job]
                try:
                    for message in job.messages():
                        progress.handle(task.name, message, executor.slots)
                    if job.done():
                        results[task.name] = job.result()
                        del running[job]
                        progress.handle(task.name, None, executor.slots)
                except KilledError as error:
                    if not executor.slots:
                        raise
                    waiting.insert(0, running.pop(job))
                    progress.stop(task.name)
                    reporter.note(f"{error.message}; continuing with {counted(executor.slots, 'job')}")
    return results


@dataclass(frozen=True)
class Ending:
    """What an ended task returned, or its error."""

    value: Any = None
    error: Exception | None = None

    def result(self) -> Any:  # noqa: ANN401 - whatever the task's function returns
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value


def portable(error: Exception) -> Exception:
    """Return an error that can be sent to another process, with the traceback as its note."""
    sent: Exception
    if isinstance(error, NilrError):
        sent = (UsageError if isinstance(error, UsageError) else NilrError)(error.message, hint=error.hint)
    else:
        try:
            sent = pickle.loads(pickle.dumps(error))  # noqa: S301 - its own bytes
        except Exception:
            sent = RuntimeError(f"{type(error).__name__}: {error}")
    sent.add_note("".join(traceback.format_exception(error)))
    return sent


def with_name(name: str, note: str) -> str:
    """Return a note of a model's task with the model's name, which some notes contain already."""
    return note if f"`{name}`" in note else f"`{name}`: {note}"


class Relay(SilentReporter):
    """Sends the share of the current step that is done, and notes for the user."""

    def __init__(self, send: Callable[[Message], object]) -> None:
        self.send = send
        self._step, self._since, self._sent_at = "", 0.0, 0.0
        self._first, self._done, self._total = 0, 0, 0
        self._left: float | None = None

    def begin(self, step: str) -> None:
        """Begin the next step."""
        self._step, self._total, self._left = step, 0, None

    def stage(self, title: str, total: int | None = None, *, done: int = 0, unit: str = "steps") -> None:
        """Begin to count, and send the share that is done."""
        self._first, self._done, self._total, self._since = done, done, total or 0, time.monotonic()
        self._send_share(at_least=0.0)

    def advance(self, n: int = 1) -> None:
        """Count, and send the share that is done from time to time."""
        self._done += n
        self._send_share()

    def expect(self, seconds: float | None, share: float | None = None) -> None:
        """Take the time left, and send the share that is done from time to time."""
        self._left = seconds
        self._send_share()

    def note(self, message: str) -> None:
        """Send the note."""
        self.send(message)

    def _send_share(self, at_least: float = _SECONDS_BETWEEN_REPORTS) -> None:
        now = time.monotonic()
        if not self._total or now - self._sent_at < at_least:
            return
        self._sent_at = now
        share = self._done / max(self._done, self._total)
        if self._left is not None:
            first = self._first / self._total
            share = first + (1 - first) * (now - self._since) / (now - self._since + self._left)
        self.send((self._step, share))
