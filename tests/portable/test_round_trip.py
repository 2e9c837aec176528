"""Models that learn2learn trained, imported and exported again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nilr.config.models import ExportSettings, ImportSettings
from nilr.meta.engine.reference import adapt
from nilr.models.registry import build_learner
from nilr.portable.layouts import find_layout
from nilr.portable.state_dict import read_state_dict
from nilr.portable.translation import translate
from nilr.portable.writing import for_learn2learn
from nilr.recipes.common.loading import load_model
from nilr.recipes.models import exporting, importing
from nilr.reporting import SilentReporter
from nilr.store import Store
from tests.portable.networks import CNN4, adapted, episode, learn2learn, trained

N_WAY, SIZE, STEPS = 3, 32, 2
CPU = torch.device("cpu")


def wrapper_of(algorithm: str, dtype: torch.dtype) -> Any:
    library = learn2learn()
    torch.manual_seed(0)
    net = CNN4(N_WAY, 6, SIZE).to(dtype)
    for block in net.features:
        nn.init.uniform_(block.normalize.weight)
        nn.init.normal_(block.conv.bias, std=0.1)
    make = {
        "maml": lambda net: library.MAML(net, lr=0.1),
        "metasgd": lambda net: library.MetaSGD(net, lr=0.05),
    }[algorithm]
    return trained(make, net, STEPS, SIZE, N_WAY)


@pytest.mark.parametrize("algorithm", ["maml", "metasgd"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_model_of_learn2learn_is_imported(algorithm: str, suffix: str, home: Path, tmp_path: Path) -> None:
    wrapper = wrapper_of(algorithm, torch.float32)
    path = tmp_path / f"theirs.{suffix}"
    save(wrapper, path)
    rates = {"inner_lr": 0.1} if algorithm == "maml" else {}
    settings = ImportSettings(sources=(path,), image_size=SIZE, inner_steps=STEPS, **rates)
    result = importing.run(settings, SilentReporter())
    assert result.metrics["theirs"].format == "learn2learn"
    assert any("Dropped 4 convolution biases" in note for note in result.notes)
    model = load_model(Store(home), "theirs", device=CPU, engine="auto")
    assert model.engine.name != "reference"
    support, query, labels = episode(100, N_WAY, SIZE, torch.float32)
    assert distance(model.engine.features(model.params, query), wrapper.module.embed(query)) < 1e-6
    ours = model.engine.adapt(model.params, model.inner_lr, support, labels, steps=STEPS)
    theirs = adapted(wrapper, support, labels, STEPS)(query)
    assert distance(model.learner.logits(ours, query), theirs) < 1e-6
    if algorithm == "metasgd":
        named = {name: rate for (name, _), rate in zip(wrapper.module.named_parameters(), wrapper.lrs, strict=True)}
        assert torch.equal(model.inner_lr["body.block2.conv.weight"], named["features.1.conv.weight"])
        assert torch.equal(model.inner_lr["head.bias"], named["classifier.bias"])
        assert len(model.inner_lr) == len(model.params) == len(named) - 4


@pytest.mark.parametrize("algorithm", ["maml", "metasgd"])
def test_in_float64_it_is_the_same_function(algorithm: str, tmp_path: Path) -> None:
    wrapper = wrapper_of(algorithm, torch.float64)
    save(wrapper, tmp_path / "theirs.pt")
    found = translate(read_state_dict(tmp_path / "theirs.pt"), form=None, norm_step=None, ignored=())
    learner = build_learner("conv4", n_way=N_WAY, image_size=SIZE, filters=6)
    rates = found.inner_lr or {name: torch.tensor(0.1, dtype=torch.float64) for name in found.params}
    support, query, labels = episode(100, N_WAY, SIZE, torch.float64)
    ours = adapt(
        lambda params: nn.functional.cross_entropy(learner.logits(params, support), labels),
        found.params, rates, steps=STEPS,
    )  # fmt: skip
    theirs = adapted(wrapper, support, labels, STEPS)(query)
    assert distance(learner.logits(ours, query), theirs) < 1e-9


@pytest.mark.parametrize("algorithm", ["maml", "metasgd"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_it_goes_back_to_learn2learn(algorithm: str, suffix: str, home: Path, tmp_path: Path) -> None:
    library = learn2learn()
    wrapper = wrapper_of(algorithm, torch.float32)
    save(wrapper, tmp_path / "theirs.pt")
    rates = {"inner_lr": 0.1} if algorithm == "maml" else {}
    importing.run(
        ImportSettings(sources=(tmp_path / "theirs.pt",), image_size=SIZE, inner_steps=STEPS, **rates), SilentReporter()
    )
    path = tmp_path / f"back.{suffix}"
    done = exporting.run(ExportSettings(model="theirs", output=path, format="learn2learn"), SilentReporter())
    assert [file.name for file in done.files] == [path.name, f"{path.name}.json"]
    net = CNN4(N_WAY, 6, SIZE)
    again = library.MAML(net, lr=0.1) if algorithm == "maml" else library.MetaSGD(net)
    state = load_file(path) if suffix == "safetensors" else torch.load(path, weights_only=True)
    again.load_state_dict(state, strict=True)
    support, query, labels = episode(100, N_WAY, SIZE, torch.float32)
    ours, theirs = (adapted(which, support, labels, STEPS)(query) for which in (again, wrapper))
    assert distance(ours, theirs) < 1e-6
    described = json.loads((tmp_path / f"{path.name}.json").read_text())
    assert described["load_with"].startswith("MAML(network, lr=0.1" if algorithm == "maml" else "MetaSGD(network)")
    assert described["names"]["module.features.2.normalize.bias"] == "body.block3.norm.bias"


def test_parameters_that_do_not_move_get_rates_of_zeros(home: Path, tmp_path: Path, one_thread: None) -> None:
    """nilr's MAML does not adapt normalisation, and learn2learn's does; its MetaSGD can hold both."""
    library = learn2learn()
    learner = build_learner("conv4", n_way=N_WAY, image_size=SIZE, filters=6, seed=3)
    params = learner.initial_params()
    rates = {name: torch.tensor(0.1) for name, kind in learner.kinds.items() if not kind.startswith("norm")}
    layout = find_layout("learn2learn", "conv4")
    assert layout is not None
    written = for_learn2learn(layout, learner.body.stages, params, rates)
    again = library.MetaSGD(CNN4(N_WAY, 6, SIZE))
    again.load_state_dict(written.tensors, strict=True)
    support, query, labels = episode(100, N_WAY, SIZE, torch.float32)
    ours = adapt(
        lambda params: nn.functional.cross_entropy(learner.logits(params, support), labels), params, rates, steps=STEPS
    )
    assert distance(adapted(again, support, labels, STEPS)(query), learner.logits(ours, query)) < 1e-6


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference, relative to the largest value."""
    return float((ours - theirs).detach().abs().max() / theirs.detach().abs().max())


def save(wrapper: nn.Module, path: Path) -> None:
    if path.suffix == ".pt":
        torch.save({"model": wrapper.state_dict(), "epoch": 5}, path)
    else:
        save_file(wrapper.state_dict(), path)
