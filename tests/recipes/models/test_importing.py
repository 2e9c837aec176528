from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nilr.checkpoint import load_checkpoint, save_checkpoint
from nilr.config.base import Settings
from nilr.config.meta_train import TrainSettings
from nilr.config.models import ImportSettings, ModelsSettings
from nilr.config.reproduce import ReproduceSettings
from nilr.errors import CheckpointError, NilrError, StoreError, UsageError
from nilr.recipes import meta_train
from nilr.recipes.models import importing as models_import
from nilr.recipes.models import list_models, remove_models, verify_models
from nilr.recipes.reproduce.plan import ExperimentPlan
from nilr.reporting import SilentReporter
from nilr.results.commands import ImportedModel
from nilr.results.records import DataUsed
from nilr.store import Store
from tests.trained import train_model

COMMITTED = Path(__file__).parents[3] / "docs" / "reproduction" / "cpu"
QUICK: dict[str, Any] = {
    "algo": "metasgd", "filters": 4, "n_way": 3, "n_query": 3, "meta_batch_size": 2, "outer_steps": 4,
    "eval_every": 2, "eval_episodes": 3, "log_every": 1, "threads": 1,
}  # fmt: skip


def bring(*sources: Path, **more: Any) -> dict[str, ImportedModel]:
    return models_import.run(ImportSettings(sources=sources, **more), SilentReporter()).metrics


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture
def given(home: Path, pack: Path, tmp_path: Path, one_thread: None) -> Path:
    """Train a model, and return its directory, which is outside the store."""
    train_model(name="m", **QUICK)
    return Path(shutil.move(home / "models" / "m", tmp_path / "m"))


def change(path: Path, **origin: Any) -> None:
    """Write a checkpoint anew, with its seal, with other fields of its manifest."""
    old = load_checkpoint(path)
    fields = ("architecture", "algorithm", "settings", "data", "outer_step", "metrics", "engine", "parent")
    kept: dict[str, Any] = old.manifest.model_dump(include=set(fields))
    save_checkpoint(path, params=old.params, inner_lr=old.inner_lr, **{**kept, **origin})


def test_a_model_is_copied_unchanged(given: Path, home: Path) -> None:
    (given / "training.safetensors").unlink()
    (given / "meta-train.json").write_text("{}")
    assert bring(given) == {
        "m": ImportedModel(
            status="finished",
            outer_step=4,
            files=["best.safetensors", "last.safetensors", "history.jsonl"],
            resumable=False,
            imported=True,
        )
    }
    expected = {name: content for name, content in contents(given).items() if name != "meta-train.json"}
    assert contents(home / "models" / "m") == expected
    assert [(row.name, row.status) for row in list_models(Settings(home=home), SilentReporter())] == [("m", "finished")]
    assert [check.problem for check in verify_models(ModelsSettings(home=home), SilentReporter())] == [None] * 3
    remove_models(ModelsSettings(home=home, models=["m"]), SilentReporter())
    assert (given / "last.safetensors").exists()


def test_only_force_replaces_another_model_with_the_same_name(given: Path, home: Path) -> None:
    bring(given)
    assert not bring(given)["m"].imported
    assert not bring(given, force=True)["m"].imported
    (given / "training.safetensors").unlink()
    change(given / "last.safetensors", engine="reference")
    before = contents(home / "models" / "m")
    with pytest.raises(StoreError, match="another model `m` exists") as caught:
        bring(given)
    assert "--force" in (caught.value.hint or "")
    assert contents(home / "models" / "m") == before
    assert bring(given, force=True)["m"].imported
    assert contents(home / "models" / "m") == contents(given)
    assert [path.name for path in (home / "models").iterdir()] == ["m"]


def test_name_renames_one_model(given: Path, home: Path) -> None:
    assert list(bring(given, name="other")) == ["other"]
    with pytest.raises(UsageError, match="--name is for one model, and 2 are given"):
        bring(given, given, name="x")
    with pytest.raises(UsageError, match="two of the models have the name `m`"):
        bring(given, given)
    with pytest.raises(UsageError, match="no model to import"):
        bring()
    with pytest.raises(StoreError, match="is not a valid name of a model"):
        bring(given, name="../m")
    assert [row.name for row in list_models(Settings(home=home), SilentReporter())] == ["other"]


def test_one_checkpoint_is_a_model_too(given: Path, home: Path) -> None:
    alone = given.parent / "alone.safetensors"
    shutil.copy(given / "last.safetensors", alone)
    assert bring(alone)["alone"].files == ["last.safetensors"]
    assert bring(given / "best.safetensors", name="b")["b"].files == ["best.safetensors"]
    assert Store(home).find_model("alone").checkpoint == "last"
    assert Store(home).find_model("b").checkpoint == "best"


def test_an_imported_training_resumes_as_without_the_import(given: Path, home: Path) -> None:
    longer = {**QUICK, "outer_steps": 6}
    meta_train.run(TrainSettings(name="whole", **longer), SilentReporter())
    assert bring(given)["m"].resumable
    meta_train.run(TrainSettings(name="m", resume="auto", **longer), SilentReporter())
    ours, whole = (load_checkpoint(home / "models" / name / "last.safetensors").digest for name in ("m", "whole"))
    assert ours == whole


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"name": "m", "resume": "auto", **QUICK}, r"no training state \(training.safetensors\) to resume from"),
        ({"name": "m", "resume": "auto", **QUICK, "outer_steps": 6}, "no training state"),
        ({"resume": "m"}, "no training state"),
        ({"name": "m", "resume": "auto", **QUICK, "filters": 5}, "is trained with --filters 4, not with 5"),
        ({"name": "m", "resume": "auto", **QUICK, "seed": 1}, "is trained with --seed 0, not with 1"),
        ({"name": "m", **QUICK}, "model `m` exists"),
    ],
)
def test_a_model_without_training_state_cannot_be_resumed(
    given: Path, home: Path, flags: dict[str, Any], words: str
) -> None:
    (given / "training.safetensors").unlink()
    bring(given)
    before = contents(home / "models" / "m")
    with pytest.raises(StoreError, match=words) as caught:
        meta_train.run(TrainSettings(**flags), SilentReporter())
    assert caught.value.hint
    assert contents(home / "models" / "m") == before


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def link(path: Path) -> None:
    path.symlink_to(path.rename(path.with_suffix(".kept")))


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def of_seed(path: Path, seed: object = 7, **more: object) -> None:
    change(path, settings={**load_checkpoint(path).manifest.settings, "seed": seed, **more})


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (lambda m: flip(m / "best.safetensors"), "tensors is not the recorded one"),
    "a flipped bit of the state": (lambda m: flip(m / "training.safetensors"), "tensors is not the recorded one"),
    "a cut": (lambda m: (m / "last.safetensors").write_bytes(b"\x08"), "is not a safetensors file"),
    "a state in a checkpoint's place": (
        lambda m: shutil.copy(m / "training.safetensors", m / "last.safetensors"), "expected `nilr/checkpoint`",
    ),
    "a link": (lambda m: link(m / "last.safetensors"), "is not a regular file"),
    "a linked history": (lambda m: link(m / "history.jsonl"), "is not a regular file"),
    "a pipe": (lambda m: pipe(m / "history.jsonl"), "is not a regular file"),
    "a directory": (lambda m: folder(m / "history.jsonl"), "is not a regular file"),
    "an invalid history": (lambda m: (m / "history.jsonl").write_text("{}\n"), "line 1: `outer_step`: "),
    "nothing": (lambda m: [path.unlink() for path in m.iterdir()], "contains no checkpoint"),
    "checkpoints of other names": (
        lambda m: [(m / f"{name}.safetensors").rename(m / f"{name}-1.safetensors") for name in ("best", "last")],
        "contains no checkpoint",
    ),
    "no directory": (shutil.rmtree, "does not exist"),
    "a best checkpoint of another seed": (lambda m: of_seed(m / "best.safetensors"), "belong to different trainings"),
    "a best checkpoint of a later update": (
        lambda m: change(m / "best.safetensors", outer_step=5), "belong to different trainings",
    ),
    "checkpoints of another training than the state": (
        lambda m: [of_seed(m / f"{name}.safetensors") for name in ("best", "last")], "belong to different trainings",
    ),
    "a checkpoint on another pack": (
        lambda m: change(m / "last.safetensors", data={"name": "x", "digest": "0", "image_size": 16}),
        "belong to different trainings",
    ),
    "invalid settings": (
        lambda m: [of_seed(m / f"{name}.safetensors", n_shot="many") for name in ("best", "last")], "n_shot",
    ),
    "another architecture than the tensors": (
        lambda m: change(
            m / "last.safetensors",
            architecture={"name": "conv4", "arguments": {"n_way": 3, "image_size": 16, "filters": 5}},
        ),
        "its tensors do not fit its architecture",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_an_invalid_model_is_one_error_and_nothing_is_imported(given: Path, home: Path, what: str) -> None:
    good = Path(shutil.copytree(given, given.parent / "good"))
    spoil, words = HOSTILE[what]
    spoil(given)
    with pytest.raises(NilrError, match=words) as caught:
        bring(good, given)
    assert "\n" not in caught.value.message
    assert str(given) in caught.value.message or "model `m`" in caught.value.message
    assert list_models(Settings(home=home), SilentReporter()) == []


def test_a_model_that_changes_while_it_is_copied_is_not_imported(
    given: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = shutil.copyfile

    def changing(source: Path, target: Path, **more: Any) -> Any:
        if source.name == "last.safetensors":
            change(source, metrics={})
        return whole(source, target, **more)

    monkeypatch.setattr(shutil, "copyfile", changing)
    with pytest.raises(CheckpointError, match="changed during the copy"):
        bring(given)
    assert list((home / "models").iterdir()) == []


@pytest.mark.parametrize("name", ["best.safetensors", "history.jsonl"])
def test_a_link_that_replaces_a_file_after_the_check_is_not_imported(
    given: Path, home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    whole = shutil.copyfile

    def linking(source: Path, target: Path, **more: Any) -> Any:
        if source.name == name:
            link(source)
        return whole(source, target, **more)

    monkeypatch.setattr(shutil, "copyfile", linking)
    with pytest.raises(CheckpointError, match="changed during the copy"):
        bring(given)
    assert list((home / "models").iterdir()) == []


def test_a_copy_that_is_damaged_is_not_kept(given: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = shutil.copyfile

    def damaging(source: Path, target: Path, **more: Any) -> None:
        whole(source, target, **more)
        flip(target)

    monkeypatch.setattr(shutil, "copyfile", damaging)
    with pytest.raises(CheckpointError, match="changed during the copy"):
        bring(given)
    assert list((home / "models").iterdir()) == []


def test_a_model_in_use_is_not_replaced(given: Path, home: Path) -> None:
    bring(given)
    change(given / "last.safetensors", engine="reference")
    with Store(home).lock("m"), pytest.raises(StoreError, match="in use by another process"):
        bring(given, force=True)


@pytest.mark.parametrize("directory", sorted(COMMITTED.glob("cpu-*/")), ids=lambda path: path.name)
def test_a_committed_model_is_the_experiment_s_own_training(directory: Path, home: Path) -> None:
    bring(directory)
    # the digest of the real images at 32 px, as `nilr prepare-data` reports it
    digest = "acc9b6fe53c19676cc743a0a2abefacc538a7e9d19af766c85377c8f386bebc6"

    def plan(digest: str) -> ExperimentPlan:
        data = DataUsed(name="x", digest=digest, image_size=32)
        return ExperimentPlan(ReproduceSettings(preset="cpu", seeds=8), Store(home), "mini-imagenet-32", data)

    (model,) = (model for model in plan(digest).models if model.name == directory.name)
    assert plan(digest).is_trained(model)
    assert not plan("0" * 64).is_trained(model)
    other = next(other for other in plan(digest).models if other.name != directory.name)
    bring(directory, name=other.name)
    assert not plan(digest).is_trained(other)
    manifest = load_checkpoint(directory / "best.safetensors").manifest
    trained = json.loads((directory / "meta-train.json").read_text())
    assert trained["metrics"]["best_outer_step"] == manifest.outer_step
    assert trained["metrics"]["best_val_accuracy"] == manifest.metrics["best_val_accuracy"]
