from __future__ import annotations

import contextlib
import errno
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from nilr.config.reproduce import ReproduceSettings
from nilr.errors import DivergedError, NilrError, UnknownNameError, UsageError
from nilr.recipes import reproduce
from nilr.recipes.common.tasks import Message, Task, execute, portable
from nilr.recipes.reproduce import number_of_jobs
from nilr.recipes.reproduce.plan import ExperimentPlan
from nilr.recipes.reproduce.progress import work
from nilr.results.records import DataUsed
from nilr.results.reproduce import ReproduceMetrics
from nilr.results.result import Result
from nilr.store import Store
from tests.recipes.listening import Listening
from tests.recipes.reproduce.conftest import tiny

pytestmark = [pytest.mark.usefixtures("home")]


def results(home: Path) -> set[str]:
    return {path.name for path in (home / "reproduce" / "demo").glob("*.json")}


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nilr.recipes.report.run", lambda settings, reporter: None)


@pytest.fixture(autouse=True)
def threads_left_as_they_were() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("no_report")
def test_two_models_at_a_time_give_the_same_results_and_files_as_one(
    finished: Result[ReproduceMetrics], home: Path, tmp_path: Path
) -> None:
    reporter = Listening()
    two = reproduce.run(tiny(tmp_path / "two", jobs=2, threads=2), reporter)
    assert two.metrics == finished.metrics
    assert two.models == finished.models
    assert results(tmp_path / "two") == results(home)
    assert (two.config["jobs"], finished.config["jobs"]) == (2, 1)
    begun = [note for note in reporter.notes if ": new; " in note]
    assert len(begun) == len(set(begun)) == 4  # each training was one process's

    again = Listening()
    assert reproduce.run(tiny(tmp_path / "two", jobs=2, threads=2), again).metrics == two.metrics
    assert again.notes[0] == "all trainings and probes are finished"


@pytest.mark.slow
def test_the_error_of_a_job_is_the_error_of_the_experiment(tmp_path: Path) -> None:
    home = tmp_path / "home"
    model = home / "models" / "demo-metasgd-s0"
    model.mkdir(parents=True)
    (model / "last.safetensors").write_bytes(b"no model")
    with pytest.raises(NilrError, match=r"training\.safetensors") as error:
        reproduce.run(tiny(home, jobs=2, threads=2), Listening())
    assert error.value.exit_status == 1
    assert (model / "last.safetensors").read_bytes() == b"no model"


@dataclass(eq=False)
class Call:
    """A job that ends when it is chosen."""

    task: Task

    def messages(self) -> list[Message]:
        return []

    def done(self) -> bool:
        return True

    def result(self) -> str:
        return self.task.name.upper()


class OneByOne(contextlib.nullcontext[Any]):
    """Ends the last job that was submitted first, and `longest` at the very end."""

    slots, longest = 3, "cpu-metasgd-s0"

    def __init__(self) -> None:
        super().__init__(self)
        self.log: list[str] = []

    def submit(self, tasks: Sequence[Task]) -> list[Call]:
        self.log += [f"begin {task.name}" for task in tasks]
        return [Call(task) for task in tasks]

    def wait(self, jobs: Sequence[Call]) -> list[Call]:
        assert len(jobs) <= self.slots
        last = [*sorted(jobs, key=lambda job: job.task.name != self.longest)][-1:]
        self.log += [f"end {job.task.name}" for job in last]
        return last


def test_a_model_that_uses_another_one_s_rates_begins_after_it_is_finished(tmp_path: Path) -> None:
    data = DataUsed(name="x", digest="x", image_size=32)
    plan = ExperimentPlan(ReproduceSettings(preset="controls", seeds=2, home=tmp_path), Store(tmp_path), "x", data)
    executor, progress = OneByOne(), Mock()
    tasks = [Task(model.name, work, (plan, model), model.reference) for model in plan.models]
    results = execute(tasks, executor, progress, Listening())
    assert results == {model.name: model.name.upper() for model in plan.models}
    assert sorted(executor.log) == sorted(f"{what} {model.name}" for what in ("begin", "end") for model in plan.models)
    assert [call.args for call in progress.handle.call_args_list if call.args[0] == "cpu-maml-s0"] == [
        ("cpu-maml-s0", None, 3)
    ]
    dependent = [model for model in plan.models if model.reference is not None]
    assert {model.run.name for model in dependent} == {"maml-mean-rates", "metasgd-nonneg-norm"}
    for model in dependent:
        assert model.reference == f"cpu-metasgd-s{model.seed}"
        assert executor.log.index(f"end {model.reference}") < executor.log.index(f"begin {model.name}")
    # the others do not wait
    assert executor.log.index("begin cpu-metasgd-5step-s1") < executor.log.index("end cpu-metasgd-s0")


class UnsendableError(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/x/y"),
            OSError,
            "[Errno 28] No space left on device: '/x/y'",
        ),
        (MemoryError("all of it"), MemoryError, "all of it"),
        (UnknownNameError("engine", "x", ["y"]), UsageError, "unknown engine `x`"),
        (DivergedError("not finite", hint="train again"), NilrError, "not finite"),
        (UnsendableError("a", "b"), RuntimeError, "UnsendableError: a b"),
    ],
)
def test_an_error_is_sent_with_its_kind_its_message_and_its_traceback(
    error: Exception, kind: type[Exception], text: str
) -> None:
    try:
        raise error
    except Exception as raised:
        sent = pickle.loads(pickle.dumps(portable(raised)))
    assert (type(sent), str(sent)) == (kind, text)
    assert getattr(sent, "hint", None) == getattr(error, "hint", None)
    assert "raise error" in sent.__notes__[-1]


@pytest.mark.parametrize(
    ("jobs", "device", "models", "expected"),
    [
        (None, "cpu", 20, 3),
        (None, "cpu", 2, 2),
        (None, "cpu", 0, 1),
        (None, "cuda", 20, 1),
        (5, "cuda", 20, 5),
        (None, None, 20, 20),
        (5, None, 20, 5),
    ],
)
def test_a_cpu_runs_one_job_per_thread_a_gpu_one_and_slurm_all(
    jobs: int | None, device: str | None, models: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    on = None if device is None else torch.device(device)
    assert number_of_jobs(ReproduceSettings(jobs=jobs), on, models) == expected
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert number_of_jobs(ReproduceSettings(), torch.device("cpu"), 20) == reproduce.MOST_JOBS
