"""Commands with bodies other than Conv4: more blocks, other names, other arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nilr.checkpoint import load_checkpoint, read_manifest
from nilr.config.evaluation import AdaptSettings, ProbeSettings, RatesSettings
from nilr.config.meta_train import PRESETS, TrainSettings
from nilr.config.models import ModelSettings, ModelsSettings
from nilr.config.reproduce import ReproduceSettings
from nilr.errors import CheckpointError, StoreError, UsageError
from nilr.models.parameters import layer
from nilr.models.registry import BODIES, arguments_of_others, build_learner
from nilr.recipes import adapt, meta_train, probe, rates, reproduce
from nilr.recipes.common.loading import load_model
from nilr.recipes.common.settings import recorded_settings, resolve
from nilr.recipes.models import describe, show, verify_models
from nilr.recipes.reproduce.plan import ExperimentPlan
from nilr.reporting import SilentReporter
from nilr.results.records import DataUsed
from nilr.store import Store
from nilr.tensorfile import serialize
from tests.models.plain_bodies import SMALL, plain_features
from tests.recipes.common.test_loading import OLD

SILENT = SilentReporter()
OTHERS = [arch for arch in BODIES if arch != "conv4"]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def training(pack: Path, quick: dict[str, Any]) -> dict[str, Any]:
    """Return settings of a short training, without the size of the body."""
    return {name: value for name, value in quick.items() if name != "filters"} | {"outer_steps": 2, "eval_every": 2}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("arch", OTHERS)
def test_a_body_is_trained_resumed_probed_adapted_and_shown(arch: str, training: dict[str, Any], home: Path) -> None:
    settings = training | {"name": "m", "arch": arch, "algo": "metasgd", **SMALL[arch]}
    meta_train.run(TrainSettings(**settings), SILENT)
    resumed = meta_train.run(TrainSettings(resume="m", outer_steps=3), SILENT)
    assert resumed.metrics.outer_step == 3
    manifest = read_manifest(home / "models/m/last.safetensors")
    sizes = {name: list(value) if isinstance(value, tuple) else value for name, value in SMALL[arch].items()}
    assert manifest.architecture.arguments == {"n_way": 3, "image_size": 16, **sizes}
    assert {name: manifest.settings[name] for name in sizes} == sizes
    assert not arguments_of_others(arch) & manifest.settings.keys()
    assert describe("m", manifest, home / "models/m").arch == arch

    params = load_checkpoint(home / "models/m/last.safetensors").params
    blocks = sorted({layer(name) for name in params} - {"head"})
    assert blocks == [f"block{i}" for i in range(1, {"conv6": 7}.get(arch, 5))]
    judged = {
        "n_episodes": 2,
        "n_query": 4,
        "layers": ("all",),
        "similarity": True,
        "transfer": True,
        "directions": True,
    }
    edited = {"rates": ("learned", "zero-negative"), "adapt_part": ("block2", "head"), "controls": True}
    result = probe.run(ProbeSettings(**judged, **edited, geometry=True, untrained_bodies=1), SILENT)
    found = result.metrics["m"]
    assert list(found.layers) == list(found.similarity["same-task"]) == blocks
    last = found.layers[blocks[-1]].same_task
    assert last.accuracy == found.same_task.accuracy
    assert last.delta is not None
    assert found.same_task.delta is not None
    assert (last.delta.mean, last.delta.p) == (found.same_task.delta.mean, found.same_task.delta.p)

    figures = rates.run(RatesSettings(n_episodes=2, consistency=True, effective_step=True), SILENT).metrics["m"]
    assert list(figures.layers) == [*blocks, "head"]
    card = show.run(ModelSettings(model="m"), SILENT).metrics
    assert [row.name for row in card.rates_by_layer] == [*blocks, "head"]
    adapt.run(AdaptSettings(name="adapted", batch_stats="inductive"), SILENT)
    assert all(check.problem is None for check in verify_models(ModelsSettings(), SILENT))
    model = load_model(Store(home), "m", device=torch.device("cpu"), engine="auto")
    x = torch.rand(6, 3, 16, 16)
    ours = model.learner.features(model.params, x)
    torch.testing.assert_close(ours, plain_features(arch, model.params, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arch": "resnet12", "filters": 8}, "the body `resnet12` does not support --filters"),
        ({"arch": "conv6", "widths": (4, 4, 4, 4)}, "the body `conv6` does not support --widths"),
        ({"preset": "resnet12-1shot", "filters": 8}, "the body `resnet12` does not support --filters"),
        ({"preset": "resnet12-1shot", "arch": "conv4", "widths": (4, 4, 4, 4)}, "`conv4` does not support --widths"),
    ],
)
def test_an_argument_of_another_body_is_an_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(TrainSettings(**settings))


def test_a_preset_with_another_body_leaves_the_sizes_of_its_own_out() -> None:
    settings, _ = resolve(resolve(TrainSettings(preset="conv4-64-1shot", arch="resnet12"))[0])
    assert settings.widths == (64, 160, 320, 640)
    assert "filters" not in recorded_settings(settings)
    assert (settings.n_query, settings.outer_steps) == (16, 60_000)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "quick"])
def test_a_preset_of_a_body_sets_its_size(preset: str) -> None:
    settings, _ = resolve(TrainSettings(preset=preset))
    sizes = {"conv4": {"filters": 64 if "64" in preset else 32}, "resnet12": {"widths": [64, 128, 256, 512]}}
    recorded = recorded_settings(settings)
    assert {name: recorded[name] for name in BODIES[settings.arch].arguments} == sizes[settings.arch]


def test_a_resumed_training_keeps_its_widths(training: dict[str, Any]) -> None:
    how = training | {"name": "m", "arch": "resnet12", "widths": (4, 4, 4, 4)}
    meta_train.run(TrainSettings(**how), SILENT)
    with pytest.raises(StoreError, match="is trained with --widths 4,4,4,4, not with 4,4,4,8"):
        meta_train.run(TrainSettings(resume="m", widths=(4, 4, 4, 8)), SILENT)
    with pytest.raises(StoreError, match="is trained with --arch resnet12, not with conv6"):
        meta_train.run(TrainSettings(resume="m", arch="conv6"), SILENT)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"widths": [-1]}, "`widths` is [-1], expected numbers from 1 to 1,000,000"),
        ({"widths": [4, 4, 4]}, "expected the numbers of channels of 4 blocks"),
        ({"widths": "x"}, "`widths` is x, expected"),
        ({"widths": 4}, "expected the numbers of channels of 4 blocks"),
        ({"widths": [10**9] * 10**5}, "`widths` is [1000000000, 1000000000, 1"),
        ({"widths": [10**6] * 4}, "its tensors do not fit its architecture"),
        ({"widths": [True, 4, 4, 4]}, "`widths` is [True, 4, 4, 4], expected"),
        ({"widths": [4.5, 4, 4, 4]}, "`widths` is [4.5, 4, 4, 4], expected"),
        ({"widths": [[4], 4, 4, 4]}, "`widths` is [[4], 4, 4, 4], expected"),
        ({"widths": None}, "`widths` is None, expected"),
        ({"filters": 4}, "filters"),
        ({"widths": [4, 3, 5, 4], "filters": 4}, "filters"),
        ({"widths": [4, 3, 5, 5]}, "its tensors do not fit its architecture"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_sizes_in_a_checkpoint_are_one_clear_error(
    arguments: dict[str, Any], reason: str, home: Path, tmp_path: Path
) -> None:
    document = load_checkpoint(OLD / "last.safetensors").manifest.model_dump(mode="json")
    document["architecture"] = {"name": "resnet12", "arguments": {"n_way": 3, "image_size": 16, **arguments}}
    params = build_learner("resnet12", n_way=3, image_size=16, **SMALL["resnet12"]).initial_params()
    tensors = {f"params/{name}": tensor for name, tensor in params.items()}
    path = tmp_path / "x.safetensors"
    path.write_bytes(serialize("nilr/checkpoint", document, tensors))
    with pytest.raises(CheckpointError) as caught:
        load_model(Store(home), str(path), device=torch.device("cpu"), engine="auto")
    assert reason in caught.value.message
    assert caught.value.hint == "train it again"
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 300


def test_reproduce_trains_all_runs_with_the_body(home: Path) -> None:
    data = DataUsed(name="synthetic", digest="0" * 64, image_size=16)
    settings = ReproduceSettings(preset="demo", home=home, seeds=1, arch="resnet12", widths=(4, 4, 4, 4))
    plan = ExperimentPlan(settings, Store(home), "synthetic", data)
    resolved = [resolve(model.training)[0] for model in plan.models]
    assert {(one.arch, one.widths) for one in resolved} == {("resnet12", (4, 4, 4, 4))}
    wrong = ReproduceSettings(preset="demo", home=home, arch="resnet12", filters=4)
    with pytest.raises(UsageError, match="the body `resnet12` does not support --filters"):
        reproduce.run(wrong, SILENT)
    with pytest.raises(UsageError, match="the body `conv4` does not support --widths"):
        reproduce.run(ReproduceSettings(preset="demo", home=home, widths=(4, 4, 4, 4)), SILENT)
