"""What an evaluated pack shares with the one that a model was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nilr.config.evaluation import AdaptSettings, ProbeSettings, RatesSettings
from nilr.data.pack import PackInfo, open_pack
from nilr.data.pack_writer import PackWriter
from nilr.recipes import adapt, probe, rates
from nilr.reporting import SilentReporter
from nilr.results.result import Result
from tests.trained import train_model

pytestmark = pytest.mark.usefixtures("one_thread")
REPORTER = SilentReporter()


@pytest.fixture
def model(pack: Path, home: Path, quick: dict[str, Any]) -> str:
    """Train `maml` on `mini-imagenet`, and pack `other`: one class of its name, and another with one of its images."""
    train_model(algo="maml", name="maml", **(quick | {"outer_steps": 2, "eval_every": 0}))
    seen = open_pack(pack).open_split("val").images.read([8])  # the first image of val01
    new = np.random.default_rng(5).integers(0, 256, (39, 16, 16, 3), dtype=np.uint8)
    classes = {"a": new[:8], "b": new[8:16], "c": np.concatenate([new[16:23], seen]), "train03": new[23:31]}
    with PackWriter.create(
        home / "datasets" / "other.h5",
        PackInfo("other", 16, "bilinear", source="x", licence="none"),
        {"test": dict.fromkeys(classes, 8)},
    ) as writer:
        for name, images in classes.items():
            writer.write_class("test", name, images, [f"{i}.png" for i in range(8)])
    return "maml"


def run_probe(model: str, **settings: Any) -> Result[Any]:
    return probe.run(ProbeSettings(models=(model,), n_episodes=2, threads=1, task_b="any", **settings), REPORTER)


def test_shared_classes_and_images_are_in_the_result_and_in_a_note(model: str, pack: Path, home: Path) -> None:
    results = [
        run_probe(model, data_b="other"),
        run_probe(model, data="other"),
        rates.run(RatesSettings(models=(model,), data="other", n_episodes=2, threads=1), REPORTER),
        adapt.run(AdaptSettings(model=model, data="other", threads=1), REPORTER),
    ]
    names = open_pack(pack).open_split("val").filenames()
    for result in results:
        (overlap,) = result.overlaps
        assert (overlap.a.name, overlap.b.digest) == ("other", open_pack(pack).info.digest)
        found = {(shared.a, shared.b): (shared.classes, shared.images) for shared in overlap.splits}
        assert found == {("test", "train"): (["train03"], 0), ("test", "val"): ([], 1), ("test", "test"): ([], 0)}
        ((mine, theirs),) = overlap.pairs
        assert (mine.class_name, str(theirs)) == ("c", f"val/val01/{names[8]}")
        assert (
            f"`other` (test) and `mini-imagenet` have in common 1 class: train03 (train); 1 equal image: {mine} = "
            f"{theirs}." in result.notes
        )
    assert run_probe(model).overlaps == []


def test_a_training_pack_that_is_missing_is_named(model: str, pack: Path) -> None:
    pack.unlink()
    result = run_probe(model, data="other")
    assert result.overlaps == []
    assert "It is unknown what `other` shares with `mini-imagenet`" in " ".join(result.notes)
