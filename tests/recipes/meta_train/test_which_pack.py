"""Which pack a training uses without --data, and what it says of a pack that does not fit."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from nilr.checkpoint import read_manifest
from nilr.config.evaluation import ProbeSettings
from nilr.config.meta_train import TrainSettings
from nilr.config.packs import PrepareDataSettings
from nilr.errors import EpisodeError, StoreError
from nilr.recipes import meta_train, prepare_data, probe
from nilr.results.commands import TrainMetrics
from nilr.results.result import Result
from nilr.store import Store
from tests.recipes.listening import Listening

pytestmark = pytest.mark.usefixtures("one_thread")


def train(quick: dict[str, Any], **settings: Any) -> Result[TrainMetrics]:
    given = quick | {"outer_steps": 1, "eval_every": 0} | settings
    return meta_train.run(TrainSettings(**given), Listening())


def test_the_only_pack_is_used_then_the_newest_and_a_note_says_which(pack: Path, quick: dict[str, Any]) -> None:
    shutil.move(pack, pack.with_name("photos.h5"))
    only = train(quick)
    assert only.notes == ["the training uses `photos`, the only pack; --data selects another one"]
    prepare_data.run(PrepareDataSettings(synthetic=True, name="new", image_size=16, limit_per_class=4), Listening())
    shutil.copy(pack.with_name("photos.h5"), pack.with_name("zebras.h5"))  # a copy is not made later
    (pack.with_name("broken.h5")).write_bytes(b"no pack")
    newest = train(quick, n_query=1, seeds=2)
    assert newest.notes == ["the training uses `new`, the newest of 4 packs; --data selects another one"]
    assert newest.data is not None
    assert newest.data.name == "new"
    directory = Store().model_dir(only.models[0].name)
    resumed = train({"threads": 1}, resume=directory.name, outer_steps=2)
    assert resumed.notes == []
    assert read_manifest(directory / "last.safetensors").data.name == "mini-imagenet"


def test_without_packs_and_for_a_missing_pack_the_error_says_what_there_is(pack: Path, quick: dict[str, Any]) -> None:
    shutil.move(pack, pack.with_name("photos.h5"))
    with pytest.raises(StoreError, match="no pack `mini-imagenet`") as caught:
        train(quick, data="mini-imagenet")
    assert "known: photos" in (caught.value.hint or "")
    pack.with_name("photos.h5").unlink()
    with pytest.raises(StoreError, match="there is no pack in") as caught:
        train(quick)
    assert "nilr prepare-data" in (caught.value.hint or "")


def test_a_class_that_is_too_small_is_named_with_the_number_of_the_others(
    home: Path, tmp_path: Path, quick: dict[str, Any]
) -> None:
    from tests.recipes.test_prepare_data import png

    for number, name in enumerate("abcdefgh"):
        folder = tmp_path / "photos" / ("train" if number < 4 else "test") / name
        folder.mkdir(parents=True)
        for i in range(3 if name == "b" else 5):
            (folder / f"{i}.png").write_bytes(png(10 * number + i))
    packing = {"sources": (tmp_path / "photos",), "image_size": 16}
    prepare_data.run(PrepareDataSettings(**packing), Listening())
    with pytest.raises(EpisodeError) as caught:
        train(quick)
    assert caught.value.message == (
        "an episode of 1 support and 3 query images needs 4 images per class, but class `b` of `train` has 3; "
        "3 of 4 classes have enough"
    )
    assert "--min-images 4" in (caught.value.hint or "")
    prepare_data.run(PrepareDataSettings(**packing, min_images=4, force=True), Listening())
    model = train(quick).models[0].name
    with pytest.raises(EpisodeError, match="needs 6 classes, but `test` has 4"):
        probe.run(ProbeSettings(models=(model,), n_episodes=2, threads=1), Listening())
    with pytest.raises(EpisodeError, match="class `e` of `test` has 5; 0 of 4 classes have enough"):
        probe.run(
            ProbeSettings(models=(model,), n_episodes=2, threads=1, task_b="same-classes", n_query=4), Listening()
        )
