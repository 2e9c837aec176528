from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nilr.episodes import Episode
from nilr.errors import UnknownNameError
from nilr.meta.algorithms import ALGORITHMS
from nilr.meta.engine.contract import Objective
from nilr.meta.engine.registry import choose_engine
from nilr.meta.inner_lr import initial_rates
from nilr.models.learner import Body, Learner, Statistics, Tensors
from nilr.models.parameters import layer, part
from nilr.models.registry import (
    BODIES,
    BodyRow,
    arguments_of_others,
    body_arguments,
    build_learner,
    parameter_shapes,
)
from tests.models.plain_bodies import SMALL


@pytest.mark.parametrize("arch", BODIES)
def test_features_and_logits_have_the_announced_shapes(arch: str) -> None:
    learner = build_learner(arch, n_way=5, image_size=20, **SMALL[arch])
    params = learner.initial_params()
    x = torch.rand(6, 3, 20, 20)
    assert learner.features(params, x).shape == (6, learner.feature_dim)
    assert learner.logits(params, x).shape == (6, 5)


def test_conv4_at_84_pixels_and_32_filters_has_800_features_and_finns_parameters() -> None:
    learner = build_learner("conv4", n_way=5, image_size=84, filters=32)
    assert learner.feature_dim == 800
    # 3x3 convolutions 3->32->32->32->32 without bias, scale and shift per block, a linear head 800 -> 5
    assert sum(value.numel() for value in learner.parameters()) == 27 * 32 + 3 * 9 * 32 * 32 + 4 * 64 + 800 * 5 + 5


def test_parameters_know_their_part_layer_and_kind() -> None:
    kinds = build_learner("conv4", n_way=3, image_size=16, filters=2).kinds
    names = list(kinds)
    assert [(part(n), layer(n), kinds[n]) for n in names[:3]] == [
        ("body", "block1", "convolution weight"),
        ("body", "block1", "norm scale"),
        ("body", "block1", "norm shift"),
    ]
    assert [(part(n), layer(n), kinds[n]) for n in names[-2:]] == [
        ("head", "head", "head weight"),
        ("head", "head", "head bias"),
    ]


@pytest.mark.parametrize("arch", BODIES)
def test_the_seed_decides_the_initial_weights(arch: str) -> None:
    first, again, other = (
        build_learner(arch, n_way=5, image_size=16, seed=seed, **SMALL[arch]).initial_params() for seed in (3, 3, 4)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_features_are_normalised_by_their_own_batch() -> None:
    learner = build_learner("conv4", n_way=2, image_size=16, filters=4)
    params = learner.initial_params()
    x = torch.rand(4, 3, 16, 16)
    assert torch.allclose(learner.features(params, x), learner.features(params, 3 * x), atol=1e-3)
    assert not torch.allclose(learner.features(params, x)[:2], learner.features(params, x[:2]), atol=1e-3)


def test_an_unknown_architecture_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError) as caught:
        build_learner("resnet", n_way=5, image_size=16, filters=4)
    assert (
        caught.value.hint
        == "did you mean `resnet12`? known: conv4, conv4-leaky, conv6, resnet12, PACKAGE.MODULE:FUNCTION"
    )


class Residual(Body):
    """A body with other module names, two convolutions in a layer, and an argument of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block1 = nn.Module()
        self.block1.first = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.block1.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.block1.batch = nn.BatchNorm2d(width, track_running_stats=False)

    def activations(self, params: Tensors, x: Tensor, statistics: Statistics | None = None) -> dict[str, Tensor]:
        y = F.conv2d(x, params["block1.first.weight"], padding=1)
        z = y + F.conv2d(F.relu(y), params["block1.second.weight"], padding=1)
        z = F.batch_norm(z, None, None, params["block1.batch.weight"], params["block1.batch.bias"], training=True)
        return {"block1": F.adaptive_avg_pool2d(z, 1)}


@pytest.fixture
def residual(monkeypatch: pytest.MonkeyPatch) -> Learner:
    monkeypatch.setitem(BODIES, "residual", BodyRow(lambda *, image_size, width: (Residual(width), width), ("width",)))
    return build_learner("residual", n_way=2, image_size=8, width=5, seed=1)


def test_a_body_of_any_module_names_has_kinds_layers_and_initial_weights(residual: Learner) -> None:
    assert residual.kinds == {
        "body.block1.first.weight": "convolution weight",
        "body.block1.second.weight": "convolution weight",
        "body.block1.batch.weight": "norm scale",
        "body.block1.batch.bias": "norm shift",
        "head.weight": "head weight",
        "head.bias": "head bias",
    }
    assert {layer(name) for name in residual.kinds} == {"block1", "head"}
    params = residual.initial_params()
    assert list(params) == list(residual.kinds)
    assert (params["body.block1.batch.weight"] == 1).all()
    assert (params["body.block1.batch.bias"] == 0).all()
    # Glorot: uniform within sqrt(6 / (fan in + fan out))
    assert 0 < params["body.block1.first.weight"].abs().max() <= (6 / (9 * 3 + 9 * 5)) ** 0.5


def test_a_body_takes_its_own_arguments_from_settings_and_no_others(residual: Learner) -> None:
    settings = SimpleNamespace(filters=7, width=5, widths=(1, 2, 3, 4))
    assert body_arguments("residual", settings) == {"width": 5}
    assert body_arguments("conv4", settings) == {"filters": 7}
    assert arguments_of_others("resnet12") == {"filters", "width"}
    shapes = parameter_shapes("residual", n_way=2, image_size=8, width=5)
    assert shapes == {name: value.shape for name, value in residual.named_parameters()}
    with pytest.raises(TypeError):
        build_learner("residual", n_way=2, image_size=8, filters=7)


@pytest.mark.usefixtures("one_thread")
def test_a_new_body_is_executed_and_learned_by_the_reference_engine(residual: Learner) -> None:
    engine = choose_engine("auto", residual, torch.device("cpu"))
    assert engine.name == "reference"
    x, y = torch.rand(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([[0, 0, 1, 1]])
    params = residual.initial_params()
    row = ALGORITHMS["boil"]
    rates = initial_rates(row, params, residual.kinds, 0)
    assert set(rates) == {name for name in residual.kinds if not name.startswith("head.")}
    gradient = engine.meta_gradient(params, rates, Episode(x, y, x, y), Objective(row, 2))
    assert all(value.abs().max() > 0 for value in gradient.params.values())
