from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from nilr.checkpoint import save_checkpoint
from nilr.config.base import Settings
from nilr.config.models import ModelSettings, ModelsSettings
from nilr.errors import CheckpointError, StoreError
from nilr.models.registry import build_learner
from nilr.recipes import models
from nilr.recipes.models import FileCheck, ModelRow, show
from nilr.reporting import SilentReporter
from nilr.results.commands import ModelCard
from nilr.store import Store
from tests.training_states import write_state

ROW = {
    "name": "metasgd",
    "moves": "all",
    "norm_adapted": True,
    "order": 2,
    "rates": "element",
    "inner_steps": 1,
    "eval_inner_steps": 1,
    "inner_lr_init": "0.01",
    "paper": "",
}


def list_models(home: Path) -> list[ModelRow]:
    return models.list_models(Settings(home=home), SilentReporter())


def show_model(home: Path, model: str | None) -> ModelCard:
    return show.run(ModelSettings(home=home, model=model), SilentReporter()).metrics


def verify_models(home: Path, *names: str) -> list[FileCheck]:
    return models.verify_models(ModelsSettings(home=home, models=names), SilentReporter())


def save(home: Path, name: str, checkpoint: str = "last", **change: object) -> Path:
    """Save a small conv4 whose head's rates are 0.1 and -0.3, one by one, and -0.2 for the bias."""
    arguments = {"n_way": 2, "image_size": 16, "filters": 2}
    params = build_learner("conv4", n_way=2, image_size=16, filters=2).initial_params()
    rates = torch.full_like(params["head.weight"], 0.1)
    rates[0] = -0.3
    origin: dict[str, Any] = {
        "architecture": {"name": "conv4", "arguments": arguments},
        "algorithm": ROW,
        "settings": {"algo": "metasgd", "n_way": 2, "n_shot": 1, "outer_steps": 100},
        "data": {"name": "synthetic", "digest": "ab", "image_size": 16},
        "outer_step": 100,
        "metrics": {"best_val_accuracy": {"mean": 0.625, "ci95": 0.01, "n_episodes": 10}},
        "engine": "reference",
        "parent": None,
        "params": params,
        "inner_lr": {"head.weight": rates, "head.bias": torch.tensor(-0.2)},
    }
    path = home / "models" / name / f"{checkpoint}.safetensors"
    save_checkpoint(path, **origin | change)
    return path


def flip_last_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_an_empty_store_lists_nothing(home: Path) -> None:
    assert list_models(home) == []


def test_a_row_describes_the_newest_checkpoint(home: Path) -> None:
    save(home, "metasgd", "best", outer_step=40)
    save(home, "metasgd")
    (row,) = list_models(home)
    assert row.model_dump(exclude={"saved_at", "bytes"}) == {
        "name": "metasgd",
        "status": "finished",
        "algo": "metasgd",
        "arch": "conv4",
        "n_way": 2,
        "n_shot": 1,
        "outer_step": 100,
        "outer_steps": 100,
        "val_accuracy": 0.625,
        "data": "synthetic",
        "image_size": 16,
        "parent": None,
        "problem": None,
    }
    assert row.saved_at is not None
    assert row.bytes == sum(file.stat().st_size for file in (home / "models" / "metasgd").iterdir())


def test_an_unfinished_training_is_interrupted(home: Path) -> None:
    save(home, "metasgd", outer_step=99)
    (home / "models" / "just-started").mkdir()
    assert [(row.name, row.status, row.outer_step) for row in list_models(home)] == [
        ("just-started", "unsaved", None),
        ("metasgd", "interrupted", 99),
    ]


def test_a_locked_model_is_running_and_shows_the_updates_of_its_history(home: Path) -> None:
    save(home, "finished")
    save(home, "saved", outer_step=50)
    (home / "models" / "unsaved").mkdir()
    for name in ("saved", "unsaved"):
        lines = [{"outer_step": 1, "outer_steps": 60_000}, {"outer_step": 120, "query_loss": 1.5}]
        (home / "models" / name / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    store = Store(home)
    with store.lock("finished"), store.lock("saved"), store.lock("unsaved"):
        rows = list_models(home)
    assert [(row.name, row.status, row.outer_step, row.outer_steps) for row in rows] == [
        ("finished", "running", 100, 100),
        ("saved", "running", 120, 60_000),
        ("unsaved", "running", 120, 60_000),
    ]
    assert [row.status for row in list_models(home)] == ["finished", "interrupted", "unsaved"]


def test_an_adapted_model_is_finished_and_names_its_parent(home: Path) -> None:
    save(home, "metasgd-adapted", outer_step=99, parent={"name": "metasgd", "digest": "ab"})
    (row,) = list_models(home)
    assert (row.status, row.parent, row.outer_steps) == ("finished", "metasgd", None)


def test_a_model_without_validation_has_no_accuracy(home: Path) -> None:
    save(home, "metasgd", metrics={"best_val_accuracy": None})
    save(home, "other", metrics={})
    assert [row.val_accuracy for row in list_models(home)] == [None, None]


def test_unreadable_models_are_listed_with_the_reason(home: Path) -> None:
    save(home, "cut").write_bytes(b"")
    save(home, "directory", "best").unlink()
    (home / "models" / "directory" / "best.safetensors").mkdir()
    save(home, "good")
    save(home, "half", "best").write_bytes(b"<html>")
    save(home, "half")
    save(home, "odd", settings={"n_shot": "many"})
    rows = {row.name: row for row in list_models(home)}
    assert {name: row.status for name, row in rows.items()} == {
        "cut": "unreadable",
        "directory": "interrupted",
        "good": "finished",
        "half": "unreadable",
        "odd": "unreadable",
    }
    assert "is not a safetensors file" in (rows["half"].problem or "")
    assert rows["good"].problem is None
    assert (rows["odd"].problem or "").startswith("manifest field `n_shot`: input should be a valid integer")


def test_listing_does_not_import_torch(home: Path) -> None:
    save(home, "metasgd")
    code = (
        "import sys; from nilr.config.base import Settings; from nilr.recipes.models import list_models;"
        "sys.exit('torch' in sys.modules or len(list_models(Settings(), None)) != 1)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_card_shows_the_rates_of_every_tensor_and_layer(home: Path) -> None:
    save(home, "metasgd")
    card = show_model(home, "metasgd")
    # the head's weight is 2 classes x 2 features (2 filters, 16 px halved four times): -0.3, -0.3, 0.1, 0.1
    weight, bias = sorted(card.rates_by_tensor, key=lambda row: -row.count)
    assert (weight.name, weight.count, weight.share_negative) == ("head.weight", 4, 0.5)
    assert (weight.min, weight.mean, weight.max) == pytest.approx((-0.3, -0.1, 0.1))
    assert (bias.name, bias.count, bias.share_negative) == ("head.bias", 1, 1.0)
    (layer,) = card.rates_by_layer
    assert (layer.name, layer.count, layer.share_negative) == ("head", 5, 0.6)
    assert (layer.min, layer.mean, layer.max) == pytest.approx((-0.3, -0.12, 0.1))
    assert (card.name, card.checkpoint, card.manifest.outer_step) == ("metasgd", "last", 100)
    # conv4 with 2 filters: 3*2*9 + 3 * 2*2*9 weights, 4 * (2 + 2) scales and shifts, 2*2 + 2 in the head
    assert card.n_params == 54 + 108 + 16 + 6


def test_a_card_groups_rates_by_layer(home: Path) -> None:
    names = ("body.block1.conv.weight", "body.block1.norm.bias", "body.block4.conv.weight", "head.bias")
    save(home, "metasgd", inner_lr={name: torch.tensor(0.1) for name in names})
    rows = show_model(home, "metasgd").rates_by_layer
    assert [(row.name, row.count) for row in rows] == [("block1", 2), ("block4", 1), ("head", 1)]


def test_a_card_without_rates_has_no_rows(home: Path) -> None:
    save(home, "metasgd", inner_lr={})
    card = show_model(home, None)
    assert (card.rates_by_tensor, card.rates_by_layer) == ([], [])


def test_a_card_is_never_made_from_a_damaged_file(home: Path) -> None:
    flip_last_bit(save(home, "metasgd"))
    with pytest.raises(CheckpointError, match="the SHA-256 of its tensors is not the recorded one"):
        show_model(home, "metasgd")


def test_a_model_is_found_as_its_best_or_the_named_checkpoint(home: Path) -> None:
    last, best = save(home, "metasgd"), save(home, "metasgd", "best")
    assert models.find_model(ModelSettings(home=home), SilentReporter()).file == best
    assert models.find_model(ModelSettings(home=home, model="metasgd@last"), SilentReporter()).file == last


def test_whole_models_are_verified_file_by_file(home: Path) -> None:
    directory = save(home, "metasgd").parent
    save(home, "metasgd", "best")
    values = {"settings": {}, "data": "mini-imagenet", "data_digest": "0" * 64, "progress": {}}
    write_state(directory / "training.safetensors", {}, values)
    (directory / "history.jsonl").write_text(json.dumps({"outer_step": 1}) + '\n{"outer_st')
    save(home, "other")
    checks = verify_models(home)
    assert [(check.model, check.file) for check in checks] == [
        ("metasgd", "best.safetensors"),
        ("metasgd", "last.safetensors"),
        ("metasgd", "training.safetensors"),
        ("metasgd", "history.jsonl"),
        ("other", "last.safetensors"),
    ]
    assert [check.problem for check in checks] == [None] * 5


def test_each_problem_is_reported_for_its_file(home: Path) -> None:
    last = save(home, "metasgd")
    flip_last_bit(save(home, "metasgd", "best"))
    (last.parent / "training.safetensors").write_bytes(last.read_bytes())
    (last.parent / "history.jsonl").write_text('{"outer_step": 1}\n[]\nx\n')
    problems = {check.file: check.problem or "" for check in verify_models(home, "metasgd")}
    assert problems["last.safetensors"] == ""
    assert "the SHA-256 of its tensors is not the recorded one" in problems["best.safetensors"]
    assert "expected `nilr/training-state`" in problems["training.safetensors"]
    assert "line 2: input should be an object" in problems["history.jsonl"]


def test_a_checkpoint_that_cannot_be_rebuilt_is_invalid(home: Path) -> None:
    save(home, "fewer", params={"head.bias": torch.zeros(2)}, inner_lr={})
    save(home, "unknown", architecture={"name": "conv99", "arguments": {}})
    save(home, "row", algorithm={"name": "metasgd"})
    problems = [check.problem or "" for check in verify_models(home, "fewer", "unknown", "row")]
    assert "its tensors do not fit its architecture" in problems[0]
    assert problems[1]
    assert "cannot be rebuilt" in problems[2]


def test_a_model_without_checkpoint_has_a_problem(home: Path) -> None:
    (home / "models" / "maml").mkdir(parents=True)
    assert [check.problem for check in verify_models(home)] == ["there is no checkpoint yet"]


def test_one_checkpoint_or_a_path_can_be_verified(home: Path, tmp_path: Path) -> None:
    last = save(home, "metasgd")
    flip_last_bit(save(home, "metasgd", "best"))
    assert [(check.file, check.problem) for check in verify_models(home, "metasgd@last")] == [(last.name, None)]
    elsewhere = tmp_path / "elsewhere"
    last.parent.rename(elsewhere)
    assert [check.problem is None for check in verify_models(home, str(elsewhere))] == [False, True]
    assert [check.problem for check in verify_models(home, str(elsewhere / last.name))] == [None]


def test_an_unknown_model_cannot_be_verified(home: Path) -> None:
    with pytest.raises(StoreError, match="no model `maml`"):
        verify_models(home, "maml")


def test_no_model_is_removed_if_one_is_unknown(home: Path) -> None:
    kept = save(home, "metasgd")
    with pytest.raises(StoreError, match="no model `maml`"):
        models.remove_models(ModelsSettings(home=home, models=["metasgd", "maml"]), SilentReporter())
    assert kept.exists()
    models.remove_models(ModelsSettings(home=home, models=["metasgd"]), SilentReporter())
    assert list_models(home) == []
