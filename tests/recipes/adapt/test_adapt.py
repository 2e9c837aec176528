from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nilr.checkpoint import load_checkpoint
from nilr.cli.boundary import run as command
from nilr.config.evaluation import AdaptSettings, ProbeSettings
from nilr.config.packs import PrepareDataSettings
from nilr.errors import DataError, DivergedError, EpisodeError, StoreError, UsageError
from nilr.recipes import adapt, prepare_data, probe
from nilr.recipes.adapt import saving
from nilr.reporting import SilentReporter
from nilr.store import Store
from tests.recipes.adapt.running import paint, run
from tests.recipes.listening import Listening
from tests.trained import train_model

pytestmark = pytest.mark.usefixtures("pack", "one_thread")

COMMITTED = Path(__file__).parents[3] / "docs" / "reproduction" / "cpu" / "cpu-maml-s0"


def oblong(path: Path, seed: int) -> None:
    """Write a 32 x 16 px picture, and its central square to the same place under `square/`."""
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 32, 3), np.uint8)
    for file, part in ((path, pixels), (path.parents[2] / "square" / path.parent.name / path.name, pixels[:, 8:24])):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(part)).save(file)


def test_own_images_are_prepared_as_the_pack_of_the_model_was(tmp_path: Path, quick: dict[str, Any]) -> None:
    for number in range(24):
        oblong(tmp_path / "photos" / "abc"[number % 3] / f"{number}.png", number)
    packing = {"sources": (tmp_path / "photos",), "split_classes": "3/0/0", "image_size": 16, "resample": "nearest"}
    prepare_data.run(PrepareDataSettings(**packing, fit="crop"), SilentReporter())
    training = quick | {"outer_steps": 1, "eval_every": 0, "data": "photos"}
    train_model(**training, name="m")
    made = load_checkpoint(Store().find_model("m").file).manifest.data
    assert (made.image_size, made.resample, made.fit, made.channels) == (16, "nearest", "crop", 3)
    as_photos, as_squares = (
        run(model="m", support=tmp_path / name, query=tmp_path / name, name=name) for name in ("photos", "square")
    )
    assert as_photos.metrics == as_squares.metrics
    assert load_checkpoint(Store().find_model("photos").file).manifest.data == made  # an adapted model keeps it
    prepare_data.run(PrepareDataSettings(**packing, name="stretched"), SilentReporter())
    probed = probe.run(
        ProbeSettings(models=("m",), data="stretched", split="train", protocol="meta-init", n_episodes=2, threads=1),
        SilentReporter(),
    )
    assert (
        "The images of `stretched` were made otherwise than those that model `m` was trained on: with --image-size 16 "
        "--resample nearest instead of --image-size 16 --resample nearest --fit crop."
    ) in probed.notes


def test_a_checkpoint_without_preparation_counts_as_bilinear_and_stretched() -> None:
    made = load_checkpoint(COMMITTED / "best.safetensors").manifest.data
    assert (made.resample, made.fit, made.channels) == ("bilinear", "stretch", 3)


def test_support_folders_of_one_name_are_an_error(maml: str, own: Path) -> None:
    shutil.copytree(own / "support", own / "twice" / "one")
    shutil.copytree(own / "support" / "ash", own / "twice" / "two" / "ash")
    with pytest.raises(EpisodeError, match="has several folders `ash`"):
        run(model=maml, support=own / "twice")


def test_a_seeded_episode_gives_accuracy_before_and_after_and_an_adapted_model(maml: str) -> None:
    result = run(model=maml, episode=7)
    metrics = result.metrics
    assert (metrics.support_images, metrics.query_images, len(metrics.predictions)) == (3, 9, 9)
    assert metrics.accuracy_before is not None
    assert metrics.support_loss_after < metrics.support_loss_before
    right = [prediction.after == prediction.label for prediction in metrics.predictions]
    assert metrics.accuracy_after == pytest.approx(sum(right) / 9)
    parent = load_checkpoint(Store(None).find_model(maml).file)
    child = load_checkpoint(Store(None).find_model("maml-adapted").file)
    assert child.manifest.parent is not None
    assert (child.manifest.parent.name, child.manifest.parent.digest) == (maml, parent.digest)
    assert not torch.equal(child.params["head.weight"], parent.params["head.weight"])


def test_results_depend_only_on_the_episode(maml: str) -> None:
    first, again, other = (run(model=maml, episode=i).metrics for i in (7, 7, 8))
    assert first == again
    assert first.classes != other.classes


def test_no_steps_change_nothing(maml: str) -> None:
    metrics = run(model=maml, inner_steps=0).metrics
    assert metrics.accuracy_before == metrics.accuracy_after
    assert metrics.support_loss_before == metrics.support_loss_after


@pytest.mark.parametrize(("steps", "said"), [(0, "0 steps"), (1, "1 step"), (2, "2 steps")])
def test_it_says_how_many_steps_it_takes(maml: str, steps: int, said: str) -> None:
    reporter = Listening()
    adapt.run(AdaptSettings(model=maml, inner_steps=steps, threads=1), reporter)
    assert reporter.notes[0] == f"adapting `maml` to 3 images in {said}"


def test_labelled_images_of_a_user_give_accuracies(maml: str, own: Path) -> None:
    metrics = run(model=maml, support=own / "support", query=own / "labelled").metrics
    assert metrics.classes == ["ash", "birch", "cedar"]
    assert (metrics.support_images, metrics.query_images) == (6, 6)
    # three saturated colours: after ten steps on six pictures of them the learner tells them apart
    assert metrics.accuracy_after == 1.0
    assert metrics.predictions[0].image == "ash/0.png"


def test_images_without_labels_give_predictions_with_probabilities(maml: str, own: Path) -> None:
    metrics = run(model=maml, support=own / "support", query=own / "plain").metrics
    assert (metrics.accuracy_before, metrics.accuracy_after) == (None, None)
    for prediction in metrics.predictions:
        assert prediction.label is None
        assert prediction.image.startswith(prediction.after)
        assert sum(prediction.probabilities.values()) == pytest.approx(1.0, abs=1e-5)
        assert max(prediction.probabilities, key=prediction.probabilities.__getitem__) == prediction.after


def test_a_committed_model_judges_each_image_on_its_own(home: Path, tmp_path: Path) -> None:
    """Probabilities to 1e-6: with the size of a batch, sums are rounded in another order."""
    for number, colour in enumerate([(200, 60, 60), (60, 200, 60), (60, 60, 200), (150, 150, 60), (120, 120, 120)]):
        paint(tmp_path / "support" / f"c{number}" / "0.png", colour, number)
        for i in range(3):
            paint(tmp_path / "all" / f"c{number}" / f"{number}-{i}.png", colour, 10 * number + i + 5)
    shutil.copytree(tmp_path / "all" / "c2", tmp_path / "one" / "c2")
    (tmp_path / "single").mkdir()
    shutil.copy(tmp_path / "all" / "c2" / "2-1.png", tmp_path / "single")
    assert command(["models", "import", str(COMMITTED)]) == 0

    def judged(folder: str, *flags: str) -> tuple[dict[str, Any], list[str]]:
        words = ["adapt", COMMITTED.name, "--support", str(tmp_path / "support"), "--query", str(tmp_path / folder)]
        assert command([*words, *flags, "--json", str(tmp_path / "result.json")]) == 0
        result = json.loads((tmp_path / "result.json").read_text())
        return {Path(p["image"]).name: p for p in result["metrics"]["predictions"]}, result["notes"]

    together, notes = judged("all")
    assert len(together) == 15
    assert not [note for note in notes if "depends on the other query images" in note]
    for folder, number in (("one", 3), ("single", 1)):
        found, _ = judged(folder)
        assert len(found) == number
        for name, prediction in found.items():
            assert (prediction["before"], prediction["after"]) == (together[name]["before"], together[name]["after"])
            assert prediction["probabilities"] == pytest.approx(together[name]["probabilities"], abs=1e-6)
    for statistics in ("apart", "together"):
        (one, notes), (single, _) = (judged(folder, "--batch-stats", statistics) for folder in ("one", "single"))
        assert len([note for note in notes if "depends on the other query images" in note]) == 1
        assert one["2-1.png"]["probabilities"] != pytest.approx(single["2-1.png"]["probabilities"], abs=1e-3)


def test_a_support_alone_is_enough(maml: str, own: Path) -> None:
    metrics = run(model=maml, support=own / "support").metrics
    assert metrics.predictions == []
    assert metrics.accuracy_after is None


def test_an_adapted_model_can_be_probed_and_is_not_the_default_model(maml: str) -> None:
    run(model=maml, name="child")
    result = probe.run(ProbeSettings(models=("child",), n_episodes=2, threads=1), SilentReporter())
    assert result.models[0].parent == maml
    default = probe.run(ProbeSettings(n_episodes=2, threads=1), SilentReporter())
    assert default.models[0].name == maml


def test_replacing_a_model_needs_force(maml: str) -> None:
    run(model=maml, name="child")
    with pytest.raises(StoreError, match="model `child` exists"):
        run(model=maml, name="child", episode=1)
    run(model=maml, name="child", episode=1, force=True)


def test_a_single_class_is_an_error(maml: str, own: Path) -> None:
    shutil.copytree(own / "support" / "ash", own / "only" / "ash")
    with pytest.raises(EpisodeError, match=r"has 1 class, and a choice needs at least 2"):
        run(model=maml, support=own / "only")


def test_support_images_outside_class_folders_are_an_error(maml: str, own: Path) -> None:
    with pytest.raises(EpisodeError, match="outside class folders"):
        run(model=maml, support=own / "plain")


def test_broken_images_are_named(maml: str, own: Path) -> None:
    (own / "support" / "ash" / "0.png").write_bytes(b"<html>no</html>")
    with pytest.raises(DataError, match=r"ash/0\.png"):
        run(model=maml, support=own / "support")
    assert Store(None).model_names() == [maml]


def test_single_images_are_classified_as_in_a_folder(maml: str, own: Path) -> None:
    photos = [(own / "plain" / "cedar-1.png").rename(own / "plain" / "without-suffix"), own / "plain" / "ash-1.png"]
    several = run(model=maml, support=own / "support", query=tuple(photos)).metrics
    (own / "two").mkdir()
    for photo in photos:
        (own / "two" / photo.name).write_bytes(photo.read_bytes())
    assert several.predictions == run(model=maml, support=own / "support", query=own / "two").metrics.predictions
    assert [(p.image, p.label, p.after) for p in several.predictions] == [
        ("ash-1.png", None, "ash"),
        ("without-suffix", None, "cedar"),
    ]
    alone = run(model=maml, support=own / "support", query=photos[1]).metrics
    assert [p.image for p in alone.predictions] == ["ash-1.png"]


def test_images_of_one_name_are_told_apart_by_their_folder(maml: str, own: Path) -> None:
    photos = (own / "labelled" / "ash" / "0.png", own / "labelled" / "cedar" / "0.png")
    metrics = run(model=maml, support=own / "support", query=photos).metrics
    assert [(p.image, p.label) for p in metrics.predictions] == [("ash/0.png", None), ("cedar/0.png", None)]


def test_each_query_file_is_classified_once_and_under_a_name_of_its_own(maml: str, own: Path) -> None:
    for folder in ("p/photos", "q/photos"):
        paint(own / folder / "1.png", (9, 9, 9), 0)
    query = (own / "labelled" / "ash" / "0.png", own / "labelled", own / "p" / "photos", own / "q" / "photos")
    metrics = run(model=maml, support=own / "support", query=query).metrics
    found = [(p.image, p.label) for p in metrics.predictions]
    labelled = [(f"labelled/{name}/{i}.png", name) for name in ("ash", "birch", "cedar") for i in range(2)]
    assert found == [*labelled, ("photos (2)/1.png", None), ("photos/1.png", None)]


def test_a_folder_of_images_in_a_class_folder_is_not_a_class(maml: str, own: Path) -> None:
    direct = run(model=maml, support=own / "support", query=own / "labelled", save=False).metrics
    for folder in [*(own / "support").iterdir(), *(own / "labelled").iterdir()]:
        (folder / "images").mkdir()
        for image in folder.glob("*.png"):
            image.rename(folder / "images" / image.name)
    nested = run(model=maml, support=own / "support", query=own / "labelled", save=False).metrics
    assert nested.classes == ["ash", "birch", "cedar"]
    assert [p.label for p in nested.predictions] == [p.label for p in direct.predictions]
    assert nested.accuracy_after == direct.accuracy_after
    (own / "labelled" / "ash" / "images").rename(own / "labelled" / "ash" / "sub")
    with pytest.raises(DataError, match=r"unclear whether `labelled/ash` is a class .*: `labelled/ash/sub`"):
        run(model=maml, support=own / "support", query=own / "labelled", save=False)


def test_query_folders_that_are_no_classes_of_the_support_are_named_in_a_note(maml: str, own: Path) -> None:
    for folder in ("elm", "fir"):
        paint(own / "others" / folder / "0.png", (9, 9, 9), 0)
    paint(own / "others" / "0.png", (9, 9, 9), 1)
    result = run(model=maml, support=own / "support", query=own / "others")
    assert result.metrics.accuracy_after is None
    assert "none of the folders `elm`, `fir` is a class of the support: no accuracy" in result.notes


def test_unreadable_images_are_an_error_or_left_out(maml: str, own: Path) -> None:
    for folder in ("support/ash", "plain"):
        (own / folder / "cut.png").write_bytes(b"<html>no</html>")
        (own / folder / "gone.png").symlink_to("nowhere")
    for query in (own / "plain", own / "plain" / "cut.png"):
        with pytest.raises(DataError, match=r"not all images .*can be read: `support/ash/gone\.png` is a link"):
            run(model=maml, support=own / "support", query=query)
    (own / "support" / "ash" / "gone.png").unlink()
    result = run(model=maml, support=own / "support", query=own / "plain", skip_broken=True)
    assert (result.metrics.support_images, result.metrics.query_images) == (6, 6)
    assert "skipped 1 unreadable file: `support/ash/cut.png` is not an image but an HTML page" in result.notes
    assert any(note.startswith("skipped 2 unreadable files: `plain/gone.png` is a link") for note in result.notes)
    with pytest.raises(
        DataError, match=r"not all images in `.*cut\.png` can be read: `plain/cut\.png` is not an image"
    ):
        run(model=maml, support=own / "support", query=own / "plain" / "cut.png", skip_broken=True)


def test_a_missing_folder_is_named(maml: str, own: Path) -> None:
    with pytest.raises(DataError, match="nowhere") as caught:
        run(model=maml, support=own / "nowhere")
    assert caught.value.hint == "give an existing folder, tar, zip, array or Parquet file of images"


@pytest.mark.parametrize("query", ["nowhere", "notes.txt", "empty"])
def test_errors_of_a_query_mention_single_images(maml: str, own: Path, query: str) -> None:
    (own / "notes.txt").write_text("no image")
    (own / "empty").mkdir()
    with pytest.raises(DataError, match=query) as caught:
        run(model=maml, support=own / "support", query=own / query)
    assert "folder, tar, zip, array or Parquet file of images, or an image" in (caught.value.hint or "")


def test_a_query_needs_a_support(maml: str, own: Path) -> None:
    with pytest.raises(UsageError, match="--query needs --support"):
        run(model=maml, query=own / "plain")


def test_a_query_with_an_unknown_class_folder_is_an_error(maml: str, own: Path) -> None:
    paint(own / "labelled" / "elm" / "0.png", (9, 9, 9), 0)
    with pytest.raises(EpisodeError, match="not a class of the support set: elm"):
        run(model=maml, support=own / "support", query=own / "labelled")


def test_the_result_records_the_episode(maml: str) -> None:
    config = run(model=maml).config
    assert [config[name] for name in ("n_way", "n_shot", "n_query", "data")] == [3, 1, 3, "mini-imagenet"]


def test_an_episode_together_with_a_support_directory_is_an_error(maml: str, own: Path) -> None:
    with pytest.raises(UsageError, match="--episode and --support"):
        run(model=maml, support=own / "support", episode=7)


def test_an_adapted_model_that_cannot_be_saved_leaves_no_empty_directory(
    maml: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StoreError("no space left on device")

    monkeypatch.setattr(saving, "save_checkpoint", full)
    with pytest.raises(StoreError, match="no space"):
        run(model=maml)
    assert [path.name for path in (home / "models").iterdir()] == [maml]


def test_logits_that_are_not_finite_leave_no_model(maml: str) -> None:
    with pytest.raises(DivergedError, match="not finite of model `maml` after adaptation"):
        run(model=maml, rates=("1e38",), name="broken")
    assert "broken" not in Store(None).model_names()


def test_without_save_the_predictions_are_the_same_and_no_model_is_left(maml: str, home: Path) -> None:
    saved, unsaved = run(model=maml), run(model=maml, save=False)
    assert unsaved.metrics == saved.metrics
    assert (saved.config["name"], unsaved.config["name"]) == ("maml-adapted", None)
    assert unsaved.notes[-1] == "the adapted model is not stored"
    assert Store(home).model_names() == ["maml", "maml-adapted"]
    with pytest.raises(UsageError, match="--name names the adapted model, and --no-save stores none"):
        run(model=maml, save=False, name="x")
