"""Every body against a network of torch's modules, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nilr.episodes import Episode
from nilr.errors import EpisodeError
from nilr.meta.algorithms import ALGORITHMS
from nilr.meta.engine.contract import Objective
from nilr.meta.engine.reference import ReferenceEngine
from nilr.meta.inner_lr import initial_rates
from nilr.models.conv_body import ConvBody
from nilr.models.learner import Learner
from nilr.models.registry import BODIES, build_learner
from tests.meta.engine.networks import NETWORKS
from tests.models.plain_bodies import SMALL, plain_body, plain_features, plain_logits

SIZE = 20  # 10, 5, 2, 1: an odd size on the way

every_body = pytest.mark.parametrize("arch", BODIES)


def model(arch: str) -> tuple[Learner, dict[str, Tensor]]:
    learner = build_learner(arch, n_way=3, image_size=SIZE, **SMALL[arch]).double()
    generator = torch.Generator().manual_seed(0)
    params = learner.initial_params()
    for value in params.values():
        value += 0.3 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
    return learner, params


def episode() -> Episode:
    x = torch.rand(1, 15, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = torch.arange(3).repeat(1, 5)
    return Episode(x[:, :6], y[:, :6], x[:, 6:], y[:, 6:])


@every_body
def test_a_body_has_the_parameters_of_its_paper(arch: str) -> None:
    learner, _ = model(arch)
    ours = {name: value.shape for name, value in learner.body.named_parameters()}
    assert ours == {name: value.shape for name, value in plain_body(arch).named_parameters()}


@pytest.mark.parametrize(
    ("arch", "arguments", "dim", "count"),
    [
        ("conv4", {"filters": 64}, 1600, 112_832),
        ("conv6", {"filters": 64}, 1600, 186_816),
        ("resnet12", {"widths": (64, 160, 320, 640)}, 640, 12_424_320),
        ("resnet12", {"widths": (64, 128, 256, 512)}, 512, 7_996_800),
    ],
)
def test_bodies_of_usual_size_have_the_published_dimensions(
    arch: str, arguments: dict[str, Any], dim: int, count: int
) -> None:
    """ResNet-12 has 12.4 or 8.0 million parameters: per block 9 (ab + 2 bb) + ab weights, and 8 b scales and shifts."""
    with torch.device("meta"):
        body, found = BODIES[arch].build(image_size=84, **arguments)
    assert (found, sum(value.numel() for value in body.parameters())) == (dim, count)


@every_body
def test_features_and_layers_are_those_of_the_modules(arch: str) -> None:
    learner, params = model(arch)
    x = episode().query_x[0]
    torch.testing.assert_close(learner.features(params, x), plain_features(arch, params, x), rtol=1e-10, atol=1e-11)
    outputs = learner.activations(params, x)
    assert list(outputs) == plain_body(arch).blocks
    assert outputs[list(outputs)[-1]].flatten(1).shape == (9, learner.feature_dim)


@every_body
def test_given_statistics_are_those_of_every_unit(arch: str) -> None:
    learner, params = model(arch)
    x = episode().query_x[0]
    statistics = learner.statistics(params, x)
    assert isinstance(learner.body, ConvBody)
    assert {name: value.shape for name, value in statistics.items()} == {
        unit.name: (2, unit.out_channels) for unit in learner.body.units
    }
    own = learner.features(params, x)
    torch.testing.assert_close(learner.features(params, x, statistics), own, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(learner.features(params, x[:2], statistics), own[:2], rtol=1e-9, atol=1e-10)
    assert not torch.allclose(learner.features(params, x[:2]), own[:2])


@every_body
@pytest.mark.parametrize("algo", ["maml", "metasgd", "anil"])
def test_adapted_logits_and_exact_meta_gradients_are_those_of_autograd_on_the_modules(arch: str, algo: str) -> None:
    learner, params = model(arch)
    row, batch, steps = ALGORITHMS[algo], episode(), 2
    rates = initial_rates(row, params, learner.kinds, seed=3)
    found = ReferenceEngine(learner).meta_gradient(params, rates, batch, Objective(row, steps))
    logits = ReferenceEngine(learner).adapted_logits(params, rates, batch, steps=steps)
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    rate_leaves = {name: value.clone().requires_grad_() for name, value in rates.items()}
    one, adapted = batch[0], dict(leaves)
    for _ in range(steps):
        loss = F.cross_entropy(plain_logits(arch, adapted, one.support_x), one.support_y)
        moved = [adapted[name] for name in rates]
        gradients = torch.autograd.grad(loss, moved, create_graph=True)
        adapted |= {
            name: adapted[name] - rate * gradient
            for (name, rate), gradient in zip(rate_leaves.items(), gradients, strict=True)
        }
    expected = plain_logits(arch, adapted, one.query_x)
    torch.testing.assert_close(logits[0], expected, rtol=1e-9, atol=1e-10)
    loss = F.cross_entropy(expected, one.query_y)
    wanted = torch.autograd.grad(loss, [*leaves.values(), *rate_leaves.values()])
    computed = [*(found.params[name] for name in params), *found.inner_lr.values()]
    wanted = wanted[: len(computed)]
    error = torch.cat([(a - b).flatten() for a, b in zip(computed, wanted, strict=True)])
    assert error.norm() <= 1e-9 * torch.cat([value.flatten() for value in wanted]).norm()
    assert all(value.abs().max() > 0 for value in computed)


@pytest.mark.parametrize(
    ("arch", "arguments"),
    [("conv4", {"filters": 16}), ("conv6", {"filters": 4}), ("resnet12", {"widths": (3, 4, 2, 4)})],
)
def test_all_engines_are_checked_on_these_stages(arch: str, arguments: dict[str, Any]) -> None:
    body, _ = BODIES[arch].build(image_size=18, **arguments)
    assert isinstance(body, ConvBody)
    assert (body.stages, body.mean) == (NETWORKS[arch].stages, NETWORKS[arch].mean)


@every_body
def test_images_too_small_for_the_poolings_are_refused(arch: str) -> None:
    build_learner(arch, n_way=5, image_size=16, **SMALL[arch])
    with pytest.raises(EpisodeError, match=rf"{arch} needs images of at least 16 px, but these have 15"):
        build_learner(arch, n_way=5, image_size=15, **SMALL[arch])


@pytest.mark.parametrize(
    ("arch", "arguments", "message"),
    [
        ("conv4", {"filters": 0}, "filters is 0, expected a number of channels"),
        ("conv6", {"filters": (4, 4)}, r"filters is \(4, 4\)"),
        ("conv4", {"filters": True}, "filters is True"),
        ("resnet12", {"widths": 4}, "widths is 4, expected the numbers of channels of 4 blocks"),
        ("resnet12", {"widths": (4, 4, 4)}, r"widths is \(4, 4, 4\)"),
        ("resnet12", {"widths": (4, 4, 4, -1)}, r"widths is \(4, 4, 4, -1\)"),
        ("resnet12", {"widths": "4444"}, "widths is 4444"),
    ],
)
def test_invalid_sizes_are_refused(arch: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_learner(arch, n_way=5, image_size=16, **arguments)
