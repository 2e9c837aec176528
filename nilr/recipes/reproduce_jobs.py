"""Trainings and probes at the same time, each in a process of its own.

Small images keep one Python process from using two cores: at 32 px, two trainings of one thread each do half as much
again as one of two threads. A process writes its results as it would alone; the files are the same whichever way.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from nilr.errors import Interrupted, NilrError, UsageError
from nilr.recipes.bench_worker import START
from nilr.recipes.reproduce_plan import Plan, Trained, model_runs
from nilr.recipes.reproduce_steps import Steps
from nilr.reporting import Reporter, SilentReporter
from nilr.results import DataUsed
from nilr.signals import unwinding

MOST = 8
_TOLD_EVERY = 0.5
_URGENT_SECONDS = 5.0


def at_once(jobs: int | None, device: torch.device) -> int:
    """Return how many jobs to do at the same time: what was asked for, else one per CPU thread; one on a GPU."""
    return jobs or (min(MOST, torch.get_num_threads()) if device.type == "cpu" else 1)


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
        for telling.before, asked in enumerate(questions):
            telling.parts = len(questions)
            steps.ask(self.training, asked)

    @property
    def label(self) -> str:
        """What its progress is called."""
        return f"{self.training.model} {'asked' if self.asks else 'trained'} share"


def jobs_left(plan: Plan, data: DataUsed, reporter: Reporter) -> list[Job]:
    """Return what is to be done, in order: run by run, first all its trainings, then what their models are asked."""
    steps = Steps(plan, data, reporter)
    left = []
    for trainings in model_runs(plan.trainings).values():
        left += [Job(training, asks=False) for training in trainings if not steps.trained(training)]
        left += [Job(training, asks=True) for training in trainings if steps.questions_left(training)]
    return left


def work_ahead(plan: Plan, data: DataUsed, jobs: int, reporter: Reporter) -> None:
    """Do all trainings and probes of an experiment, several at a time, in the experiment's order.

    Args:
        plan: the experiment, with the threads of one job.
        data: the pack.
        jobs: how many at a time.
        reporter: told of the progress.

    Raises:
        NilrError: what a job raised; the others save what is finished.
        Interrupted: a signal came; trainings save what is finished.
    """
    waiting = jobs_left(plan, data, reporter)
    reporter.stage(f"reproduce, {jobs} at a time", len(waiting), unit="jobs")
    running: list[_Process] = []
    try:
        while waiting or running:
            for job in [job for job in waiting if job.ready([*waiting, *(process.job for process in running)])]:
                if len(running) < jobs:
                    waiting.remove(job)
                    running.append(_Process(plan, data, job))
            for process in _that_spoke(running):
                if not process.hear(reporter):
                    running.remove(process)
                    reporter.metric(**{process.job.label: None})
                    reporter.advance()
    finally:
        _stop(running)


class _Process:
    """The parent's end of a process that does one job."""

    def __init__(self, plan: Plan, data: DataUsed, job: Job) -> None:
        self.job = job
        context: Any = multiprocessing.get_context(START)
        context.set_forkserver_preload([__name__])
        self.here, there = context.Pipe(duplex=False)
        self._process = context.Process(target=_serve, args=(there, plan, data, job), daemon=True)
        self._process.start()
        there.close()

    def hear(self, reporter: Reporter) -> bool:
        """Pass on one thing that it says, and tell whether it goes on.

        Raises:
            NilrError: it failed, or ended without a word.
        """
        try:
            said = self.here.recv()
        except EOFError:
            raise NilrError(
                f"the process with `{self.job.training.model}` has ended; perhaps memory ran out",
                hint="the same command goes on; with --jobs 1 it takes less memory",
            ) from None
        if isinstance(said, float):
            reporter.metric(**{self.job.label: said})
        elif isinstance(said, str):
            model = self.job.training.model
            reporter.note(said if model in said else f"{model}: {said}")
        elif isinstance(said, _Failed):
            kind = UsageError if said.exit_status == UsageError.exit_status else NilrError
            raise kind(said.message, hint=said.hint)
        else:
            self.end()
        return not isinstance(said, _Done)

    def terminate(self) -> None:
        """Ask it to end; the second time, to end at once."""
        self._process.terminate()

    def end(self, timeout: float | None = None) -> None:
        """Wait for its end, hearing no more; after the timeout, in seconds, kill it."""
        try:
            while self.here.poll(timeout):
                self.here.recv()
        except (EOFError, OSError):
            pass
        else:
            self._process.kill()
        self._process.join()
        self.here.close()


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
            process.terminate()
        for process in running:
            process.end(_URGENT_SECONDS)
        raise


@dataclasses.dataclass(frozen=True)
class _Failed:
    message: str
    hint: str | None
    exit_status: int


class _Done:
    pass


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

    def tell(self, said: object) -> None:
        """Send it; where no one hears it any more, end as after a signal."""
        try:
            self._connection.send(said)
        except OSError:
            os.kill(os.getpid(), signal.SIGTERM)


def _serve(connection: Connection, plan: Plan, data: DataUsed, job: Job) -> None:
    os.setpgid(0, 0)  # a signal from the terminal is the parent's to answer
    telling = _Telling(connection)
    try:
        with unwinding():
            job.do(Steps(plan, data, telling), telling)
        telling.tell(_Done())
    except Interrupted:
        return
    except NilrError as error:
        telling.tell(_Failed(error.message, error.hint, error.exit_status))
    except Exception as error:
        telling.tell(_Failed(f"{job.training.model}: {type(error).__name__}: {error}", None, NilrError.exit_status))
