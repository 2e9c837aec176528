from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from nilr.config.bench import BenchSettings
from nilr.errors import NilrError
from nilr.recipes.bench import worker as bench_worker
from nilr.recipes.bench.plan import BenchPlan
from nilr.recipes.bench.worker import Job, Turn, Worker
from nilr.reporting import SilentReporter

TINY = {"image_size": 16, "filters": 4, "n_way": 2, "n_query": 2, "threads": 1}


def plan(**settings: Any) -> BenchPlan:
    return BenchPlan(BenchSettings(**(TINY | settings)), torch.device("cpu"))


def jobs(engine: str, **settings: Any) -> tuple[Job, Job]:
    made = plan(**settings)
    return made.jobs(made.training(algo="maml"), engine)


class FakeWorker:
    log: list[str]

    def __init__(self, job: Job) -> None:
        self.job, self.turns = job, 0

    def turn(self, note: object) -> Turn:
        self.turns += 1
        self.log.append(f"{self.job.task} {self.job.engine}")
        return Turn([float(self.turns)], 1, 2)

    def close(self) -> None:
        self.log.append(f"close {self.job.engine}")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    entries: list[str] = []
    monkeypatch.setattr(FakeWorker, "log", entries, raising=False)
    monkeypatch.setattr(bench_worker, "Worker", FakeWorker)
    return entries


def test_engines_take_turns_on_one_task_after_a_warm_up(log: list[str]) -> None:
    (a, _), (b, _) = jobs("a"), jobs("b")
    turns, rates = bench_worker.take_turns([a, b, a], plan().convolution("a"), 2, SilentReporter())
    assert log == [
        "convolution a",
        *["update a", "update b"] * 3,
        "close b",
        "close a",
        "convolution a",
        "close a",
    ]
    assert [turn.values for turn in turns[a]] == [[2.0], [3.0]]
    assert rates == [[2.0]]


def test_jobs_of_different_tasks_have_rounds_of_their_own(log: list[str]) -> None:
    wanted = [*jobs("a"), *jobs("b")]
    turns, rates = bench_worker.take_turns(wanted, plan().convolution("a"), 1, SilentReporter())
    assert set(turns) == set(wanted)
    assert len(rates) == 2
    assert log.index("evaluation a") > log.index("close a")


@pytest.mark.parametrize(("steps", "said"), [(0, "0 steps"), (1, "1 step"), (2, "2 steps")])
def test_the_title_of_a_task_has_its_number_of_steps(log: list[str], steps: int, said: str) -> None:
    titles: list[str] = []

    class Stages(SilentReporter):
        def stage(self, title: str, *_: Any, **__: Any) -> None:
            titles.append(title)

    evaluation = jobs("a", eval_inner_steps=steps)[1]
    bench_worker.take_turns([evaluation], plan().convolution("a"), 1, Stages())
    assert titles == [f"task 1 of 1, maml evaluation, 2-way 1-shot, {said}: a"]


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker(jobs("reference")[1])
    yield made
    made.close()


def test_a_worker_measures_seconds_and_memory(worker: Worker) -> None:
    first, second = worker.turn(print), worker.turn(print)
    assert first.values[0] > 0
    assert 10_000_000 < first.memory_before <= first.peak_memory <= second.peak_memory


def test_a_process_that_was_killed_is_an_error_that_names_the_engine(worker: Worker) -> None:
    worker.turn(print)
    os.kill(worker.process.pid, signal.SIGKILL)
    with pytest.raises(
        NilrError, match="the process for timing `reference` was ended by SIGKILL; the machine may have run out"
    ):
        worker.turn(print)


def test_the_error_of_a_worker_is_raised_by_the_parent() -> None:
    worker = Worker(dataclasses.replace(jobs("reference")[0], engine="warp"))
    with pytest.raises(NilrError, match="timing `warp` failed: unknown engine `warp`") as caught:
        worker.turn(print)
    worker.close()
    assert caught.value.hint is not None
    assert "reference" in caught.value.hint


def test_a_preset_decides_settings_without_a_flag() -> None:
    settings = BenchSettings(n_query=3)
    training = BenchPlan(settings, torch.device("cpu")).training(preset="finn-5shot")
    assert (training.n_shot, training.meta_batch_size, training.n_query) == (5, 2, 3)


def test_trainings_of_one_shape_are_one_job() -> None:
    made = plan()
    named, preset = made.training(algo="maml"), made.training(preset="quick")
    assert made.jobs(named, "a") == made.jobs(preset, "a")


@pytest.mark.parametrize(("device", "episodes"), [("cpu", 6), ("cuda", 4)])
def test_an_evaluation_keeps_every_thread_busy(one_thread: None, device: str, episodes: int) -> None:
    torch.set_num_threads(3)
    made = BenchPlan(BenchSettings(), torch.device(device))
    assert made.jobs(made.training(algo="maml"), "a")[1].episodes == episodes
