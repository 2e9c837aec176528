"""Trainings and probes at the same time, each in a process of its own.

Small images keep one Python process from using two cores: at 32 px, two trainings of one thread each do half as much
again as one of two threads. A process writes its results as it would alone; the files are the same whichever way.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from multiprocessing.connection import Connection, wait

import torch

from nilr.errors import Interrupted, NilrError, UsageError
from nilr.recipes.common.processes import Child, listen
from nilr.recipes.reproduce.plan import Plan, Trained, model_runs
from nilr.recipes.reproduce.steps import Left, Steps
from nilr.reporting import Reporter, SilentReporter
from nilr.results.records import DataUsed
from nilr.signals import STOPPING, heed_once, unwinding

MOST = 8
_TOLD_EVERY = 0.5


def at_once(jobs: int | None, device: torch.device, models: int) -> int:
    """Return how many jobs to do at the same time.

    Args:
        jobs: what was asked for; None: one per CPU thread, on a GPU one.
        device: where they compute.
        models: how many have something left to do: no more jobs than these.
    """
    wanted = jobs or (min(MOST, torch.get_num_threads()) if device.type == "cpu" else 1)
    return max(1, min(wanted, models))


@dataclasses.dataclass(frozen=True)
class Job:
    """To train a model, or to ask a trained one everything."""

    training: Trained
    asks: bool

    def ready(self, others: list[Job]) -> bool:
        """Tell whether it waits for none of the others: a model is asked when it is trained."""
        return not self.asks or Job(self.training, asks=False) not in others

    def do(self, steps: Steps, telling: _Telling) -> None:
        """Do it."""
        if not self.asks:
            steps.train(self.training)
            return
        questions = steps.questions(self.training).values()
        telling.parts = len(questions)
        for telling.before, asked in enumerate(questions):
            steps.ask(self.training, asked)

    @property
    def label(self) -> str:
        """What its progress is called."""
        return f"{self.training.model} {'asked' if self.asks else 'trained'} share"


def _in_order(plan: Plan, left: Left) -> list[Job]:
    """Return the jobs that are left: run by run, first all its trainings, then what their models are asked."""
    jobs = []
    for trainings in model_runs(plan.trainings).values():
        train = [training.model for training in left.train]
        jobs += [Job(training, asks=False) for training in trainings if training.model in train]
        jobs += [Job(training, asks=True) for training in trainings if training.model in left.ask]
    return jobs


def work_ahead(plan: Plan, data: DataUsed, left: Left, jobs: int, reporter: Reporter) -> None:
    """Do all trainings and probes that are left of an experiment, several at a time, in the experiment's order.

    Args:
        plan: the experiment, with the threads of one job.
        data: the pack.
        left: what is not done.
        jobs: how many at a time.
        reporter: told of the progress.

    Raises:
        NilrError: what a job raised, or it ended without a word; the others save what is finished.
        Interrupted: a signal came; trainings save what is finished.
    """
    waiting = _in_order(plan, left)
    reporter.stage(f"reproduce, {jobs} at a time", len(waiting), unit="jobs")
    running: list[_Process] = []
    try:
        while waiting or running:
            ready = [job for job in waiting if job.ready([*waiting, *(process.job for process in running)])]
            for job in ready[: jobs - len(running)]:
                waiting.remove(job)
                running.append(_Process(plan, data, job))
                running[-1].start()
            for process in _that_spoke(running):
                if not process.hear(reporter):
                    process.end()
                    running.remove(process)
                    reporter.metric(**{process.job.label: None})
                    reporter.advance()
    finally:
        _stop(running)


class _Process(Child):
    """A process that does one job."""

    def __init__(self, plan: Plan, data: DataUsed, job: Job) -> None:
        super().__init__(_serve, plan, data, job)
        self.job = job

    def hear(self, reporter: Reporter) -> bool:
        """Pass on one thing that it says, and tell whether it goes on.

        Raises:
            NilrError: it ended without a word.
            Exception: what it raised; a signal that it alone heard, too.
        """
        model = self.job.training.model
        try:
            said = self.here.recv()
        except (EOFError, OSError):
            raise NilrError(
                f"the process with `{model}` has ended; perhaps memory ran out",
                hint="the same command goes on; with --jobs 1 it takes less memory",
            ) from None
        if isinstance(said, float):
            reporter.metric(**{self.job.label: said})
        elif isinstance(said, str):
            reporter.note(said if model in said else f"{model}: {said}")
        elif isinstance(said, BaseException):
            raise said
        return said is not None

    def terminate(self) -> None:
        """Ask it to save what is finished and end."""
        if self.process.pid is not None:
            self.process.terminate()

    def kill(self) -> None:
        """End it at once."""
        if self.process.pid is not None:
            self.process.kill()

    def end(self) -> None:
        """Wait for its end, hearing no more of what it says."""
        try:
            while self.process.pid is not None:
                self.here.recv()
        except (EOFError, OSError):
            self.process.join()


def _that_spoke(running: list[_Process]) -> list[_Process]:
    ready = wait([process.here for process in running])
    return [process for process in running if process.here in ready]


def _stop(running: list[_Process]) -> None:
    """Ask all to end, and wait for what they save; where a signal comes meanwhile, wait no longer."""
    try:
        for process in running:
            process.terminate()
        for process in running:
            process.end()
    except Interrupted:
        for process in running:
            process.kill()
        raise


class _Telling(SilentReporter):
    """Tells the parent how far a job is, and what the user should read.

    Attributes:
        before: how many of the job's parts are done.
        parts: how many it has.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.before, self.parts = 0, 1
        self._done, self._total = 0, 0
        self._told = 0.0

    def stage(self, title: str, total: int | None = None, *, done: int = 0, unit: str = "steps") -> None:
        """Begin to count."""
        self._done, self._total = done, total or 0

    def advance(self, n: int = 1) -> None:
        """Count, and tell it now and then."""
        self._done += n
        if time.monotonic() - self._told > _TOLD_EVERY:
            self._told = time.monotonic()
            self.tell((self.before + self._done / max(self._done, self._total)) / self.parts)

    def note(self, message: str) -> None:
        """Pass it on."""
        self.tell(message)

    def tell(self, said: float | str | BaseException | None) -> None:
        """Send it: a share of the job, a note, what ended it, or None where it is done."""
        with contextlib.suppress(OSError):  # nobody hears it any more
            self._connection.send(said)


def _serve(connection: Connection, plan: Plan, data: DataUsed, job: Job) -> None:
    telling = _Telling(connection)
    heed_once()  # a terminal sends a signal to every process, and so does the parent then
    try:
        with unwinding():
            listen(*STOPPING)
            threading.Thread(target=_end_with_parent, daemon=True).start()
            job.do(Steps(plan, data, telling), telling)
        telling.tell(None)
    except Interrupted as interrupted:
        telling.tell(Interrupted(interrupted.signum))
    except Exception as error:
        telling.tell(portable(error))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def portable(error: Exception) -> Exception:
    """Return an error that can be sent to another process, with the traceback as its note."""
    if isinstance(error, NilrError):
        kind = UsageError if isinstance(error, UsageError) else NilrError
        sent: Exception = kind(error.message, hint=error.hint)
    else:
        try:
            sent = pickle.loads(pickle.dumps(error))  # noqa: S301 - its own bytes
        except Exception:
            sent = RuntimeError(f"{type(error).__name__}: {error}")
    sent.add_note("".join(traceback.format_exception(error)))
    return sent
