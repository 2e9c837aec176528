from __future__ import annotations

import errno
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nilr.config.commands import ReproduceSettings
from nilr.errors import DivergedError, NilrError, UnknownNameError, UsageError
from nilr.recipes import reproduce
from nilr.recipes.reproduce import pool
from nilr.recipes.reproduce.plan import ExperimentPlan, PlannedModel
from nilr.recipes.reproduce.pool import number_of_jobs, portable
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


def test_the_error_of_a_job_is_the_error_of_the_experiment(tmp_path: Path) -> None:
    home = tmp_path / "home"
    model = home / "models" / "demo-metasgd-s0"
    model.mkdir(parents=True)
    (model / "last.safetensors").write_bytes(b"no model")
    with pytest.raises(NilrError, match=r"training\.safetensors") as error:
        reproduce.run(tiny(home, jobs=2, threads=2), Listening())
    assert error.value.exit_status == 1
    assert (model / "last.safetensors").read_bytes() == b"no model"


def test_a_model_that_uses_another_one_s_rates_begins_after_it_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DataUsed(name="x", digest="x", image_size=32)
    plan = ExperimentPlan(ReproduceSettings(preset="controls", seeds=2, home=tmp_path), Store(tmp_path), "x", data)
    log: list[str] = []

    class Worker:
        def __init__(self, _plan: ExperimentPlan) -> None:
            self.model: PlannedModel | None = None

        def begin(self, model: PlannedModel) -> None:
            self.model = model
            log.append(f"begin {model.name}")

        def receive(self, _note: Any) -> None:
            assert self.model is not None
            log.append(f"end {self.model.name}")

    class Progress:
        def begin(self, _model: PlannedModel) -> None: ...
        def handle(self, *_: Any) -> bool:
            return True

    def last_one(busy: list[Worker], _note: Any) -> list[Worker]:
        # Meta-SGD of seed 0 takes the longest
        others = [worker for worker in busy if worker.model and worker.model.name != "cpu-metasgd-s0"]
        return (others or busy)[-1:]

    monkeypatch.setattr(pool, "_Worker", Worker)
    monkeypatch.setattr(pool, "ready", last_one)
    monkeypatch.setattr(pool, "end", lambda workers: None)
    progress: Any = Progress()
    pool.work_in_parallel(plan, plan.models, 3, progress, Listening())
    assert sorted(log) == sorted(f"{what} {model.name}" for what in ("begin", "end") for model in plan.models)
    dependent = [model for model in plan.models if model.reference is not None]
    assert {model.run.name for model in dependent} == {"maml-mean-rates", "metasgd-nonneg-norm"}
    for model in dependent:
        assert model.reference == f"cpu-metasgd-s{model.seed}"
        assert log.index(f"end {model.reference}") < log.index(f"begin {model.name}")
    # the others do not wait
    assert log.index("begin cpu-metasgd-5step-s1") < log.index("end cpu-metasgd-s0")


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


def test_a_cpu_runs_one_job_per_thread_and_a_gpu_one_but_never_more_than_models(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert number_of_jobs(None, cpu, models=20) == 3
    assert number_of_jobs(None, cpu, models=2) == 2
    assert number_of_jobs(None, cpu, models=0) == 1
    assert number_of_jobs(None, gpu, models=20) == 1
    assert number_of_jobs(5, gpu, models=20) == 5
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert number_of_jobs(None, cpu, models=20) == pool.MOST
