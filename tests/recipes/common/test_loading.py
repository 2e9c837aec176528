"""What an earlier version stored is loaded, judged and gone on with.

`checkpoint-1` holds what `nilr meta-train --algo metasgd --filters 1 --n-way 2 --n-query 2 --meta-batch-size 2
--outer-steps 3 --eval-every 0 --threads 1` left behind, on 16 px images, before rates had grains or constraints.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nilr.checkpoint import load_checkpoint
from nilr.config.evaluation import ProbeSettings
from nilr.config.meta_train import TrainSettings
from nilr.data.pack import open_pack
from nilr.errors import CheckpointError, EpisodeError
from nilr.meta.algorithms import ALGORITHMS
from nilr.recipes import meta_train, probe
from nilr.recipes.common import packs
from nilr.recipes.common.loading import load_model
from nilr.recipes.common.packs import open_split
from nilr.recipes.common.settings import recipe_digest, recorded_settings, resolve
from nilr.reporting import SilentReporter
from nilr.store import Store
from nilr.tensorfile import serialize
from tests.training_states import read_state, write_state

OLD = Path(__file__).parent / "checkpoint-1"

pytestmark = pytest.mark.usefixtures("one_thread")


def test_an_old_checkpoint_is_rebuilt_with_its_algorithm(home: Path) -> None:
    model = load_model(Store(home), str(OLD / "last.safetensors"), device=torch.device("cpu"), engine="auto")
    assert model.algorithm == ALGORITHMS["metasgd"]
    assert "per_step" not in model.checkpoint.manifest.algorithm
    assert all(rate.shape == model.params[name].shape for name, rate in model.inner_lr.items())
    assert len(model.inner_lr) == len(model.params) == 14


def test_an_old_checkpoint_shares_its_recipe_with_a_model_trained_today() -> None:
    manifest = load_checkpoint(OLD / "last.safetensors").manifest
    how: dict[str, Any] = {"filters": 1, "n_way": 2, "n_query": 2, "meta_batch_size": 2, "outer_steps": 3}
    digests = []
    for more in ({}, {"rate_constraint": "non-negative"}, {"outer_lr_schedule": "cosine"}):
        settings, row = resolve(TrainSettings(algo="metasgd", seed=5, eval_every=0, **how, **more))
        digests.append(
            recipe_digest(
                manifest.architecture.model_dump(),
                row.to_stored(),
                recorded_settings(settings),
                manifest.data.digest,
            )
        )
    old = recipe_digest(manifest.architecture.model_dump(), manifest.algorithm, manifest.settings, manifest.data.digest)
    assert digests[0] == old == "d2235e558c517c6f76e199cf6a4659ef1b8de42af6fb8da203423d5ccd77aa1c"
    assert len(set(digests)) == 3


def test_an_old_model_is_probed(pack: Path) -> None:
    settings = ProbeSettings(models=(str(OLD / "last.safetensors"),), data=str(pack), n_query=2, n_episodes=2)
    result = probe.run(settings, SilentReporter())
    assert result.models[0].outer_step == 3


def test_an_old_training_resumes(pack: Path, home: Path) -> None:
    model = home / "models" / "old"
    shutil.copytree(OLD, model)
    tensors, values = read_state(model / "training.safetensors")
    # the pack of these tests in place of the one it was begun on
    write_state(model / "training.safetensors", tensors, values | {"data_digest": open_pack(pack).info.digest})
    meta_train.run(TrainSettings(resume="old", data=str(pack), outer_steps=5), SilentReporter())
    state, _ = read_state(model / "training.safetensors")
    assert state["adam/step/params/head.bias"] == 5
    assert load_checkpoint(model / "last.safetensors").manifest.outer_step == 5


def resealed(path: Path, part: str, **change: Any) -> str:
    """Write the old checkpoint with another value in a part of its manifest, under a seal that is right."""
    checkpoint = load_checkpoint(OLD / "last.safetensors")
    document = checkpoint.manifest.model_dump(mode="json")
    tensors = {f"params/{name}": tensor for name, tensor in checkpoint.params.items()}
    tensors |= {f"inner_lr/{name}": tensor for name, tensor in checkpoint.inner_lr.items()}
    path.write_bytes(serialize("nilr/checkpoint", document | {part: document[part] | change}, tensors))
    return str(path)


@pytest.mark.parametrize("steps", [10**9, -3])
def test_a_model_with_an_invalid_number_of_steps_is_an_error(steps: int, tmp_path: Path, home: Path) -> None:
    model = resealed(tmp_path / "x.safetensors", "algorithm", eval_inner_steps=steps)
    with pytest.raises(CheckpointError, match=f"eval_inner_steps is {steps}, expected 0 to 1000"):
        load_model(Store(home), model, device=torch.device("cpu"), engine="auto")


@pytest.mark.parametrize(("name", "value"), [("n_shot", 0), ("n_query", -1)])
def test_an_invalid_stored_episode_size_is_an_error(name: str, value: int, tmp_path: Path, pack: Path) -> None:
    model = resealed(tmp_path / "x.safetensors", "settings", **{name: value})
    settings = ProbeSettings(models=(model,), data=str(pack), n_episodes=2)
    with pytest.raises(EpisodeError, match=rf"`x` has an invalid stored setting: --n-.* {value}"):
        probe.run(settings, SilentReporter())


def test_a_gpu_gets_a_copy_of_the_images_that_fit_and_reads_others(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size, gpu = 80 * 16 * 16 * 3, torch.device("meta")  # of the test split; the device has no memory, only shapes
    monkeypatch.setattr("nilr.data.pack._CHUNK_BYTES", 5 * 16 * 16 * 3)
    for free, kept in ((size / packs._GPU_SHARE, True), (size / packs._GPU_SHARE - 1, False)):
        monkeypatch.setattr(packs, "available_memory", lambda device, free=free: free)
        images = open_split(pack, "test", gpu).images.images
        assert isinstance(images, torch.Tensor) is kept
        assert images.device == gpu
        drawn = images.index_select(0, torch.tensor([3, 79]) if not kept else torch.tensor([3, 79], device=gpu))
        assert (drawn.shape, drawn.device) == ((2, 16, 16, 3), gpu)
    file = open_pack(pack).open_split("test").images
    assert np.array_equal(packs._copied(file, torch.device("cpu")).numpy(), np.array([*file]))
