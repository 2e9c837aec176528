"""Several models of an experiment at the same time, each in a worker process.

Small images keep one Python process from using two cores: at 32 px, two trainings of one thread each are half as fast
again as one of two threads. A worker writes the files that a single process would write.
"""

import contextlib
import os
import pickle
import queue
import signal
import threading
import time
import traceback
from collections import deque
from multiprocessing.connection import Connection, wait

import torch

from nilr.errors import Interrupted, NilrError, UsageError
from nilr.recipes.common.processes import Child, end
from nilr.recipes.reproduce.plan import ExperimentPlan, PlannedModel, measure, train
from nilr.reporting import Reporter, SilentReporter
from nilr.signals import ignore_repeated_signals, unwinding
from nilr.words import counted

MOST = 8
_SECONDS_BETWEEN_REPORTS = 0.5


def number_of_jobs(jobs: int | None, device: torch.device, models: int) -> int:
    """Return how many models are trained or probed at the same time.

    Args:
        jobs: as requested; None: one per CPU thread, on a GPU one.
        device: the device they compute on.
        models: models that are not finished; there are no more jobs than that.
    """
    wanted = jobs or (min(MOST, torch.get_num_threads()) if device.type == "cpu" else 1)
    return max(1, min(wanted, models))


def work_ahead(plan: ExperimentPlan, models: list[PlannedModel], jobs: int, reporter: Reporter) -> None:
    """Train the models and measure each trained one, several at a time, in the experiment's order.

    Raises:
        NilrError: a job failed or its process ended; the other trainings save what is finished.
        Interrupted: a signal arrived; trainings save what is finished.
    """
    waiting = deque(models)
    reporter.stage(f"reproduce, {counted(jobs, 'model')} at a time", len(models), unit="models")
    workers: list[_Worker] = []
    try:
        workers.extend(_Worker(plan) for _ in range(jobs))  # one by one: a signal may arrive in between
        busy = [worker for worker in workers if worker.begin(waiting)]
        while busy:
            ready = wait([worker.connection for worker in busy])
            for worker in [worker for worker in busy if worker.connection in ready]:
                if worker.relay(reporter):
                    reporter.advance()
                    if not worker.begin(waiting):
                        busy.remove(worker)
    finally:
        end(workers)


class _Worker(Child):
    """A process that trains and measures one model after the other."""

    def __init__(self, plan: ExperimentPlan) -> None:
        super().__init__("a model", _work, plan)

    def begin(self, waiting: deque[PlannedModel]) -> bool:
        """Begin the next model, and return whether there is one."""
        if not waiting:
            return False
        model = waiting.popleft()
        self.task = f"`{model.name}`"
        self.send(model)
        return True

    def relay(self, reporter: Reporter) -> bool:
        """Pass one message on to the reporter, and return whether the model is finished.

        Raises:
            NilrError: the process has ended.
            Exception: as raised in the process.
        """
        message = self.receive()
        if isinstance(message, dict):
            reporter.metric(**message)
        elif isinstance(message, str):
            reporter.note(message if self.task in message else f"{self.task}: {message}")
        elif isinstance(message, BaseException):
            raise message
        return message is None


class _Relay(SilentReporter):
    """Sends the progress of a step, and notes for the user, to the parent process."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._label: str | None = None
        self._done, self._total = 0, 0
        self._sent_at = 0.0

    def begin(self, label: str | None) -> None:
        """Remove the progress of the last step, and name that of the next one."""
        if self._label:
            self.send({self._label: None})
        self._label = label

    def stage(self, title: str, total: int | None = None, *, done: int = 0, unit: str = "steps") -> None:
        """Begin to count."""
        self._done, self._total = done, total or 0

    def advance(self, n: int = 1) -> None:
        """Count, and send the share that is done from time to time."""
        self._done += n
        if time.monotonic() - self._sent_at > _SECONDS_BETWEEN_REPORTS:
            self._sent_at = time.monotonic()
            self.send({f"{self._label}": self._done / max(self._done, self._total)})

    def note(self, message: str) -> None:
        """Send the note."""
        self.send(message)

    def send(self, message: dict[str, float | None] | str | BaseException | None) -> None:
        """Send metrics, a note, an error, or None for a model that is finished."""
        with contextlib.suppress(OSError):  # a training must be saved even if the parent process has ended
            self._connection.send(message)


def _work(connection: Connection, plan: ExperimentPlan) -> None:
    """Train and measure the models that the parent process sends, until it closes the connection."""
    relay, models = _Relay(connection), queue.SimpleQueue[PlannedModel]()
    ignore_repeated_signals()  # a job scheduler, the terminal and the parent process may all send one
    try:
        with unwinding():
            threading.Thread(target=_receive, args=(connection, models), daemon=True).start()
            while True:
                model = models.get()
                relay.begin(f"{model.name} training share")
                train(plan, model, relay)
                for name, measurement in plan.measurements(model).items():
                    relay.begin(f"{model.name} {name} share")
                    measure(plan, model, measurement, relay)
                relay.begin(None)
                relay.send(None)
    except Interrupted as interrupted:
        relay.send(Interrupted(interrupted.signum))
    except Exception as error:
        relay.send(portable(error))


def _receive(connection: Connection, models: queue.SimpleQueue[PlannedModel]) -> None:
    """Receive models until the connection closes or the parent process ends; then end this process gracefully."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            models.put(connection.recv())
    os.kill(os.getpid(), signal.SIGTERM)


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
