from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field

import pytest

from nilr.config.experiments import Run
from nilr.config.meta_train import TrainSettings
from nilr.recipes.common.tasks import Relay
from nilr.recipes.reproduce.plan import PlannedModel
from nilr.recipes.reproduce.progress import ExperimentProgress
from nilr.reporting import SilentReporter


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    moved = Clock()
    monkeypatch.setattr(time, "monotonic", moved)
    return moved


@dataclass
class Seen(SilentReporter):
    """Keeps what is reported."""

    clock: Clock
    left: list[tuple[float, float]] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    count: int = 0
    values: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def stage(self, title: str, total: int | None = None, *, done: int = 0, unit: str = "steps") -> None:
        self.count = done

    def advance(self, n: int = 1) -> None:
        self.count += n

    def expect(self, seconds: float | None, share: float | None = None) -> None:
        if seconds is not None:
            self.left.append((self.clock.now, seconds))
        self.shares.append(share or 0.0)

    def metric(self, **values: float | None) -> None:
        self.values = {name: v for name, v in {**self.values, **values}.items() if v is not None}

    def note(self, message: str) -> None:
        self.notes.append(message)


def model(run: str, seed: int) -> PlannedModel:
    return PlannedModel(Run(run, "", {"algo": "maml"}), seed, f"{run}-s{seed}", TrainSettings())


TRUE = {"training": 200.0, "probe": 50.0}  # seconds


def do(progress: ExperimentProgress, jobs: list[list[PlannedModel]], clock: Clock) -> None:
    """Let each job do its models, in true time."""
    start, events = clock.now, []
    for models in jobs:
        at = start
        for one in models:
            for step, seconds in TRUE.items():
                events += [(at + seconds * i / 100, one, (step, i / 100)) for i in range(100)]
                at += seconds
            events.append((at, one, None))
    for at, one, message in sorted(events, key=lambda event: event[0]):
        clock.now = at
        progress.handle(one.name, message, len(jobs))


def test_the_time_left_follows_what_similar_steps_took_and_counts_whole_rounds_of_jobs(clock: Clock) -> None:
    models, seen = [model("maml", seed) for seed in range(4)], Seen(clock)
    costs = {one.name: {"training": 100.0, "probe": 10.0} for one in models}  # half, and a fifth of the truth
    shares = {one.name: {"training": 0.0, "probe": 0.0} for one in models}
    shares["maml-s3"] = {"training": 1.0, "probe": 1.0}
    progress = ExperimentProgress(models, costs, shares, 1.0, seen)
    assert progress.start(2) == 220.0  # three models in two jobs are two rounds
    assert (seen.count, seen.shares[-1], seen.left) == (1, 0.25, [])
    do(progress, [[models[0], models[2]], [models[1]]], clock)
    assert seen.count == 4
    assert seen.values == {}
    assert all(a <= b for a, b in itertools.pairwise(seen.shares))
    assert seen.shares[-1] == 1.0
    true_end = 2 * sum(TRUE.values())
    for now, seconds in seen.left:
        if now > 10:  # trainings are known to take twice as long
            assert seconds == pytest.approx(true_end - now, abs=85)
        if now > 220:  # probes are known to take five times as long
            assert seconds == pytest.approx(true_end - now, abs=5)


def test_a_job_that_was_killed_is_no_longer_shown_and_its_work_is_not_done(clock: Clock) -> None:
    one, seen = model("maml", 0), Seen(clock)
    progress = ExperimentProgress([one], {one.name: {"training": 10.0}}, {one.name: {"training": 0.0}}, 1.0, seen)
    progress.start(2)
    progress.begin(one.name)
    assert seen.values == {"maml-s0 training share": 0.0}
    progress.handle(one.name, ("training", 0.0), 2)
    clock.now = 5.0
    progress.handle(one.name, ("training", 0.5), 2)
    assert seen.values == {"maml-s0 training share": 0.5}
    progress.stop(one.name)
    assert seen.values == {}
    clock.now = 100.0
    progress.handle(one.name, ("training", 0.0), 1)
    progress.handle(one.name, ("training", 0.5), 1)
    assert seen.left[-1] == (100.0, 5.0)  # the pause is not counted


def test_notes_name_their_model(clock: Clock) -> None:
    one, seen = model("maml", 0), Seen(clock)
    progress = ExperimentProgress([one], {one.name: {"training": 10.0}}, {one.name: {"training": 0.0}}, 1.0, seen)
    progress.handle(one.name, "model `maml-s0`: new", 1)
    progress.handle(one.name, "no graph", 1)
    assert seen.notes == ["model `maml-s0`: new", "`maml-s0`: no graph"]


def test_the_share_of_a_training_counts_its_validations_by_their_time(clock: Clock) -> None:
    sent: list[object] = []
    relay = Relay(sent.append)
    relay.begin("training")
    assert sent == []
    relay.stage("meta-train", 100, done=20, unit="updates")
    clock.now = 10.0
    relay.advance()  # without an estimate, the updates count
    clock.now = 20.0
    relay.expect(60.0)
    assert sent == [("training", 0.2), ("training", 0.21), ("training", 0.2 + 0.8 * 20 / 80)]
