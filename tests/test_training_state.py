from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nilr.checkpoint import load_checkpoint, save_checkpoint
from nilr.config.meta_train import TrainSettings
from nilr.errors import CheckpointError
from nilr.training_state import Progress, TrainingState, load_training_state, save_training_state
from tests.training_states import read_state, write_state

BEST = {"outer_step": 4, "mean": 0.5, "ci95": None, "n_episodes": 1}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "training.safetensors"


def state(**settings: Any) -> TrainingState:
    return TrainingState(
        settings=TrainSettings(**settings).model_dump(mode="json"), data="pack", data_digest="0", progress=Progress()
    )


def test_a_training_state_is_loaded_as_it_was_saved(path: Path) -> None:
    tensors = {
        "adam/step/w": torch.tensor(3.0),
        "adam/exp_avg/w": torch.tensor([[1e-30]]),
        "rng": torch.get_rng_state(),
    }
    progress = Progress(outer_step=7, validated_at=4, best=BEST, logged={"query_loss": 0.1, "share_negative": None})
    saved = state(seed=2**62).model_copy(update={"progress": progress})
    save_training_state(path, tensors, saved)
    loaded, values = load_training_state(path)
    assert values == saved
    assert set(loaded) == set(tensors)
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_settings_that_a_later_version_adds_are_kept(path: Path) -> None:
    save_training_state(path, {}, state())
    _, values = read_state(path)
    values["settings"]["of_a_later_version"] = 1
    write_state(path, {}, values)
    assert load_training_state(path)[1].settings["of_a_later_version"] == 1


def test_a_training_state_and_a_checkpoint_are_not_confused(path: Path) -> None:
    save_training_state(path, {}, state())
    with pytest.raises(CheckpointError, match="has the format `nilr/training-state`, expected `nilr/checkpoint`"):
        load_checkpoint(path)
    origin: dict[str, Any] = {"algorithm": {}, "settings": {}, "metrics": {}, "engine": "explicit", "parent": None}
    save_checkpoint(
        path,
        params={"w": torch.zeros(1)},
        inner_lr={},
        architecture={"name": "conv4", "arguments": {}},
        data={"name": "pack", "digest": "0", "image_size": 84},
        outer_step=0,
        **origin,
    )
    with pytest.raises(CheckpointError, match="has the format `nilr/checkpoint`, expected `nilr/training-state`"):
        load_training_state(path)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("settings", {"n_way": "three"}, "`settings`: `n_way`: input should be a valid integer"),
        ("progress", {"best": BEST | {"mean": "high"}}, "`progress.best`: `mean`: input should be"),
        ("progress", {"surprise": 1}, "`progress.surprise`: unexpected"),
        ("data_digest", 5, "`data_digest`: input should be a valid string"),
    ],
)
def test_an_invalid_value_is_named_on_one_line(path: Path, name: str, value: Any, reason: str) -> None:
    save_training_state(path, {}, state())
    _, values = read_state(path)
    write_state(path, {}, values | {name: value})
    with pytest.raises(CheckpointError, match=f"is not a valid training state: {reason}") as caught:
        load_training_state(path)
    assert "\n" not in caught.value.message


def test_values_that_are_not_an_object_are_invalid(path: Path) -> None:
    write_state(path, {}, [1])
    with pytest.raises(CheckpointError, match="is not a valid training state: input should be"):
        load_training_state(path)
