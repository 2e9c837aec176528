"""A training whose updates are captured comes to what it comes to without, and keeps its promises."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nilr.config.meta_train import TrainSettings
from nilr.episodes import Episode, EpisodeSampler
from nilr.errors import DivergedError
from nilr.meta.cuda_graphs import Capture
from nilr.recipes import meta_train
from nilr.recipes.common import packs
from nilr.recipes.meta_train import start as outer_loops
from nilr.reporting import SilentReporter
from nilr.results.commands import TrainMetrics
from nilr.results.result import Result
from tests.meta.recording import Failing, Tapes
from tests.training_states import read_state

pytestmark = pytest.mark.usefixtures("pack", "one_thread")

ADAM_ALONE = Failing(RuntimeError("no graph\nfor this"))


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Callable[[Tapes | Failing], None]:
    """Return what sets how trainings capture on this CPU, for a GPU that is not there."""

    def by(recorder: Tapes | Failing) -> None:
        monkeypatch.setattr(outer_loops, "capture_on", lambda device, note: Capture(recorder.record, note))
        # a GPU has the images in its memory
        monkeypatch.setattr(packs, "_ImagesOnDisk", lambda file, device: torch.from_numpy(np.array([*file])))

    return by


@pytest.fixture
def train(quick: dict[str, Any]) -> Callable[..., Result[TrainMetrics]]:
    def run(**settings: Any) -> Result[TrainMetrics]:
        given = {"engine": "batched", "data": "mini-imagenet", **quick, **settings}
        return meta_train.run(TrainSettings(**given), SilentReporter())

    return run


@pytest.fixture
def contents(home: Path) -> Callable[[str], tuple[Any, ...]]:
    """Return what gives a model's state, progress and history."""

    def of(name: str) -> tuple[Any, ...]:
        directory = home / "models" / name
        tensors, values = read_state(directory / "training.safetensors")
        lines = (directory / "history.jsonl").read_text().splitlines()
        return {n: t.tolist() for n, t in tensors.items()}, values["progress"], [json.loads(line) for line in lines]

    return of


def poison(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Make one pixel of a training episode NaN, on the device."""
    draw = EpisodeSampler.draw

    def poisoned(self: EpisodeSampler, indices: Sequence[int] | Tensor) -> Episode:
        episodes = draw(self, indices)
        if self.stream != "train" or not isinstance(indices, Tensor):
            return episodes
        broken = (indices == number).reshape(-1, 1, 1, 1, 1)
        return dataclasses.replace(episodes, query_x=episodes.query_x.masked_fill(broken, float("nan")))

    monkeypatch.setattr(EpisodeSampler, "draw", poisoned)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "settings", [{"algo": "metasgd"}, {"algo": "maml", "multi_step_loss": True, "outer_steps": 24}]
)
def test_captured_and_uncaptured_trainings_give_the_same_models(
    settings: dict[str, Any],
    recording: Callable[[Tapes | Failing], None],
    train: Callable[..., Result[TrainMetrics]],
    contents: Callable[[str], tuple[Any, ...]],
) -> None:
    recording(Tapes())
    captured = train(name="captured", seeds=2, **settings)
    recording(ADAM_ALONE)
    plain = train(name="plain", seeds=2, **settings)
    for seed in (0, 1):
        assert contents(f"captured-seed{seed}") == contents(f"plain-seed{seed}")
    assert captured.environment["captured"] is True
    assert captured.notes == []
    assert plain.environment["captured"] is False
    assert plain.notes == [
        "updates are not captured in a CUDA graph, so their kernels are launched one by one: no graph"
    ]


@pytest.mark.slow
def test_a_captured_training_resumes_bit_for_bit_and_slower_seeds_catch_up(
    recording: Callable[[Tapes | Failing], None],
    train: Callable[..., Result[TrainMetrics]],
    contents: Callable[[str], tuple[Any, ...]],
) -> None:
    recording(Tapes())
    train(algo="metasgd", name="whole", seeds=2, outer_steps=8)
    train(algo="metasgd", name="parts", seeds=2, outer_steps=4)
    train(algo="metasgd", outer_steps=6, resume="parts-seed1")
    train(algo="metasgd", name="parts", seeds=2, outer_steps=8, resume="auto")
    for seed in (0, 1):
        assert contents(f"parts-seed{seed}")[0] == contents(f"whole-seed{seed}")[0]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_a_captured_update_that_is_not_finite_is_reported_and_the_previous_state_kept(
    on_nan: str,
    recording: Callable[[Tapes | Failing], None],
    train: Callable[..., Result[TrainMetrics]],
    contents: Callable[[str], tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recording(Tapes())
    train(name="five", outer_steps=5, eval_every=0)
    poison(monkeypatch, 11)
    said = "nan at outer step 5, episode 11"
    if on_nan == "stop":
        with pytest.raises(DivergedError, match=said):
            train(name="x", on_nan=on_nan, outer_steps=6, eval_every=0)
    else:
        assert train(name="x", on_nan=on_nan, outer_steps=6, eval_every=0).metrics.skipped_updates == 1
        assert said in contents("x")[2][-1]["skipped"]
    assert contents("x")[0] == contents("five")[0]


def test_an_engine_that_waits_for_the_device_is_not_captured(
    recording: Callable[[Tapes | Failing], None], train: Callable[..., Result[TrainMetrics]]
) -> None:
    recorder = Failing(AssertionError("tried"))
    recording(recorder)
    assert "captured" not in train(engine="explicit", outer_steps=1, eval_every=0).environment
    assert recorder.tries == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_captures_a_training(train: Callable[..., Result[TrainMetrics]]) -> None:
    result = train(algo="metasgd", name="there", seeds=2, device="cuda", engine="auto")
    assert result.environment["captured"] is True
    assert result.notes == []
