"""Trainings that use the rates of another model, and fixed rates of any sign."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nilr.checkpoint import load_checkpoint
from nilr.config.base import Settings
from nilr.config.evaluation import AdaptSettings, ProbeSettings, RatesSettings
from nilr.config.meta_train import TrainSettings
from nilr.config.models import ImportSettings
from nilr.errors import Interrupted, StoreError, UsageError
from nilr.recipes import adapt, meta_train, probe, rates
from nilr.recipes.models import importing, list_models
from nilr.reporting import SilentReporter
from tests.recipes.meta_train.test_meta_train import SignalAt, contents, train
from tests.training_states import read_state

pytestmark = pytest.mark.usefixtures("pack", "one_thread")


@pytest.fixture
def settings(quick: dict[str, Any]) -> dict[str, Any]:
    """Return settings with which learned rates soon become negative."""
    return quick | {"outer_lr": 0.01, "eval_every": 0}


@pytest.fixture
def sgd(pack: Path, settings: dict[str, Any]) -> Path:
    """Train Meta-SGD, whose rates have both signs then."""
    directory = train(algo="metasgd", name="sgd", inner_lr_init="0.02", **settings)
    learned = last(directory).inner_lr
    assert any((rate < 0).any() for rate in learned.values())
    return directory


def last(directory: Path) -> Any:
    return load_checkpoint(directory / "last.safetensors")


def test_fixed_rates_are_the_means_of_a_model_s_rates_and_stay(sgd: Path, settings: dict[str, Any]) -> None:
    directory = train(name="means", inner_lr_from="sgd", norm_adapted=True, inner_steps=1, **settings)
    learned, made = last(sgd), last(directory)
    assert made.inner_lr.keys() == learned.inner_lr.keys()
    for name, rate in made.inner_lr.items():
        assert rate.shape == ()
        assert float(rate) == pytest.approx(learned.inner_lr[name].double().mean().item(), rel=1e-5)
    reference = made.manifest.reference
    assert (reference.name, reference.digest) == ("sgd", learned.digest)
    assert made.manifest.settings["inner_lr_from"] == "sgd"
    assert made.manifest.settings["inner_lr"] is None
    fewer = last(train(name="fewer", inner_lr_from=f"{sgd}/last.safetensors", inner_steps=1, **settings))
    assert not any(".norm." in name for name in fewer.inner_lr)
    assert fewer.manifest.settings["inner_lr_from"] == "last.safetensors"
    assert fewer.manifest.reference.name == "sgd"


def test_the_result_names_the_model_and_claims_no_sign_and_seeds_share_a_recipe(settings: dict[str, Any]) -> None:
    used = []
    for seed in (0, 1):
        train(algo="metasgd", name=f"sgd{seed}", seed=seed, **settings)
        how = TrainSettings(inner_lr_from=f"sgd{seed}", seed=seed, name=f"means{seed}", **settings)
        used.append(meta_train.run(how, SilentReporter()).models[0])
    assert [one.reference.name for one in used if one.reference] == ["sgd0", "sgd1"]
    assert [one.claimed for one in used] == [False, False]
    assert used[0].recipe == used[1].recipe
    plain = meta_train.run(TrainSettings(name="plain", **settings), SilentReporter()).models[0]
    assert plain.reference is None
    assert plain.recipe != used[0].recipe


def test_rates_have_the_norms_of_a_model_s_rates(sgd: Path, settings: dict[str, Any]) -> None:
    how = {"algo": "metasgd", "rate_constraint": "non-negative", "inner_lr_init": "0.02", **settings}
    made, free, other = last(train(name="norms", rate_norm_from="sgd", **how)), last(sgd), last(train(**how))
    conv = "body.block1.conv.weight"
    assert free.inner_lr[conv].norm().item() != pytest.approx(other.inner_lr[conv].norm().item(), rel=1e-2)
    for name, rate in made.inner_lr.items():
        norm = free.inner_lr[name].double().square().sum().sqrt().item()
        assert rate.min() >= 0
        assert rate.double().square().sum().sqrt().item() == pytest.approx(norm, rel=1e-5)


CONTROLS: dict[str, dict[str, Any]] = {
    "means": {"inner_lr_from": "sgd", "norm_adapted": True},
    "norms": {"algo": "metasgd", "rate_constraint": "non-negative", "rate_norm_from": "sgd"},
    "fixed signs": {"algo": "metasgd", "inner_lr_init": "random-sign:0.02", "rate_constraint": "fixed-signs"},
    "negative": {"inner_lr": -0.05},
}


@pytest.mark.sampled(1)
@pytest.mark.usefixtures("sgd")
@pytest.mark.parametrize("control", CONTROLS)
def test_an_interrupted_control_resumes_bit_for_bit_by_name_and_by_auto(
    control: str, settings: dict[str, Any], quick: dict[str, Any]
) -> None:
    how = quick | settings | CONTROLS[control] | {"eval_every": 4}
    whole = contents(train(name="whole", **how))
    for resume in ("halved", "auto"):
        with pytest.raises(Interrupted):
            meta_train.run(TrainSettings(name="halved", force=True, **how), SignalAt(3))
        flags = {"name": "halved", **how} if resume == "auto" else {"threads": 1}
        assert contents(train(resume=resume, **flags)) == whole


def test_fixed_signs_from_positive_rates_are_non_negative_rates(settings: dict[str, Any]) -> None:
    how = {"algo": "metasgd", "inner_lr_init": "0.02", **settings}
    fixed, positive = (last(train(rate_constraint=c, **how)) for c in ("fixed-signs", "non-negative"))
    assert fixed.digest == positive.digest
    assert fixed.manifest.algorithm["constraint"] == "fixed-signs"


def test_no_rate_leaves_the_side_where_it_started(settings: dict[str, Any]) -> None:
    how = settings | {"algo": "metasgd", "inner_lr_init": "random-sign:0.02"}
    with pytest.raises(Interrupted):
        meta_train.run(TrainSettings(name="start", **how | {"outer_lr": 1e-9}), SignalAt(1))
    start = last(train(resume="start", threads=1))
    free, fixed = (last(train(rate_constraint=constraint, **how)) for constraint in ("free", "fixed-signs"))

    def crossed(model: Any) -> int:
        return sum(int((rate * start.inner_lr[name] < 0).sum()) for name, rate in model.inner_lr.items())

    assert crossed(free) > 0
    assert crossed(fixed) == 0


@pytest.mark.sampled(4)
@pytest.mark.usefixtures("sgd")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"inner_lr_from": "sgd", "algo": "metasgd"}, UsageError, "`metasgd` learns its inner rates"),
        ({"inner_lr_from": "sgd", "inner_lr": 0.1}, UsageError, "both set the fixed rates"),
        ({"inner_lr_from": "sgd", "filters": 5}, UsageError, "has no rates that fit `body.block1.conv.weight`"),
        ({"inner_lr_from": "sgd", "n_way": 4}, UsageError, "has no rates that fit `head.weight`"),
        ({"inner_lr_from": "nowhere"}, StoreError, "no model `nowhere`"),
        ({"rate_norm_from": "sgd"}, UsageError, "`maml` has a fixed inner rate and does not support --rate-norm-from"),
        ({"rate_norm_from": "sgd", "algo": "lslr"}, UsageError, "has no rates that fit"),
        ({"rate_norm_from": "sgd", "algo": "sparse-maml"}, UsageError, "cannot scale rates"),
        (
            {"rate_norm_from": "sgd", "algo": "metasgd", "rate_constraint": "bounded:0,1"},
            UsageError,
            "cannot scale rates",
        ),
        ({"rate_norm_from": "sgd", "algo": "metasgd", "rate_grain": "scalar"}, UsageError, "no rates that fit `all`"),
    ],
)
def test_a_model_whose_rates_cannot_be_used_is_one_error_and_leaves_nothing(
    change: dict[str, Any], error: type[Exception], message: str, settings: dict[str, Any]
) -> None:
    with pytest.raises(error, match=message) as caught:
        train(name="x", **settings | change)
    assert getattr(caught.value, "hint", None)
    assert [row.name for row in list_models(Settings(), SilentReporter())] == ["sgd"]


def test_a_training_does_not_continue_with_another_model_s_rates(sgd: Path, settings: dict[str, Any]) -> None:
    train(name="means", inner_lr_from="sgd", **settings)
    train(algo="metasgd", name="sgd", force=True, **settings)
    with pytest.raises(StoreError, match="uses the rates of another `sgd`"):
        train(name="means", inner_lr_from="sgd", resume="auto", **settings)


def test_the_norms_are_in_the_training_state_and_may_not_be_negative(sgd: Path, settings: dict[str, Any]) -> None:
    directory = train(name="norms", algo="metasgd", rate_norm_from="sgd", **settings)
    tensors, _ = read_state(directory / "training.safetensors")
    assert {name for name in tensors if name.startswith("rate_norm/")} == {
        f"rate_norm/{name}" for name in last(directory).inner_lr
    }


@pytest.mark.parametrize("rate", [-0.05, 0.0])
def test_a_model_with_a_negative_or_zero_rate_is_probed_adapted_described_and_imported(
    rate: float, settings: dict[str, Any], tmp_path: Path
) -> None:
    directory = train(name="x", inner_lr=rate, **settings)
    kept = last(directory)
    assert {float(value) for value in kept.inner_lr.values()} == {torch.tensor(rate).item()}
    assert kept.manifest.settings["inner_lr"] == rate
    asked = ProbeSettings(models=("x",), n_episodes=3, rates=("learned", str(rate), "-0.1"), threads=1)
    result = probe.run(asked, SilentReporter())
    edits = result.metrics["x"].edits
    assert edits["learned"].same_task.accuracy == edits[str(rate)].same_task.accuracy
    if rate == 0:
        assert edits["learned"].same_task.delta.verdict == "exactly zero"
    assert result.models[0].claimed is False
    assert result.notes[-1].startswith("This probe measured none of the paper's four signs")
    figures = rates.run(RatesSettings(models=("x",), n_episodes=2, threads=1), SilentReporter()).metrics["x"].all
    assert figures.share_negative == (1 if rate < 0 else 0)
    assert figures.mean == pytest.approx(rate)
    adapted = adapt.run(AdaptSettings(model="x", rates=(str(rate),), threads=1), SilentReporter())
    metrics = adapted.metrics
    assert (metrics.support_loss_after > metrics.support_loss_before) == (rate < 0)
    copies = ImportSettings(sources=(directory,), name="copy")
    assert importing.run(copies, SilentReporter()).metrics["copy"].status == "finished"
    assert json.loads(adapted.model_dump_json())["models"][0]["claimed"] is False
