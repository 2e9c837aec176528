"""Several models of an experiment at the same time, each in a worker process.

Small images keep one Python process from using two cores: at 32 px, two trainings of one thread each are half as fast
again as one of two threads. A worker writes the files that a single process would write.
"""

import os
import pickle
import signal
import time
import traceback
from collections import deque

import torch

from nilr.errors import Interrupted, NilrError, UsageError
from nilr.recipes.common.processes import Child, KilledError, Parent, end, ready
from nilr.recipes.reproduce.plan import ExperimentPlan, PlannedModel, measure, train
from nilr.reporting import Reporter, SilentReporter
from nilr.signals import unwinding
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

    If a signal ends a job, the other jobs continue without it.

    Raises:
        KilledError: a signal ended the last job.
        NilrError: a job failed; the other trainings save what is finished.
        Interrupted: a signal arrived; trainings save what is finished.
    """
    waiting = deque(models)
    reporter.stage(f"reproduce, {counted(jobs, 'model')} at a time", len(models), unit="models")
    workers: list[_Worker] = []
    try:
        workers.extend(_Worker(plan) for _ in range(jobs))  # one by one: a signal may arrive in between
        busy: dict[_Worker, PlannedModel] = {}
        while waiting or busy:
            for worker in [worker for worker in workers if worker not in busy][: len(waiting)]:
                busy[worker] = waiting.popleft()
                worker.begin(busy[worker])
            for worker in ready(list(busy), reporter.note):
                try:
                    if worker.relay(reporter):
                        del busy[worker]
                        reporter.advance()
                except KilledError as error:
                    workers.remove(worker)
                    if not workers:
                        raise
                    waiting.appendleft(busy.pop(worker))
                    reporter.note(f"{error.message}; continuing with {counted(len(workers), 'job')}")
    finally:
        end(workers)


class _Worker(Child):
    """A process that trains and measures one model after the other."""

    def __init__(self, plan: ExperimentPlan) -> None:
        super().__init__("a model", _work, plan)

    def begin(self, model: PlannedModel) -> None:
        """Begin with a model."""
        self.task = f"`{model.name}`"
        self.send(model)

    def relay(self, reporter: Reporter) -> bool:
        """Pass one message on to the reporter, and return whether the model is finished.

        Raises:
            NilrError: the process has ended.
            Exception: as raised in the process.
        """
        message = self.receive(reporter.note)
        if isinstance(message, dict):
            reporter.metric(**message)
        elif isinstance(message, str):
            reporter.note(message if self.task in message else f"{self.task}: {message}")
        elif isinstance(message, BaseException):
            raise message
        return message is None


class _Relay(SilentReporter):
    """Sends the progress of a step, and notes for the user, to the parent process."""

    def __init__(self, parent: Parent) -> None:
        self.send = parent.send  # metrics, a note, an error, or None for a model that is finished
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


def _work(parent: Parent, plan: ExperimentPlan) -> None:
    """Train and measure the models that the parent process sends."""
    relay = _Relay(parent)
    try:
        with unwinding():
            while True:
                model = parent.receive()
                relay.begin(f"{model.name} training share")
                train(plan, model, relay)
                for name, measurement in plan.measurements(model).items():
                    relay.begin(f"{model.name} {name} share")
                    measure(plan, model, measurement, relay)
                relay.begin(None)
                relay.send(None)
    except Interrupted as interrupted:
        signal.signal(interrupted.signum, signal.SIG_DFL)
        os.kill(os.getpid(), interrupted.signum)
    except Exception as error:
        relay.send(portable(error))


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
