"""Grey images stay grey from the pack to an adapted model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nilr.checkpoint import load_checkpoint
from nilr.config.evaluation import AdaptSettings, ProbeSettings
from nilr.config.meta_train import TrainSettings
from nilr.config.packs import PrepareDataSettings
from nilr.errors import DataError, UsageError
from nilr.recipes import adapt, meta_train, prepare_data, probe
from nilr.reporting import SilentReporter
from tests.portable.test_formats import bring, four_blocks

SILENT = SilentReporter()
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 16, 16), np.uint8)  # 12 classes of 8 images

pytestmark = pytest.mark.usefixtures("one_thread")


def pack(place: Path, name: str, **settings: Any) -> None:
    np.save(place / "grey.npy", PIXELS)
    given = {"split_classes": "4/2/6", "image_size": 16, "name": name} | settings
    prepare_data.run(PrepareDataSettings(sources=(place / "grey.npy",), **given), SILENT)


def test_a_model_of_grey_images_is_trained_probed_and_adapted(home: Path, tmp_path: Path) -> None:
    pack(tmp_path, "rgb")
    pack(tmp_path, "grey", channels="1")
    episodes: dict[str, Any] = {"n_query": 2, "threads": 1}
    training = {"n_way": 3, "filters": 4, "outer_steps": 2, "eval_every": 0, "data": "grey", "name": "m"} | episodes
    meta_train.run(TrainSettings(**training), SILENT)
    file = home / "models" / "m" / "last.safetensors"
    checkpoint = load_checkpoint(file)
    assert checkpoint.params["body.block1.conv.weight"].shape == (4, 1, 3, 3)
    assert checkpoint.manifest.data.channels == checkpoint.manifest.architecture.arguments["channels"] == 1
    result = probe.run(ProbeSettings(models=("m",), n_episodes=3, controls=True, **episodes), SILENT)
    assert result.data is not None
    assert result.data.channels == 1
    with pytest.raises(DataError, match="RGB images of 16 px, and model `m` was trained on grey images") as caught:
        probe.run(ProbeSettings(models=("m",), n_episodes=3, data="rgb", **episodes), SILENT)
    assert caught.value.hint == "pack the images with --image-size 16 --channels 1"
    for number, images in enumerate(PIXELS[:3]):
        (tmp_path / "own" / f"c{number}").mkdir(parents=True)
        Image.fromarray(images[0]).convert("RGB").save(tmp_path / "own" / f"c{number}" / "0.png")
    own = tmp_path / "own"
    adapted = adapt.run(AdaptSettings(model="m", support=own, query=(own,), name="a", threads=1), SILENT)
    assert adapted.metrics.model_dump()
    later = adapt.run(AdaptSettings(model="a", query=(own,), threads=1), SILENT)
    assert later.metrics.model_dump()


def test_training_on_grey_and_on_rgb_starts_from_other_first_layers_only(home: Path, tmp_path: Path) -> None:
    for name, channels in {"grey": "1", "rgb": "3"}.items():
        pack(tmp_path, name, channels=channels)
        training = {"n_way": 3, "filters": 4, "outer_steps": 1, "eval_every": 0, "data": name, "name": f"m-{name}"}
        meta_train.run(TrainSettings(**training, n_query=2, threads=1), SILENT)
    grey, rgb = (load_checkpoint(home / "models" / f"m-{name}" / "last.safetensors") for name in ("grey", "rgb"))
    different = {name for name, value in rgb.params.items() if grey.params[name].shape != value.shape}
    assert different == {"body.block1.conv.weight"}
    assert "channels" not in rgb.manifest.architecture.arguments


def test_a_network_of_rgb_images_needs_rgb_images(home: Path, tmp_path: Path) -> None:
    pack(tmp_path, "grey", channels="1", image_size=32)
    with pytest.raises(UsageError, match="`grey` are grey, and the network takes RGB"):
        bring(home, four_blocks("learn2learn"), image_size=None, data="grey")
    bring(home, four_blocks("learn2learn"), name="theirs")
    with pytest.raises(DataError, match="`grey` has grey images") as caught:
        probe.run(ProbeSettings(models=("theirs",), n_way=3, n_episodes=3, n_query=2, data="grey"), SILENT)
    assert caught.value.hint == "pack the images with --image-size 32 --channels 3"
