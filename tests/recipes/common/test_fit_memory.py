"""What `--recompute auto` decides from the available memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from nilr.config.meta_train import TrainSettings
from nilr.meta.algorithms import ALGORITHMS, Algorithm
from nilr.meta.engine.contract import Engine
from nilr.meta.engine.registry import choose_engine
from nilr.models.registry import build_learner
from nilr.recipes import meta_train
from nilr.recipes.common import memory
from nilr.reporting import SilentReporter
from nilr.store import TRAINING_STATE, Store
from tests.training_states import read_state

CPU = torch.device("cpu")
MAML = dataclasses.replace(ALGORITHMS["maml"], inner_steps=5)
SIZE: dict[str, Any] = {"n_support": 25, "n_query": 75, "image_shape": (3, 84, 84), "device": CPU}


@pytest.fixture(autouse=True)
def three_threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def fitted(
    monkeypatch: pytest.MonkeyPatch, available: float, recompute: Any = "auto", algorithm: Algorithm = MAML, **how: Any
) -> tuple[Engine, str | None]:
    """Return an engine, and the note on it, with `available` times what keeping all steps of an episode needs."""
    learner = build_learner("conv4", n_way=5, image_size=84, filters=32)
    engine = choose_engine("explicit", learner, CPU, **how)
    size = {name: value for name, value in SIZE.items() if name != "device"}
    needed = engine.episode_bytes(MAML, steps=5, **size).keeping
    monkeypatch.setattr(memory, "available_memory", lambda device: int(available * needed))
    return engine, memory.fit_memory(engine, recompute, algorithm, n_episodes=4, **SIZE)


def test_activations_of_three_episodes_are_kept_if_they_fit_into_half_of_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine, note = fitted(monkeypatch, 2 * 3.1)
    assert (engine.recompute, engine.episode_chunk, note) == (False, None, None)
    engine, note = fitted(monkeypatch, 2 * 2.9)
    assert (engine.recompute, engine.episode_chunk) == (True, None)
    assert note is not None
    assert "of 5 inner steps" in note


def test_fewer_episodes_at_a_time_only_if_recomputing_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, note = fitted(monkeypatch, 0.8)
    assert engine.recompute
    assert engine.episode_chunk is not None
    assert engine.episode_chunk < 3
    assert note is not None
    assert "at a time" in note
    engine, _ = fitted(monkeypatch, 0.001)
    assert engine.episode_chunk == 1


def test_the_users_choices_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    for available in (0.8, 100):
        assert not fitted(monkeypatch, available, "off")[0].recompute
        assert fitted(monkeypatch, available, "on")[0].recompute
    engine, _ = fitted(monkeypatch, 0.001, "off", episode_chunk=2)
    assert (engine.recompute, engine.episode_chunk) == (False, 2)


def test_what_recomputing_does_not_help_is_not_recomputed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fomaml", "anil"):
        engine, _ = fitted(monkeypatch, 0.3, algorithm=ALGORITHMS[name])
        assert not engine.recompute


@pytest.mark.usefixtures("pack")
def test_a_training_records_the_choice_and_both_choices_give_the_same_model(quick: dict[str, Any], home: Path) -> None:
    for recompute in ("on", "off"):
        settings = TrainSettings(algo="maml", name=recompute, recompute=recompute, **quick)
        result = meta_train.run(settings, SilentReporter())
        assert result.environment["recompute"] is (recompute == "on")
    on, off = (read_state(Store(home).model_dir(name) / TRAINING_STATE)[0] for name in ("on", "off"))
    for name, value in on.items():
        torch.testing.assert_close(value, off[name], rtol=0, atol=0)
