"""Several seeds trained at once of which one diverges: it is named, and nothing of any is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nilr.config.meta_train import TrainSettings
from nilr.episodes import Episode, EpisodeSampler
from nilr.errors import DivergedError
from nilr.recipes import meta_train
from nilr.reporting import SilentReporter
from nilr.results.commands import TrainMetrics
from nilr.results.result import Result
from tests.recipes.listening import Listening
from tests.training_states import read_state

pytestmark = pytest.mark.usefixtures("pack", "one_thread")

SEED = 1


def train(reporter: SilentReporter | None = None, **settings: Any) -> Result[TrainMetrics]:
    given = {"data": "mini-imagenet", **settings}
    return meta_train.run(TrainSettings(algo="metasgd", **given), reporter or SilentReporter())


def poison(monkeypatch: pytest.MonkeyPatch, *numbers: int, stream: str = "train", seed: int = SEED) -> None:
    """Let the queries of a seed's episodes of these numbers be NaN."""
    draw = EpisodeSampler.draw

    def poisoned(self: EpisodeSampler, indices: range) -> Episode:
        batch = draw(self, indices)
        for number in numbers:
            if (self.stream, self.seed) == (stream, seed) and number in indices:
                batch.query_x[list(indices).index(number)] = float("nan")
        return batch

    monkeypatch.setattr(EpisodeSampler, "draw", poisoned)


@pytest.fixture
def models(home: Path) -> Path:
    return home / "models"


@pytest.fixture
def short(quick: dict[str, Any]) -> dict[str, Any]:
    """Return settings of a training that saves nothing before its end unless it must."""
    return quick | {"eval_every": 0, "save_every": 100}


def state(directory: Path) -> tuple[int, dict[str, list[float]]]:
    tensors, values = read_state(directory / "training.safetensors")
    progress: Any = values["progress"]
    return progress["outer_step"], {name: tensor.tolist() for name, tensor in tensors.items()}


def alone(models: Path, seed: int, settings: dict[str, Any], **more: Any) -> tuple[int, dict[str, list[float]]]:
    result = train(**{**settings, "seed": seed, **more})
    return state(models / str(result.config["name"]))


# batches hold 2 episodes, so episode 11 is in the sixth update
@pytest.mark.parametrize("engine", ["auto", "batched", "reference"])
def test_the_seed_that_diverges_is_named_and_the_updates_of_all_are_kept(
    engine: str, models: Path, short: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = short | {"engine": engine}
    poison(monkeypatch, 11)
    with pytest.raises(DivergedError) as caught:
        train(name="x", seeds=3, **settings)
    assert caught.value.message == "model `x-seed1`: the query loss is nan at outer step 5, episode 11"
    assert "--on-nan skip" in (caught.value.hint or "")
    assert "the completed updates of all 3 models are saved" in (caught.value.hint or "")
    kept = [state(models / f"x-seed{seed}") for seed in range(3)]
    assert [done for done, _ in kept] == [6, 5, 5]
    for seed, found in enumerate(kept):
        expected = alone(models, seed, settings, outer_steps=found[0])
        if engine == "batched":
            assert all(torch.tensor(values).isfinite().all() for values in found[1].values())
        else:
            assert found == expected


def test_trainings_stopped_by_one_seed_resume_without_that_update(
    models: Path, short: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, 11)
    with pytest.raises(DivergedError):
        train(name="x", seeds=3, **short)
    with pytest.raises(DivergedError, match="`x-seed1`: the query loss is nan at outer step 5, episode 11"):
        train(name="x", seeds=3, resume="auto", **short)
    result = train(name="x", seeds=3, resume="auto", on_nan="skip", **short)
    assert result.metrics.by_model is not None
    skipped = {name: metrics.skipped_updates for name, metrics in result.metrics.by_model.items()}
    assert skipped == {"x-seed0": 0, "x-seed1": 1, "x-seed2": 0}
    for seed in range(3):
        assert state(models / f"x-seed{seed}") == alone(models, seed, short, on_nan="skip")


def test_a_skipped_update_of_one_seed_is_reported_and_counted(
    models: Path, short: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, 11)
    listening = Listening()
    result = train(listening, name="x", seeds=3, on_nan="skip", **short)
    assert listening.notes[3:] == [
        "model `x-seed1`: update 6 is skipped: the query loss is nan at outer step 5, episode 11"
    ]
    assert result.metrics.skipped_updates == 1
    assert result.metrics.outer_step == 8
    for seed in range(3):
        lines = (models / f"x-seed{seed}" / "history.jsonl").read_text().splitlines()
        assert ["skipped" in json.loads(line) for line in lines].count(True) == (seed == SEED)
        assert state(models / f"x-seed{seed}") == alone(models, seed, short, on_nan="skip")


def test_too_many_skipped_updates_of_one_seed_stop_all_and_are_saved(
    models: Path, short: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = short | {"outer_steps": 20}
    poison(monkeypatch, *range(4, 100))
    with pytest.raises(DivergedError, match=r"`x-seed1`: .* outer step 12, episode 24, after 10 skipped updates"):
        train(name="x", seeds=3, on_nan="skip", **settings)
    kept = [state(models / f"x-seed{seed}") for seed in range(3)]
    assert [done for done, _ in kept] == [13, 12, 12]
    assert kept[1][1] == alone(models, 1, settings, outer_steps=2)[1]
    assert kept[2] == alone(models, 2, settings, outer_steps=12)


def test_a_validation_that_diverges_names_its_seed_and_keeps_the_updates_of_all(
    models: Path, quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = quick | {"save_every": 100, "eval_every": 3, "outer_steps": 6}
    poison(monkeypatch, 2, stream="val")
    with pytest.raises(DivergedError) as caught:
        train(name="x", seeds=3, **settings)
    assert caught.value.message.startswith("model `x-seed1`: the logits of val episode 2 are not finite")
    kept = [state(models / f"x-seed{seed}") for seed in range(3)]
    assert [done for done, _ in kept] == [3, 3, 3]
    for seed, found in enumerate(kept):
        assert found == alone(models, seed, settings, outer_steps=3, eval_every=0)


def test_a_seed_that_diverges_at_its_first_update_leaves_the_other_seeds_updates(
    models: Path, short: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, 0)
    with pytest.raises(DivergedError, match="`x-seed1`: the query loss is nan at outer step 0, episode 0"):
        train(name="x", seeds=3, **short)
    assert [path.name for path in models.iterdir()] == ["x-seed0"]
    result = train(name="x", seeds=3, resume="auto", on_nan="skip", **short)
    assert result.metrics.skipped_updates == 1
    for seed in range(3):
        assert state(models / f"x-seed{seed}") == alone(models, seed, short, on_nan="skip")


def test_seeds_whose_rates_really_diverge_stop_with_finite_states(models: Path, short: dict[str, Any]) -> None:
    settings = short | {"outer_steps": 60, "outer_lr": 1000.0, "inner_steps": 5}
    with pytest.raises(DivergedError, match=r"model `x-seed\d`: .* at outer step [1-9]\d*, episode"):
        train(name="x", seeds=3, **settings)
    assert len(list(models.iterdir())) == 3
    for directory in models.iterdir():
        _, tensors = state(directory)
        assert all(torch.tensor(values).isfinite().all() for values in tensors.values())
