"""`nilr probe --geometry`: the classes of the query images in feature space, before and after adaptation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nilr.config.evaluation import ProbeSettings
from nilr.episodes import EpisodeSampler
from nilr.errors import EpisodeError, UsageError
from nilr.probes.geometry import MEASURES
from nilr.recipes import probe
from nilr.recipes.common.loading import load_model
from nilr.recipes.common.packs import open_split
from nilr.reporting import SilentReporter
from nilr.results.result import Result
from nilr.store import Store
from tests.trained import train_model

pytestmark = pytest.mark.usefixtures("pack", "one_thread")


@pytest.fixture
def model(pack: Path, quick: dict[str, Any], one_thread: None) -> str:
    train_model(algo="maml", name="maml", inner_lr=0.4, **(quick | {"eval_every": 0}))
    return "maml"


def judge(model: str, **settings: Any) -> Result[Any]:
    given = {"n_episodes": 4, "threads": 1, "inner_steps": 2, "n_query": 5, "geometry": True}
    return probe.run(ProbeSettings(models=(model,), **(given | settings)), SilentReporter())


def test_the_features_of_the_queries_are_measured_by_class_and_differences_are_paired(model: str, pack: Path) -> None:
    result = judge(model)
    found, values = result.metrics[model].geometry, result.per_episode[model]["geometry"]
    assert list(found) == list(values) == list(MEASURES)
    loaded = load_model(Store(None), model, device=torch.device("cpu"), engine="reference")
    sampler = EpisodeSampler(open_split(pack, "test", torch.device("cpu")).images, 3, 1, 5, 0, "test")
    for i in range(4):
        episode = sampler.draw([i])[0]
        features = loaded.learner.features(loaded.params, episode.query_x).detach().double()
        by_class = torch.stack([features[episode.query_y == label] for label in range(3)])
        for name, measure in MEASURES.items():
            assert values[name]["meta-init"][i] == pytest.approx(measure(by_class), rel=1e-3)
    for name, by_protocol in found.items():
        assert by_protocol["meta-init"].difference is None
        for protocol in ("same-task", "cross-task"):
            differences = [a - b for a, b in zip(values[name][protocol], values[name]["meta-init"], strict=True)]
            assert any(differences)
            assert by_protocol[protocol].value.mean == pytest.approx(sum(values[name][protocol]) / 4)
            assert by_protocol[protocol].difference.mean == pytest.approx(sum(differences) / 4)
            assert by_protocol[protocol].difference.n_episodes == 4


def test_controls_have_a_geometry_and_nothing_else_changes(model: str) -> None:
    result = judge(model, controls=True)
    assert [list(result.metrics[name].geometry["inverse-cdnv"]) for name in ("untrained body", "raw pixels")] == [
        ["meta-init"],
        ["meta-init"],
    ]
    plain = judge(model, geometry=False)
    assert {key: value for key, value in result.per_episode[model].items() if key != "geometry"} == plain.per_episode[
        model
    ]


def test_too_few_queries_or_batches_of_them_are_an_error_before_the_first_episode(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nilr.recipes.probe.evaluate", lambda *_, **__: pytest.fail("an episode was evaluated"))
    with pytest.raises(EpisodeError, match="--geometry needs 4 query images per class; an episode has 3"):
        judge(model, n_query=3)
    with pytest.raises(UsageError, match="--geometry compares all queries of an episode"):
        judge("nowhere", query_batch="class")
