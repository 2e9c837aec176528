"""Loggers of a training: TensorBoard, Weights & Biases and MLflow.

Figures are logged when the training is saved. A resumed training continues after its last save, so it logs none twice.
"""

import contextlib
import importlib.util
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pydantic import JsonValue

from nilr.errors import NilrError, UnknownNameError, UsageError
from nilr.files import write_atomically
from nilr.reporting import Reporter

RUNS = "loggers.json"  # in the directory of a model: logger -> identifier of the run

_PROJECT = "nilr"  # of wandb, and experiment of MLflow
_MLFLOW_BATCH = 1000
_SECONDS_TO_UPLOAD = 60.0


class Figures(NamedTuple):
    """The figures after one update."""

    step: int
    values: Mapping[str, float]


class Run(NamedTuple):
    """What a logger shows as one run: the training of one model."""

    model: str
    settings: Mapping[str, JsonValue]
    directory: Path  # of all files of loggers
    identifier: str | None  # None for a run that this logger has not logged yet
    next_step: int


class Logger(Protocol):
    """Writes the figures of one run."""

    identifier: str
    is_new: bool  # whether the run has no figures yet
    place: str

    def log(self, lines: Sequence[Figures]) -> None:
        """Write figures to disk, or send them."""

    def close(self, *, complete: bool) -> None:
        """End the run; `complete` if the training has all its updates."""


class _TensorBoard:
    def __init__(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.identifier, directory = run.model, run.directory / "tensorboard" / run.model
        self.is_new, self.place = run.identifier is None or not directory.exists(), str(directory)
        # TensorBoard ignores earlier events from `purge_step` on: those of a replaced model, or of a killed process.
        self._writer = SummaryWriter(log_dir=str(directory), purge_step=0 if self.is_new else run.next_step)
        rows = [f"| {name} | {json.dumps(value)} |" for name, value in run.settings.items()]
        self._writer.add_text("settings", "\n".join(["| setting | value |", "|---|---|", *rows]), run.next_step)

    def log(self, lines: Sequence[Figures]) -> None:
        for step, values in lines:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, *, complete: bool) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, run: Run) -> None:
        import wandb

        directory = None if "WANDB_DIR" in os.environ else str(run.directory)
        run.directory.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            id=run.identifier,
            resume=None if run.identifier is None else "allow",
            name=run.model,
            dir=directory,
            reinit="create_new",  # several models may be trained at the same time
            settings=wandb.Settings(console="off", silent=True, finish_timeout=_SECONDS_TO_UPLOAD),
        )
        self._run.config.update(dict(run.settings), allow_val_change=True)
        self._run.define_metric("outer_step")
        self._run.define_metric("*", step_metric="outer_step")
        self.identifier, self.is_new = self._run.id, run.identifier is None
        self.place = str(Path(self._run.dir).parent if self._run.offline else self._run.url)

    def log(self, lines: Sequence[Figures]) -> None:
        for step, values in lines:
            self._run.log({"outer_step": step, **values})

    def close(self, *, complete: bool) -> None:
        self._run.finish(exit_code=0 if complete else 1)


class _MLflow:
    def __init__(self, run: Run) -> None:
        import mlflow

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it reports the creation of its tables
        if uri := os.environ.get("MLFLOW_TRACKING_URI"):
            self.place = "MLFLOW_TRACKING_URI"  # which may contain a password
        else:
            run.directory.mkdir(parents=True, exist_ok=True)
            self.place = uri = f"sqlite:///{run.directory.absolute()}/mlflow.db"
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        known = None if run.identifier is None else self._find(run.identifier)
        self.is_new, self.identifier = known is None, known or self._create(run)

    def _find(self, identifier: str) -> str | None:
        """Mark a run as running, and return its identifier; None if the store does not contain it."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.update_run(identifier, status="RUNNING")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return identifier

    def _create(self, run: Run) -> str:
        from mlflow.entities import Param

        experiment = os.environ.get("MLFLOW_EXPERIMENT_ID")
        if experiment is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
            found = self._client.get_experiment_by_name(name)
            experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        identifier = str(self._client.create_run(experiment, run_name=run.model).info.run_id)
        settings = [
            Param(name, value if isinstance(value, str) else json.dumps(value)) for name, value in run.settings.items()
        ]
        self._client.log_batch(identifier, params=settings)
        return identifier

    def log(self, lines: Sequence[Figures]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for step, values in lines for name, value in values.items()]
        for first in range(0, len(metrics), _MLFLOW_BATCH):
            self._client.log_batch(self.identifier, metrics=metrics[first : first + _MLFLOW_BATCH])

    def close(self, *, complete: bool) -> None:
        self._client.set_terminated(self.identifier, status="FINISHED" if complete else "KILLED")


LOGGERS: dict[str, Callable[[Run], Logger]] = {"tensorboard": _TensorBoard, "wandb": _Wandb, "mlflow": _MLflow}


def require_loggers(names: Iterable[str]) -> None:
    """Check that loggers are known, and that their libraries are installed.

    Raises:
        UsageError: a logger is unknown, or its library is missing.
    """
    for name in names:
        if name not in LOGGERS:
            raise UnknownNameError("logger", name, LOGGERS)
        library = importlib.util.find_spec(name)
        if library is None or library.origin is None:  # a folder without code, such as wandb's files
            hint = f"install it: pip install 'nilr[{name}]'"
            raise UsageError(f"--log {name} needs the package `{name}`, which is not installed", hint=hint)


class Loggers:
    """The loggers of one training.

    A logger that fails is switched off with a warning; it never ends the training.
    """

    def __init__(self) -> None:
        self._open: dict[str, Logger] = {}
        self._pending: list[Figures] = []
        self._model, self._reporter = Path(), Reporter()
        self.logged = False  # whether this process has logged figures

    def open(
        self,
        names: Iterable[str],
        model: Path,
        directory: Path,
        settings: Mapping[str, JsonValue],
        reporter: Reporter,
        *,
        outer_step: int = 0,
        history: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        """Open loggers, which continue the runs of a resumed training.

        Args:
            names: of the loggers.
            model: directory of the model.
            directory: of the loggers' files.
            settings: what to show beside the figures.
            reporter: for warnings.
            outer_step: number of updates that the training has.
            history: of a resumed training; a new run starts with it.

        Raises:
            NilrError: a logger of a new training cannot be opened.
        """
        self._model, self._reporter = model, reporter
        runs = _read_runs(model / RUNS) if outer_step else {}
        lines = [found for line in history if (found := figures(line)).values]
        for name in names:
            run = Run(model.name, {"model": model.name, **settings}, directory, runs.get(name), outer_step + 1)
            try:
                self._open[name] = logger = LOGGERS[name](run)
            except Exception as error:  # whatever a library raises
                if not outer_step:
                    hint = "correct this, or train without it"
                    raise NilrError(f"--log {name}: {_first_line(error)}", hint=hint) from error
                self._report(name, error)
                continue
            reporter.note(f"model `{model.name}`: {name} logs to `{logger.place}`")
            if logger.is_new and lines:
                self._call(name, partial(logger.log, lines))
        if outer_step:
            self._save_runs()

    def add(self, line: Mapping[str, Any]) -> None:
        """Add a line of the history, which is logged at the next `flush`."""
        if self._open and (found := figures(line)).values:
            self._pending.append(found)

    def flush(self) -> None:
        """Log all added lines, because the training is saved."""
        if not self._open:
            return
        if self._pending:
            self.logged = True
            for name, logger in list(self._open.items()):
                self._call(name, partial(logger.log, self._pending))
            self._pending = []
        self._save_runs()

    def close(self, *, complete: bool) -> None:
        """Close all loggers; lines that were added after the last `flush` are dropped."""
        for name, logger in list(self._open.items()):
            self._call(name, partial(logger.close, complete=complete))
        self._open.clear()

    def _save_runs(self) -> None:
        runs = _read_runs(self._model / RUNS)
        current = runs | {name: logger.identifier for name, logger in self._open.items()}
        if current != runs:
            with contextlib.suppress(NilrError):  # a later save of the training reports a full disk
                write_atomically(self._model / RUNS, json.dumps(current).encode())

    def _call(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever a library raises
            del self._open[name]
            self._report(name, error)

    def _report(self, name: str, error: Exception) -> None:
        self._reporter.note(f"model `{self._model.name}`: {name} failed and logs no more: {_first_line(error)}")


def figures(line: Mapping[str, Any]) -> Figures:
    """Return the figures of a line of the history: the mean of an interval, and each layer's figure."""
    return Figures(line["outer_step"], dict(_numbers(line)))


def _numbers(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in line.items():
        if isinstance(value, dict):
            yield from [(name, value["mean"])] if "mean" in value else [(f"{name}/{of}", n) for of, n in value.items()]
        elif not name.startswith("outer_step") and isinstance(value, int | float):
            yield name, value


def _read_runs(path: Path) -> dict[str, str]:
    """Return the identifiers of the runs of a model; none if the file is missing or invalid."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    valid = isinstance(found, dict) and all(isinstance(value, str) for value in found.values())
    return found if valid else {}


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
