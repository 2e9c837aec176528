"""Many episodes and several models in each operation give what each gives alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from nilr.episodes import Episode
from nilr.meta.algorithms import ALGORITHMS
from nilr.meta.engine import batched
from nilr.meta.engine.batched import BatchedEngine
from nilr.meta.engine.contract import Objective
from nilr.meta.engine.reference import ReferenceEngine
from nilr.meta.engine.trajectory import task_gradient
from nilr.models.registry import build_learner

pytestmark = pytest.mark.usefixtures("one_thread")

LEARNER = build_learner("conv4", n_way=3, image_size=18, filters=4).double()
REFERENCE = ReferenceEngine(LEARNER)


def engine(at_once: int = 64) -> BatchedEngine:
    return BatchedEngine(LEARNER, episode_chunk=at_once)


def batch(seed: int, n_episodes: int = 3) -> Episode:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n_episodes, 15, 3, 18, 18, generator=generator, dtype=torch.float64)
    labels = torch.arange(3)
    support_y, query_y = (labels.repeat_interleave(k).expand(n_episodes, -1) for k in (2, 3))
    return Episode(x[:, :6], support_y, x[:, 6:], query_y)


def model(seed: int, *, per_step: bool = False) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    params = {name: value + 0.3 * noise(*value.shape) for name, value in LEARNER.initial_params().items()}
    rates = {
        name: 0.1 * (noise(2, *(1,) * value.dim()) if per_step else noise(*value.shape))
        for name, value in params.items()
    }
    return params, rates


@pytest.mark.sampled(6)
@pytest.mark.parametrize("at_once", [1, 2, 4, 64])
@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("order", [1, 2])
def test_several_models_learn_at_once_as_each_does_alone(at_once: int, per_step: bool, order: int) -> None:
    algorithm = dataclasses.replace(ALGORITHMS["metasgd"], order=order)  # type: ignore[arg-type]
    models = [model(seed, per_step=per_step) for seed in range(3)]
    episodes = [batch(seed) for seed in range(3)]
    params, rates = ([made[i] for made in models] for i in (0, 1))
    outcomes = engine(at_once).meta_gradients(params, rates, episodes, Objective(algorithm, 3))
    for outcome, (start, lr), own in zip(outcomes, models, episodes, strict=True):
        alone = REFERENCE.meta_gradient(start, lr, own, Objective(algorithm, 3))
        torch.testing.assert_close(outcome.query_loss, alone.query_loss, rtol=1e-9, atol=0)
        assert torch.equal(outcome.accuracy, alone.accuracy)
        for found, expected in ((outcome.params, alone.params), (outcome.inner_lr, alone.inner_lr)):
            assert found.keys() == expected.keys()
            for name, value in found.items():
                torch.testing.assert_close(value, expected[name], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("part", ["all", "head"])
def test_many_episodes_are_judged_at_once_as_each_is_alone(part: str, per_step: bool) -> None:
    params, rates = model(0, per_step=per_step)
    rates = {name: rate for name, rate in rates.items() if part == "all" or name.startswith("head.")}
    episodes = batch(1)
    found = engine().adapted_logits(params, rates, episodes, steps=3)
    for i in range(len(episodes)):
        own = episodes[i]
        adapted = REFERENCE.adapt(params, rates, own.support_x, own.support_y, steps=3)
        features = REFERENCE.features(adapted, own.query_x)
        expected = linear(features, adapted["head.weight"], adapted["head.bias"])
        torch.testing.assert_close(found[i], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("chunk", [1, 2, 3])
@pytest.mark.parametrize("n_episodes", [4, 5])
def test_chunks_give_the_meta_gradient_and_the_logits_of_the_reference(
    chunk: int, n_episodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (params, rates), episodes, algorithm = model(0), batch(0, n_episodes), ALGORITHMS["metasgd"]
    together: list[int] = []

    def counted(start: dict[str, Tensor], *given: object, **named: object) -> object:
        together.append(len(start["head.bias"]))
        return task_gradient(start, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(batched, "task_gradient", counted)
    found = engine(chunk).meta_gradient(params, rates, episodes, Objective(algorithm, 2))
    assert max(together) == chunk
    assert sum(together) == n_episodes
    expected = REFERENCE.meta_gradient(params, rates, episodes, Objective(algorithm, 2))
    torch.testing.assert_close(found.query_loss, expected.query_loss, rtol=1e-9, atol=0)
    for name in params:
        torch.testing.assert_close(found.params[name], expected.params[name], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.inner_lr[name], expected.inner_lr[name], rtol=1e-9, atol=1e-9)
    logits = engine(chunk).adapted_logits(params, rates, episodes, steps=2)
    expected_logits = REFERENCE.adapted_logits(params, rates, episodes, steps=2)
    torch.testing.assert_close(logits, expected_logits, rtol=1e-9, atol=1e-9)


def test_several_models_are_no_more_episodes_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    together: list[int] = []

    def counted(start: dict[str, Tensor], *given: object, **named: object) -> object:
        together.append(len(start["head.bias"]))
        return task_gradient(start, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(batched, "task_gradient", counted)
    models, episodes = [model(seed) for seed in range(3)], [batch(seed) for seed in range(3)]
    params, rates = ([made[i] for made in models] for i in (0, 1))
    engine(2).meta_gradients(params, rates, episodes, Objective(ALGORITHMS["metasgd"], 1))
    assert max(together) == 2
    assert sum(together) == 9


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_gives_the_meta_gradient_of_the_reference() -> None:
    (params, rates), episodes, algorithm = model(0), batch(0), ALGORITHMS["metasgd"]
    there = [{name: value.cuda() for name, value in given.items()} for given in (params, rates)]
    moved = Episode(*(getattr(episodes, name).cuda() for name in ("support_x", "support_y", "query_x", "query_y")))
    found = engine().meta_gradient(*there, moved, Objective(algorithm, 2))
    expected = REFERENCE.meta_gradient(params, rates, episodes, Objective(algorithm, 2))
    for name, value in found.params.items():
        torch.testing.assert_close(value.cpu(), expected.params[name], rtol=1e-7, atol=1e-10)
    for name, value in found.inner_lr.items():
        torch.testing.assert_close(value.cpu(), expected.inner_lr[name], rtol=1e-7, atol=1e-10)
