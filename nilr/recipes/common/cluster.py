"""Tasks as jobs of Slurm, or of submitit's stand-in for it on this machine.

A job writes its messages to its log, one JSON value per line. If it is preempted, it saves what is finished and
submitit queues the same job again. A job must handle signals before it imports torch, so this module imports little.
"""

import contextlib
import importlib.util
import json
import logging
import os
import pickle
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from nilr.config.base import ClusterSettings
from nilr.errors import Interrupted, NilrError, UsageError
from nilr.recipes.common.processes import SECONDS_TO_END, search_path
from nilr.recipes.common.tasks import Ending, Message, Task, portable
from nilr.signals import ignore_repeated_signals, unwinding

if TYPE_CHECKING:
    import submitit

_MINUTES = {"slurm": 4 * 60, "local": 30 * 24 * 60}
_MOST_TIMEOUTS = 1000  # each time limit that a job reaches brings it forward
_SECONDS_BETWEEN_CHECKS = {"slurm": 2.0, "local": 0.2}
_SECONDS_BETWEEN_QUERIES = 60.0
_CANCELLED = "cancelled"  # a file in the folder of the jobs


def check_cluster(settings: ClusterSettings) -> None:
    """Check before the work that jobs can be submitted.

    Raises:
        UsageError: a setting describes jobs, but there is no cluster.
        NilrError: submitit or Slurm is missing.
    """
    if settings.cluster is None:
        for name in ("partition", "time", "memory", "gpus"):
            if getattr(settings, name) is not None:
                raise UsageError(f"--{name} describes jobs of a cluster", hint="add --cluster slurm or --cluster local")
        return
    if importlib.util.find_spec("submitit") is None:
        raise NilrError(
            "--cluster needs submitit, which is not installed", hint="install it: pip install 'nilr[slurm]'"
        )
    if settings.cluster == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
        hint = "run it on a login node of the cluster, or try --cluster local"
        raise NilrError("--cluster slurm needs the commands `sbatch` and `srun`, which are not here", hint=hint)


class Cluster:
    """Executes each task as a job; tasks that are submitted together are a job array.

    Args:
        settings: of the jobs.
        folder: a new directory for the files of the jobs, on a file system that all machines share.
        slots: the largest number of jobs at a time.
    """

    def __init__(self, settings: ClusterSettings, folder: Path, slots: int) -> None:
        import submitit

        self.slots, self._folder, self._jobs = slots, folder, list[_Job]()
        self._cluster = settings.cluster or "local"
        self._queried_at = time.monotonic()
        self._environment = {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(search_path())}
        variables = shlex.join(f"{name}={value}" for name, value in self._environment.items())
        specific: dict[str, Any] = {
            f"{self._cluster}_python": f"env {variables} {shlex.quote(sys.executable)}",
            f"{self._cluster}_max_num_timeout": _MOST_TIMEOUTS,
        }
        logging.getLogger("submitit").setLevel(logging.CRITICAL)  # it would write to standard output
        self._executor = submitit.AutoExecutor(folder, cluster=self._cluster, **specific)
        self._executor.update_parameters(
            name="nilr",
            timeout_min=settings.time or _MINUTES[self._cluster],
            mem_gb=settings.memory,
            gpus_per_node=self._gpus(settings),
            cpus_per_task=settings.threads,
            slurm_partition=settings.partition,
            slurm_array_parallelism=slots,
            slurm_additional_parameters={"requeue": True},
        )

    def _gpus(self, settings: ClusterSettings) -> int | None:
        if settings.gpus is not None:
            return settings.gpus
        if self._cluster == "slurm":
            return 1 if settings.device.startswith("cuda") else None
        import torch

        return torch.cuda.device_count()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            self._cancel()
        elif all(job.done() for job in self._jobs):
            shutil.rmtree(self._folder, ignore_errors=True)

    def submit(self, tasks: Sequence[Task]) -> "list[_Job]":
        """Submit tasks, several as a job array.

        Raises:
            NilrError: the cluster refuses them.
        """
        import submitit

        with self._inherited():
            try:
                with self._executor.batch():
                    jobs = [self._executor.submit(JobTask(task, self._folder)) for task in tasks]
            except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
                reason = " ".join(str(error).split())
                hint = "check --partition, --time, --memory, --gpus and --threads"
                raise NilrError(f"the cluster refuses the jobs: {reason}", hint=hint) from error
        submitted = [_Job(task.name, job) for task, job in zip(tasks, jobs, strict=True)]
        self._jobs += submitted
        return submitted

    @contextlib.contextmanager
    def _inherited(self) -> Iterator[None]:
        """Let jobs import what this process does, and let a Ctrl-C in the terminal end this process alone."""
        import submitit

        ignored = (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
        before = {signum: signal.signal(signum, signal.SIG_IGN) for signum in ignored}
        try:
            with submitit.helpers.environment_variables(**self._environment):
                yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def wait(self, jobs: "Sequence[_Job]") -> "list[_Job]":
        """Wait until some jobs have sent a message or have ended, and return these."""
        while True:
            if self._cluster == "slurm" and time.monotonic() - self._queried_at >= _SECONDS_BETWEEN_QUERIES:
                self._find_lost(jobs)
                self._queried_at = time.monotonic()
            if news := [job for job in jobs if job.read() or job.done()]:
                return news
            time.sleep(_SECONDS_BETWEEN_CHECKS[self._cluster])

    def _find_lost(self, jobs: "Sequence[_Job]") -> None:
        """Count how often jobs are missing in Slurm's queue; not every cluster keeps accounts of ended jobs."""
        command = ["squeue", "--noheader", "--array", "--format=%i", f"--user={os.getuid()}"]
        queue = subprocess.run(command, capture_output=True, text=True, check=False)
        if queue.returncode == 0:
            for job in jobs:
                job.absences = 0 if job.number in queue.stdout.split() else job.absences + 1

    def _cancel(self) -> None:
        """End all jobs; wait until those of this machine have saved their state."""
        (self._folder / _CANCELLED).touch()
        deadline = time.monotonic() + SECONDS_TO_END
        running = [job for job in self._jobs if not job.done()]
        while running and time.monotonic() < deadline:
            for job in running:
                job.cancel()
            if self._cluster == "slurm":
                return  # Slurm gives them time to save
            time.sleep(1.0)
            running = [job for job in running if not job.done()]


class _Job:
    """A job of a task."""

    def __init__(self, name: str, job: "submitit.Job[Ending]") -> None:
        self._name, self._job = name, job
        self.number, self.absences = job.job_id, 0
        self._messages: list[Message] = []
        self._read = 0  # bytes of the log

    def read(self) -> bool:
        """Read new messages from the log, and return whether there are any."""
        with contextlib.suppress(OSError), self._job.paths.stdout.open("rb") as log:
            log.seek(self._read)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                with contextlib.suppress(ValueError):
                    match json.loads(line):
                        case str(note):
                            self._messages.append(note)
                        case [str(step), float(share)]:
                            self._messages.append((step, share))
        return bool(self._messages)

    def messages(self) -> list[Message]:
        """Return the messages since the last call."""
        self.read()
        messages, self._messages = self._messages, []
        return messages

    def done(self) -> bool:
        """Return whether the job has ended."""
        return self._job.done() or self.absences > 1

    def result(self) -> Any:  # noqa: ANN401 - whatever the task's function returns
        """Return what the task returned, or raise its error; NilrError if the job ended without either."""
        import submitit

        try:
            if self._job.done():
                return self._job.result().result()
        except submitit.core.utils.UncompletedJobError:
            pass
        problem = f"job {self.number} for `{self._name}` ended without a result ({self._job.state.lower()})"
        raise NilrError(problem, hint=f"read its log: {self._job.paths.stderr}")

    def cancel(self) -> None:
        """Let the job save its state and end."""
        from submitit.local.local import LocalJob

        if isinstance(self._job, LocalJob):  # its own `cancel` kills a job after a second
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(self.number), signal.SIGTERM)
        else:
            self._job.cancel(check=False)


class JobTask:
    """What a job executes: a task, and the same task again after a preemption.

    SIGUSR1, SIGUSR2 (submitit's signal before the time limit) and SIGTERM preempt it, unless SIGTERM comes from a
    cancellation. The task saves its state, and submitit's own handler then saves this object and queues the job again.
    """

    def __init__(self, task: Task, folder: Path) -> None:
        self._task, self._folder = pickle.dumps(task), folder
        self._preempted = False

    def __call__(self) -> Ending:
        """Execute the task in the job."""
        from submitit import JobEnvironment

        ignore_repeated_signals()
        chosen = signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]
        queue_again: Any = signal.getsignal(chosen)
        for signum in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(signum, self._preempt)
        try:
            with unwinding():
                task: Task = pickle.loads(self._task)  # noqa: S301 - its own bytes
                return task.perform(_write)
        except Interrupted as interrupted:
            if self._preempted or (interrupted.signum == signal.SIGTERM and not self._is_cancelled()):
                queue_again(chosen)  # does not return
            sys.exit(128 + interrupted.signum)
        except Exception as error:
            return Ending(error=portable(error))

    def checkpoint(self) -> "submitit.helpers.DelayedSubmission":
        """Return what the job executes when it starts again."""
        from submitit.helpers import DelayedSubmission

        self._preempted = False
        return DelayedSubmission(self)

    def _preempt(self, *_: object) -> None:
        self._preempted = True
        signal.raise_signal(signal.SIGTERM)

    def _is_cancelled(self) -> bool:
        if (self._folder / _CANCELLED).exists():
            return True
        job = os.environ.get("SLURM_JOB_ID")
        if job is None:
            return False
        # A job that is preempted with a time of grace is still running.
        shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=False)
        return "JobState=RUNNING" not in shown.stdout


def _write(message: Message) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
