"""The preset `controls`: trainings that differ from Meta-SGD's in one choice each."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from nilr.checkpoint import Checkpoint, load_checkpoint, read_manifest
from nilr.config.experiments import EXPERIMENTS
from nilr.config.meta_train import TrainSettings
from nilr.config.packs import PrepareDataSettings
from nilr.config.reproduce import ReproduceSettings
from nilr.recipes import meta_train, prepare_data, report, reproduce
from nilr.recipes.reproduce.plan import ExperimentPlan
from nilr.reporting import SilentReporter
from nilr.results.records import DataUsed
from nilr.store import Store
from tests.recipes.listening import Listening

pytestmark = pytest.mark.usefixtures("home", "one_thread")

COMMITTED = Path(__file__).parents[3] / "docs" / "reproduction" / "cpu"


def test_the_committed_models_of_cpu_are_shared_and_the_controls_are_to_train(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for model in COMMITTED.glob("cpu-*-s0"):
        shutil.copytree(model, store.model_dir(model.name))
    pack = read_manifest(COMMITTED / "cpu-maml-s0" / "best.safetensors").data
    data = DataUsed(name=pack.name, digest=pack.digest, image_size=pack.image_size)
    plan = ExperimentPlan(ReproduceSettings(preset="controls", seeds=1, home=tmp_path), store, pack.name, data)
    assert {model.name: plan.is_trained(model) for model in plan.models} == {
        "cpu-maml-s0": True,
        "cpu-metasgd-s0": True,
        "cpu-metasgd-nonneg-s0": True,
        "cpu-maml-mean-rates-s0": False,
        "cpu-metasgd-nonneg-norm-s0": False,
        "cpu-metasgd-random-sign-s0": False,
        "cpu-metasgd-fixed-signs-s0": False,
        "cpu-metasgd-5step-s0": False,
    }
    assert plan.folder.name == "controls"
    named = ExperimentPlan(ReproduceSettings(preset="controls", name="x"), store, pack.name, data)
    assert named.models[-1].name == "x-metasgd-5step-s4"


def run(**more: Any) -> Any:
    small = {"outer_steps": 2, "n_episodes": 2, "filters": 4, "threads": 1, "seeds": 1, "data": "synthetic", "jobs": 1}
    listening = Listening()
    return reproduce.run(ReproduceSettings(preset="controls", **small | more), listening), listening.notes


def test_each_control_is_trained_as_it_is_described_and_compared_with_its_counterpart(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "run", lambda settings, _reporter: None)
    controls = EXPERIMENTS["controls"]
    monkeypatch.setitem(
        EXPERIMENTS, "controls", dataclasses.replace(controls, train={**controls.train, "eval_every": 0})
    )
    prepare_data.run(PrepareDataSettings(synthetic=True, image_size=16, limit_per_class=40), SilentReporter())
    result, _ = run()
    models: dict[str, Checkpoint] = {
        name: load_checkpoint(home / "models" / f"cpu-{name}-s0" / "last.safetensors") for name in result.metrics.runs
    }
    free = models["metasgd"]
    for name, rate in models["maml-mean-rates"].inner_lr.items():
        assert float(rate) == pytest.approx(free.inner_lr[name].double().mean().item(), rel=1e-5)
        norm = models["metasgd-nonneg-norm"].inner_lr[name].double().norm().item()
        assert norm == pytest.approx(free.inner_lr[name].double().norm().item(), rel=1e-5)
    for name in ("metasgd-random-sign", "metasgd-fixed-signs"):
        values = torch.cat([rate.flatten() for rate in models[name].inner_lr.values()])
        assert 0.4 < (values < 0).double().mean() < 0.6
    assert models["metasgd-5step"].manifest.algorithm["inner_steps"] == 5
    runs = result.metrics.runs
    assert {name: figures.counterpart for name, figures in runs.items() if figures.counterpart} == {
        "metasgd-nonneg": "metasgd",
        "maml-mean-rates": "metasgd",
        "metasgd-nonneg-norm": "metasgd",
        "metasgd-random-sign": "metasgd",
        "metasgd-fixed-signs": "metasgd-random-sign",
        "metasgd-5step": "metasgd",
    }
    assert set(runs["maml-mean-rates"].to_counterpart) == {"same-task", "cross-task"}
    references = {model.name: model.reference for model in result.models if model.reference}
    assert {name: used.digest for name, used in references.items()} == {
        "cpu-maml-mean-rates-s0": free.digest,
        "cpu-metasgd-nonneg-norm-s0": free.digest,
    }
    assert run()[1][0] == "all trainings and probes are finished"

    other = {**EXPERIMENTS["controls"].train, "algo": "metasgd", "inner_lr_init": "0.01", "seed": 1}
    sizes: dict[str, Any] = {"outer_steps": 2, "filters": 4, "data": "synthetic", "threads": 1}
    meta_train.run(TrainSettings(name="cpu-metasgd-s0", force=True, **other | sizes), SilentReporter())
    plan = ExperimentPlan(
        ReproduceSettings(preset="controls", home=home, seeds=1, outer_steps=2, filters=4),
        Store(home),
        "synthetic",
        DataUsed(name="synthetic", digest=free.manifest.data.digest, image_size=16),
    )
    trained = {model.run.name: plan.is_trained(model) for model in plan.models}
    assert [name for name, done in trained.items() if not done] == ["metasgd", "maml-mean-rates", "metasgd-nonneg-norm"]
