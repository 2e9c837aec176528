from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from nilr.config.meta_train import TrainSettings
from nilr.recipes.meta_train.progress import TrainingProgress
from nilr.reporting import SilentReporter


class Seen(SilentReporter):
    def __init__(self) -> None:
        self.title, self.left, self.values = "", 0.0, dict[str, float | None]()

    def stage(self, title: str, total: int | None = None, *, done: int = 0, unit: str = "steps") -> None:
        self.title = title

    def expect(self, seconds: float | None, share: float | None = None) -> None:
        self.left = seconds or 0.0

    def metric(self, **values: float | None) -> None:
        self.values |= values


UPDATE, EPISODE = 0.5, 0.1  # seconds


@pytest.mark.parametrize("n_models", [1, 2])
def test_validations_count_in_the_time_left(monkeypatch: pytest.MonkeyPatch, n_models: int) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    seen, settings = Seen(), TrainSettings(outer_steps=100, eval_every=20, eval_episodes=30)
    row = SimpleNamespace(inner_steps=5, eval_inner_steps=10)
    trainings: list[Any] = [
        SimpleNamespace(
            name=f"m-seed{i}",
            reporter=seen,
            settings=settings,
            progress=SimpleNamespace(outer_step=0, validated_at=0),
            outer=SimpleNamespace(algorithm=row),
        )
        for i in range(n_models)
    ]
    progress = TrainingProgress(trainings)
    validation = n_models * 30 * EPISODE
    for step in range(1, 101):
        now += UPDATE
        for training in trainings:
            training.progress.outer_step = step
        progress.updated()
        left = (100 - step) * UPDATE + (5 - (step - 1) // 20) * validation
        if step <= 20:  # the episodes are guessed from the updates
            assert (100 - step) * UPDATE < seen.left < 2 * left
        else:
            assert seen.left == pytest.approx(left)
        if step % 20 == 0:
            for training in trainings:
                for episode in range(1, 31):
                    now += EPISODE
                    progress.validated(training, episode)
                    if episode == 15:
                        name = f"validation of {training.name} share" if n_models > 1 else "validation share"
                        assert seen.values[name] == 0.5
                training.progress.validated_at = step
    assert seen.left == pytest.approx(0.0)
    assert set(seen.values.values()) == {None}
    assert seen.title == ("meta-train" if n_models == 1 else "meta-train of 2 models, figures of m-seed0")
