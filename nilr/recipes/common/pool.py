"""Tasks in worker processes of this machine, several at the same time.

Small images keep one Python process from using two cores: at 32 px, two trainings of one thread each are half as fast
again as one of two threads. A worker writes the files that a single process would write.
"""

import os
import signal
from collections.abc import Callable, Sequence
from typing import Any, Self

from nilr.errors import Interrupted
from nilr.recipes.common.processes import Child, KilledError, Parent, end, ready
from nilr.recipes.common.tasks import Ending, Message, Task, portable
from nilr.signals import unwinding


class Pool:
    """Executes tasks in processes that take one task after the other; a process that a signal ends is not replaced."""

    def __init__(self, slots: int, note: Callable[[str], object]) -> None:
        self.slots, self.note = slots, note
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        end(self._workers)

    def submit(self, tasks: Sequence[Task]) -> "list[_Worker]":
        """Send each task to an idle worker, or to a new one."""
        idle = [worker for worker in self._workers if worker.idle][: len(tasks)]
        first = len(self._workers)
        self._workers.extend(_Worker(self) for _ in tasks[len(idle) :])  # one by one: a signal may arrive in between
        workers = [*idle, *self._workers[first:]]
        for worker, task in zip(workers, tasks, strict=True):
            worker.begin(task)
        return workers

    def wait(self, jobs: "Sequence[_Worker]") -> "list[_Worker]":
        """Wait until some workers have sent a message or have ended; note stopped ones."""
        return ready(jobs, self.note)

    def remove(self, worker: "_Worker") -> None:
        """Continue without a worker."""
        self._workers.remove(worker)
        self.slots -= 1


class _Worker(Child):
    """A process that executes one task after the other."""

    def __init__(self, pool: Pool) -> None:
        super().__init__("a task", _work)
        self._pool, self.idle = pool, True
        self._ending: Ending | None = None

    def begin(self, task: Task) -> None:
        """Begin with a task."""
        self.task, self.idle, self._ending = f"`{task.name}`", False, None
        self.send(task)

    def messages(self) -> list[Message]:
        """Return the next message, unless it is the end of the task."""
        try:
            message = self.receive(self._pool.note)
        except KilledError:
            self._pool.remove(self)
            raise
        if isinstance(message, Ending):
            self._ending = message
            return []
        return [message]

    def done(self) -> bool:
        """Return whether the task has ended."""
        return self._ending is not None

    def result(self) -> Any:  # noqa: ANN401 - whatever the task's function returns
        """Return the task's result, or raise its error; the worker is idle then."""
        ending, self._ending, self.idle = self._ending or Ending(), None, True
        return ending.result()


def _work(parent: Parent) -> None:
    """Execute the tasks that the parent process sends."""
    try:
        task: Task = parent.receive()  # imports torch, while a signal still ends this process on the spot
        with unwinding():
            while True:
                parent.send(task.perform(parent.send))
                task = parent.receive()
    except Interrupted as interrupted:
        signal.signal(interrupted.signum, signal.SIG_DFL)
        os.kill(os.getpid(), interrupted.signum)
    except Exception as error:
        parent.send(Ending(error=portable(error)))
