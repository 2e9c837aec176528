"""What a meta-gradient keeps in memory at the same time."""

from __future__ import annotations

import dataclasses
import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nilr.episodes import Episode
from nilr.meta.algorithms import ALGORITHMS
from nilr.meta.engine.contract import Engine, Objective
from nilr.meta.engine.explicit import CompiledEngine, ExplicitEngine, WinogradEngine
from nilr.meta.engine.network import loss_pass
from nilr.meta.engine.registry import ENGINES
from nilr.models.conv_body import ConvBody
from nilr.models.learner import Learner
from tests.meta.engine.networks import NETWORKS
from tests.meta.engine.test_engines import every_engine

pytestmark = pytest.mark.usefixtures("one_thread")

METASGD = ALGORITHMS["metasgd"]
IMAGES = 32
SHAPE = (3, IMAGES, IMAGES)


class Peak(TorchDispatchMode):
    """Counts the bytes of the tensors that operations made and that still exist."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if isinstance(x, torch.Tensor):
                storage = x.untyped_storage()
                if storage.data_ptr() not in self._seen:
                    self._seen.add(storage.data_ptr())
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._freed, storage.data_ptr(), storage.nbytes())
        return made

    def _freed(self, address: int, size: int) -> None:
        self._seen.discard(address)
        self.now -= size


def learner_of(arch: str) -> Learner:
    network = NETWORKS[arch]
    body = ConvBody(network.stages, mean=network.mean)
    return Learner(body, body.feature_dim(IMAGES), 5)


def peak_bytes(engine: Engine, steps: int, *, n_support: int = 10, n_query: int = 5) -> int:
    params = engine.learner.initial_params()
    rates = {name: torch.full_like(value, 0.01) for name, value in params.items()}
    x = torch.rand(1, n_support + n_query, 3, IMAGES, IMAGES)
    labels = torch.arange(n_support + n_query)[None] % 5
    batch = Episode(x[:, :n_support], labels[:, :n_support], x[:, n_support:], labels[:, n_support:])
    engine.meta_gradient(params, rates, batch, Objective(METASGD, steps))  # what is cached for good is not counted
    with Peak() as peak:
        engine.meta_gradient(params, rates, batch, Objective(METASGD, steps))
    return peak.peak


@pytest.mark.sampled(1)
@every_engine
@pytest.mark.parametrize("arch", ["conv4", "resnet12"])
def test_recomputing_bounds_memory_by_one_step(engine: type[Engine], arch: str) -> None:
    learner = learner_of(arch)
    keeping, recomputing = engine(learner), engine(learner, recompute=True)
    n_bytes = 4 * sum(value.numel() for value in learner.parameters())
    one, six = (peak_bytes(recomputing, steps) for steps in (1, 6))
    assert six - one <= 5 * 4 * n_bytes  # parameters, gradients and changes of rates of each step
    each = keeping.image_bytes(SHAPE)
    assert peak_bytes(keeping, 6) - peak_bytes(keeping, 1) >= 0.3 * 5 * 10 * each.step


@pytest.mark.parametrize("engine", [ExplicitEngine, CompiledEngine, WinogradEngine])
def test_outputs_that_are_made_again_change_no_bit_and_are_not_held(engine: type[ExplicitEngine]) -> None:
    used = engine(learner_of("resnet12"))
    params, labels = used.learner.initial_params(), torch.arange(20) % 5
    images = used._images(torch.rand(20, 3, IMAGES, IMAGES))
    with torch.no_grad():
        keeping = loss_pass(params, images, labels, keep=True)
        with Peak() as peak:
            gradient = loss_pass(params, images, labels).gradient
    for name, value in gradient.items():
        assert torch.equal(value, keeping.gradient[name]), name
    n_bytes = 4 * sum(value.numel() for value in gradient.values())
    assert peak.peak <= 1.05 * (20 * used.image_bytes(SHAPE).loss + n_bytes)


@pytest.mark.sampled(6)
@every_engine
@pytest.mark.parametrize("arch", ["conv4", "resnet12"])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("n_support", "n_query"), [(10, 5), (5, 40)])
def test_the_estimate_is_near_what_is_allocated(
    engine: type[Engine], arch: str, recompute: bool, n_support: int, n_query: int
) -> None:
    used = engine(learner_of(arch), recompute=recompute)
    algorithm = dataclasses.replace(METASGD, norm_adapted=True)
    size: dict[str, Any] = {"image_shape": SHAPE, "n_support": n_support, "n_query": n_query}
    estimate = used.episode_bytes(algorithm, **size, steps=4)
    expected = estimate.recomputing if recompute else estimate.keeping
    assert 0.3 <= peak_bytes(used, 4, n_support=n_support, n_query=n_query) / expected <= 1.6


def test_every_engine_estimates_more_for_larger_images_and_for_more_steps() -> None:
    for engine in ENGINES.values():
        used = engine(learner_of("resnet12"))
        small, large = (used.image_bytes((3, size, size)) for size in (32, 64))
        assert all(3 <= b / a <= 5 for a, b in zip(small, large, strict=True))
        few, many = (
            used.episode_bytes(METASGD, image_shape=SHAPE, n_support=5, n_query=5, steps=steps) for steps in (1, 10)
        )
        assert many.keeping > 4 * few.keeping
        params = 4 * sum(value.numel() for value in used.learner.parameters())
        assert many.recomputing - few.recomputing == 9 * params
