"""Networks with the names of each library, computed by torch from these names alone, and imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nilr.config.models import ImportSettings
from nilr.errors import NilrError
from nilr.portable.layouts import LAYOUTS
from nilr.recipes.common.loading import LoadedModel, load_model
from nilr.recipes.models import importing
from nilr.reporting import SilentReporter
from nilr.store import Store

SIZE, FILTERS, N_WAY = 32, 5, 3
State = dict[str, Tensor]

# the prefixes of convolution i, its normalisation, and the head, as each library's code registers them
PREFIXES: dict[str, tuple[Callable[[int], str], Callable[[int], str], str]] = {
    "learn2learn": (lambda i: f"features.{i}.conv", lambda i: f"features.{i}.normalize", "classifier"),
    "pytorch-maml": (lambda i: f"features.layer{i + 1}.conv", lambda i: f"features.layer{i + 1}.norm", "classifier"),
    "torchmeta": (lambda i: f"features.{i}.0", lambda i: f"features.{i}.1", "classifier"),
    "libfewshot": (lambda i: f"emb_func.layer{i + 1}.0", lambda i: f"emb_func.layer{i + 1}.1", "classifier.layers.0"),
    "closer-look": (lambda i: f"feature.trunk.{i}.C", lambda i: f"feature.trunk.{i}.BN", "classifier"),
    "encoder": (lambda i: f"encoder.{i}.0", lambda i: f"encoder.{i}.1", "classifier"),
    "plain": (lambda i: f"layer{i + 1}.0", lambda i: f"layer{i + 1}.1", "classifier"),
    "how-to-train-your-maml": (
        lambda i: f"classifier.layer_dict.conv{i}.conv", lambda i: f"classifier.layer_dict.conv{i}.norm_layer",
        "classifier.layer_dict.linear",
    ),
    "nilr": (lambda i: f"body.block{i + 1}.conv", lambda i: f"body.block{i + 1}.norm", "head"),
}  # fmt: skip


def four_blocks(form: str, *, statistics: bool = True) -> State:
    """Return a random network of four blocks."""
    conv, norm, head = PREFIXES[form]
    draw = torch.Generator().manual_seed(0)
    state: State = {}
    for i in range(4):
        state[f"{conv(i)}.weight"] = torch.randn(FILTERS, FILTERS if i else 3, 3, 3, generator=draw)
        state[f"{conv(i)}.bias"] = torch.randn(FILTERS, generator=draw) / 10
        state[f"{norm(i)}.weight"] = torch.rand(FILTERS, generator=draw) + 0.5
        state[f"{norm(i)}.bias"] = torch.randn(FILTERS, generator=draw) / 10
        if statistics:
            state[f"{norm(i)}.running_mean"] = torch.randn(FILTERS, generator=draw)
            state[f"{norm(i)}.running_var"] = torch.rand(FILTERS, generator=draw)
            state[f"{norm(i)}.num_batches_tracked"] = torch.tensor(7)
    weight = "weights" if form == "how-to-train-your-maml" else "weight"
    state[f"{head}.{weight}"] = torch.randn(N_WAY, FILTERS * (SIZE // 16) ** 2, generator=draw)
    state[f"{head}.bias"] = torch.randn(N_WAY, generator=draw)
    return state


def logits(form: str, state: State, x: Tensor) -> Tensor:
    """Compute the network in float64."""
    conv, norm, head = PREFIXES[form]
    weights = {name: value.double() for name, value in state.items()}
    x = x.double()
    for i in range(4):
        x = F.conv2d(x, weights[f"{conv(i)}.weight"], weights[f"{conv(i)}.bias"], padding=1)
        x = F.batch_norm(x, None, None, weights[f"{norm(i)}.weight"], weights[f"{norm(i)}.bias"], training=True)
        x = F.max_pool2d(F.leaky_relu(x, 0.01 if form == "how-to-train-your-maml" else 0.0), 2)
    weight = weights[f"{head}.weights" if form == "how-to-train-your-maml" else f"{head}.weight"]
    return F.linear(x.flatten(1), weight, weights[f"{head}.bias"])


def bring(home: Path, saved: object, *, name: str = "m", **settings: Any) -> tuple[LoadedModel, list[str]]:
    path = home.parent / f"{name}.pt"
    torch.save(saved, path)
    given = {"image_size": SIZE, "inner_lr": 0.1, "inner_steps": 2} | settings
    given = {key: value for key, value in given.items() if value is not None}
    result = importing.run(ImportSettings(sources=(path,), **given), SilentReporter())
    return load_model(Store(home), name, device=torch.device("cpu"), engine="auto"), result.notes


class Residual(torch.nn.Module):
    """A block of ResNet-12 as learn2learn, LibFewShot, FEAT and RFS register it."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        for i in (1, 2, 3):
            self.add_module(f"conv{i}", torch.nn.Conv2d(c_in if i == 1 else c_out, c_out, 3, padding=1, bias=False))
            self.add_module(f"bn{i}", torch.nn.BatchNorm2d(c_out))
        self.downsample = torch.nn.Sequential(torch.nn.Conv2d(c_in, c_out, 1, bias=False), torch.nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.bn1(self.conv1(x)), 0.1)
        y = F.leaky_relu(self.bn2(self.conv2(y)), 0.1)
        return F.max_pool2d(F.leaky_relu(self.bn3(self.conv3(y)) + self.downsample(x), 0.1), 2)


class ResNet12(torch.nn.Module):
    def __init__(self, n_way: int) -> None:
        super().__init__()
        widths = (3, 4, 6, 5, 7)
        for i in range(4):
            self.add_module(f"layer{i + 1}", torch.nn.Sequential(Residual(widths[i], widths[i + 1])))
        if n_way:
            self.classifier = torch.nn.Linear(7, n_way)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))
        return self.classifier(x) if hasattr(self, "classifier") else x


@pytest.mark.parametrize(
    ("form", "prefix", "head", "n_way", "size"),
    [
        ("plain", "", "classifier", N_WAY, SIZE),  # RFS
        ("plain", "encoder.", None, 0, 84),  # FEAT
        ("learn2learn", "features.", "classifier", N_WAY, 84),
        ("libfewshot", "emb_func.", "classifier.layers.0", N_WAY, 84),
    ],
)
def test_a_resnet12_computes_the_same_after_its_import(
    form: str, prefix: str, head: str | None, n_way: int, size: int, home: Path, one_thread: None
) -> None:
    torch.manual_seed(0)
    net = ResNet12(n_way).double()
    for name, value in net.named_parameters():
        if ".bn" in name:
            torch.nn.init.uniform_(value, 0.2, 1)
    state = {
        name.replace("classifier", head or "") if name.startswith("classifier") else f"{prefix}{name}": value.clone()
        for name, value in net.state_dict().items()
    }
    model, _ = bring(home, state, image_size=size, n_way=None if n_way else 4)
    assert model.checkpoint.manifest.architecture.arguments["widths"] == [4, 6, 5, 7]
    x = torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(1))
    found = model.learner.logits(model.params, x) if n_way else model.learner.features(model.params, x)
    assert torch.allclose(found.double(), net(x.double()).detach(), rtol=0, atol=1e-4)
    if size == 84 and n_way:
        with pytest.raises(NilrError, match="takes the mean over 5x5 positions; images of 32 px give 2x2"):
            bring(home, state, image_size=32, name="small")


def test_six_blocks_are_not_taken_for_four(home: Path) -> None:
    state = four_blocks("closer-look")
    conv, norm, _ = PREFIXES["closer-look"]
    for i in (4, 5):
        for prefix in (conv, norm):
            state |= {name.replace(prefix(3), prefix(i)): v.clone() for name, v in state.items() if prefix(3) in name}
    model, _ = bring(home, state)
    assert model.checkpoint.manifest.architecture.name == "conv6"


def images(seed: int = 1) -> Tensor:
    return torch.rand(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def agrees(model: LoadedModel, expected: Tensor, x: Tensor) -> bool:
    return torch.allclose(model.learner.logits(model.params, x).double(), expected, rtol=0, atol=1e-4)


def test_each_format_has_a_network_here() -> None:
    assert set(PREFIXES) - {"encoder"} == {layout.format for layout in LAYOUTS}


@pytest.mark.parametrize("form", PREFIXES)
@pytest.mark.parametrize("named", [False, True])
def test_a_network_computes_the_same_after_its_import(form: str, named: bool, home: Path) -> None:
    state = four_blocks(form)
    library = "plain" if form == "encoder" else form
    model, notes = bring(home, state, format=library if named else None)
    assert agrees(model, logits(form, state, images()), images())
    origin = model.checkpoint.manifest.origin
    assert origin is not None
    assert (origin.format, origin.file) == (library, "m.pt")
    assert "Dropped running statistics: nilr normalises by the statistics of each batch." in notes
    moved = {kind for name, kind in model.learner.kinds.items() if name in model.inner_lr}
    assert ("norm scale" in moved) == (form not in ("pytorch-maml", "how-to-train-your-maml"))


def test_the_second_names_of_closer_look_are_read_and_compared(home: Path) -> None:
    state = four_blocks("closer-look")
    for name in list(state):
        state[name.replace(".C.", ".trunk.0.").replace(".BN.", ".trunk.1.")] = state[name]
    model, _ = bring(home, {"epoch": 3, "state": state})
    assert agrees(model, logits("closer-look", state, images()), images())
    state["feature.trunk.2.trunk.0.weight"] = state["feature.trunk.2.trunk.0.weight"] + 1
    with pytest.raises(NilrError, match="are one tensor of the network, and differ"):
        bring(home, state, name="other")


def test_per_step_normalisation_and_rates_of_how_to_train_your_maml(home: Path) -> None:
    form, steps = "how-to-train-your-maml", 3
    state = four_blocks(form)
    norm = PREFIXES[form][1]
    per_step = dict(state)
    for i in range(4):
        for part in ("weight", "bias", "running_mean", "running_var"):
            per_step[f"{norm(i)}.{part}"] = torch.stack([state[f"{norm(i)}.{part}"] + k for k in range(steps)])
    prefix = "inner_loop_optimizer.names_learning_rates_dict.layer_dict"
    for i in range(4):
        for part in ("weight", "bias"):
            per_step[f"{prefix}-conv{i}-conv-{part}"] = torch.arange(4.0) + i
    for part in ("weights", "bias"):
        per_step[f"{prefix}-linear-{part}"] = torch.tensor([-1.0, 2.0, 3.0, 4.0])
    saved = {"network": per_step, "optimizer": {"state": {}}, "best_val_acc": 0.5}
    with pytest.raises(NilrError, match="has another value in each of 3 inner steps"):
        bring(home, saved, inner_lr=None, inner_steps=None)
    with pytest.raises(NilrError, match="has 3 inner steps"):
        bring(home, saved, inner_lr=None, inner_steps=None, norm_step=3)
    model, notes = bring(home, saved, inner_lr=None, inner_steps=None, norm_step=0)
    assert agrees(model, logits(form, state, images()), images())
    assert model.algorithm.name == "lslr"
    assert (model.algorithm.inner_steps, model.algorithm.eval_inner_steps) == (3, 3)
    assert model.inner_lr["body.block2.conv.weight"].flatten().tolist() == [1, 2, 3]
    assert model.inner_lr["head.weight"].shape == (3, 1, 1)
    assert "body.block1.norm.weight" not in model.inner_lr
    assert any("entry `network`, beside optimizer, best_val_acc" in note for note in notes)


def test_images_are_normalised_as_they_were(home: Path) -> None:
    state = four_blocks("libfewshot")
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    model, notes = bring(home, state, input_mean="0.485,0.456,0.406", input_std="0.229,0.224,0.225")
    x = images()
    normalised = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert agrees(model, logits("libfewshot", state, normalised), x)
    assert not agrees(model, logits("libfewshot", state, x), x)
    assert model.engine.name == "reference"
    features = model.engine.features(model.params, x)
    assert torch.equal(features, model.learner.features(model.params, x))
    statistics = model.learner.statistics(model.params, x)
    assert torch.allclose(model.learner.features(model.params, x, statistics), features, atol=1e-4)
    _, notes = bring(home, state, name="raw")
    assert any("Images are used in [0, 1]; libfewshot itself trains on images that are normalised" in n for n in notes)
