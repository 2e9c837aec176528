"""Several models of an experiment at the same time, each in a worker process.

Small images keep one Python process from using two cores: at 32 px, two trainings of one thread each are half as fast
again as one of two threads. A worker writes the files that a single process would write.
"""

import os
import pickle
import signal
import traceback
from collections.abc import Sequence

import torch

from nilr.errors import Interrupted, NilrError, UsageError
from nilr.recipes.common.processes import Child, KilledError, Parent, end, ready
from nilr.recipes.reproduce.plan import ExperimentPlan, PlannedModel
from nilr.recipes.reproduce.progress import ExperimentProgress, Relay, work
from nilr.reporting import Reporter
from nilr.signals import unwinding
from nilr.words import counted

MOST = 8


def number_of_jobs(jobs: int | None, device: torch.device, models: int) -> int:
    """Return how many models are trained or probed at the same time.

    Args:
        jobs: as requested; None: one per CPU thread, on a GPU one.
        device: the device they compute on.
        models: models that are not finished; there are no more jobs than that.
    """
    wanted = jobs or (min(MOST, torch.get_num_threads()) if device.type == "cpu" else 1)
    return max(1, min(wanted, models))


def work_in_parallel(
    plan: ExperimentPlan, models: Sequence[PlannedModel], jobs: int, progress: ExperimentProgress, reporter: Reporter
) -> None:
    """Train the models and measure each trained one, several at a time, in the experiment's order.

    A model whose training uses another model's rates waits for it. If a signal ends a job, the other jobs continue
    without it.

    Raises:
        KilledError: a signal ended the last job.
        NilrError: a job failed; the other trainings save what is finished.
        Interrupted: a signal arrived; trainings save what is finished.
    """
    waiting = list(models)
    workers: list[_Worker] = []
    try:
        workers.extend(_Worker(plan) for _ in range(jobs))  # one by one: a signal may arrive in between
        busy: dict[_Worker, PlannedModel] = {}
        while waiting or busy:
            for worker in [worker for worker in workers if worker not in busy]:
                unfinished = {model.name for model in (*waiting, *busy.values())}
                startable = (model for model in waiting if model.reference not in unfinished)
                if (model := next(startable, None)) is None:
                    break
                waiting.remove(model)
                busy[worker] = model
                worker.begin(model)
                progress.begin(model)
            for worker in ready(list(busy), reporter.note):
                try:
                    if progress.handle(busy[worker], worker.receive(reporter.note), len(workers)):
                        del busy[worker]
                except KilledError as error:
                    workers.remove(worker)
                    if not workers:
                        raise
                    waiting.insert(0, busy.pop(worker))
                    progress.stop(waiting[0])
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


def _work(parent: Parent, plan: ExperimentPlan) -> None:
    """Train and measure the models that the parent process sends."""
    relay = Relay(parent.send)
    try:
        with unwinding():
            while True:
                work(plan, parent.receive(), relay)
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
