"""Several seeds trained at once come to what each comes to alone."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from nilr.checkpoint import load_checkpoint
from nilr.config.meta_train import TrainSettings
from nilr.errors import Interrupted, StoreError, UsageError
from nilr.recipes import meta_train
from nilr.recipes.meta_train.start import settings_by_seed
from nilr.reporting import SilentReporter
from nilr.results.commands import TrainMetrics
from nilr.results.result import Result
from tests.training_states import read_state

pytestmark = pytest.mark.usefixtures("pack", "one_thread")


def train(**settings: Any) -> Result[TrainMetrics]:
    return meta_train.run(TrainSettings(**settings), SilentReporter())


def state(directory: Path) -> dict[str, list[float]]:
    tensors, _ = read_state(directory / "training.safetensors")
    return {name: tensor.tolist() for name, tensor in tensors.items()}


@pytest.fixture
def models(home: Path) -> Path:
    return home / "models"


def test_listed_seeds_name_their_models_and_go_without_another_seed() -> None:
    each = settings_by_seed(TrainSettings(seeds=(4, 7), name="x"))
    assert [(one.seed, one.name, one.seeds) for one, _ in each] == [(4, "x-seed4", 1), (7, "x-seed7", 1)]
    with pytest.raises(UsageError, match="--seed gives another one"):
        settings_by_seed(TrainSettings(seeds=(4, 7), seed=1))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("algo", ["maml", "metasgd"])
def test_each_seed_gives_the_same_model_as_if_trained_alone(algo: str, models: Path, quick: dict[str, Any]) -> None:
    result = train(algo=algo, name="both", seed=3, seeds=2, **quick)
    assert result.config["name"] == ["both-seed3", "both-seed4"]
    assert result.config["seeds"] == 2
    assert result.metrics.by_model is not None
    for seed in (3, 4):
        alone = train(algo=algo, name=f"alone{seed}", seed=seed, **quick)
        assert state(models / f"both-seed{seed}") == state(models / f"alone{seed}")
        own = result.metrics.by_model[f"both-seed{seed}"]
        assert own.best_val_accuracy == alone.metrics.best_val_accuracy
        assert own.query_loss == alone.metrics.query_loss
        manifests = [load_checkpoint(models / name / "last.safetensors").manifest for name in (f"both-seed{seed}",)]
        assert manifests[0].settings["seed"] == seed
        assert manifests[0].settings["seeds"] == 1
    losses = [own.query_loss for own in result.metrics.by_model.values()]
    assert result.metrics.query_loss == pytest.approx(sum(loss or 0 for loss in losses) / 2)
    assert result.metrics.best_val_accuracy is None


def test_the_batched_engine_computes_all_seeds_in_one_operation(models: Path, quick: dict[str, Any]) -> None:
    quick |= {"outer_steps": 3, "eval_every": 0}
    train(algo="metasgd", name="batched", seeds=2, engine="batched", **quick)
    train(algo="metasgd", name="plain", seeds=2, engine="reference", **quick)
    for seed in (0, 1):
        found, expected = (
            load_checkpoint(models / f"{name}-seed{seed}" / "last.safetensors").params for name in ("batched", "plain")
        )
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)


def test_without_a_name_every_model_gets_a_new_name(quick: dict[str, Any]) -> None:
    quick |= {"outer_steps": 1, "eval_every": 0}
    names = [train(algo="maml", seeds=2, **quick).config["name"] for _ in range(2)]
    assert names == [["maml-seed0", "maml-seed1"], ["maml-seed0-2", "maml-seed1-2"]]


class Stopping(SilentReporter):
    def __init__(self, updates: int) -> None:
        self.left = updates

    def advance(self, n: int = 1) -> None:
        self.left -= n
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("resume", ["auto", "stopped"])
def test_stopped_trainings_resume_and_slower_seeds_catch_up(resume: str, models: Path, quick: dict[str, Any]) -> None:
    settings = {"algo": "metasgd", "seeds": 2, **quick}
    train(name="whole", **settings)
    with pytest.raises(Interrupted) as stopped:
        meta_train.run(TrainSettings(name="stopped", **settings), Stopping(5))
    assert "stopped-seed0" in str(stopped.value.hint)
    assert "stopped-seed1" in str(stopped.value.hint)
    train(algo="metasgd", **quick, resume="stopped-seed1")  # one of them goes on alone to its end
    name = {} if resume == "stopped" else {"name": "stopped"}
    result = train(**settings, **name, resume=resume)
    assert result.metrics.outer_step == 8
    for seed in (0, 1):
        assert state(models / f"whole-seed{seed}") == state(models / f"stopped-seed{seed}")


def test_an_existing_name_is_an_error_before_any_training(models: Path, quick: dict[str, Any]) -> None:
    train(algo="maml", name="x-seed1", **{**quick, "outer_steps": 1, "eval_every": 0})
    with pytest.raises(StoreError, match="`x-seed1` exists"):
        train(algo="maml", name="x", seeds=2, **quick)
    assert [path.name for path in models.iterdir()] == ["x-seed1"]


def test_several_seeds_cannot_resume_one_path(models: Path) -> None:
    with pytest.raises(UsageError, match="by name"):
        train(seeds=2, resume=str(models / "x"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_trains_several_seeds_validates_and_goes_on(models: Path, quick: dict[str, Any]) -> None:
    settings = {"algo": "metasgd", "name": "there", "seeds": 2, "device": "cuda", **quick}
    result = train(**settings)
    assert result.environment["engine"] == "batched"
    train(**{**settings, "resume": "auto", "outer_steps": 10})
    for seed in (0, 1):
        manifest = load_checkpoint(models / f"there-seed{seed}" / "last.safetensors").manifest
        assert manifest.outer_step == 10
