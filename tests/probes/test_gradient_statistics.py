"""Consistency of gradients against closed forms and brute force, and curvature against a full Hessian."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import spearmanr
from scipy.stats import t as student
from torch import Tensor
from torch.nn.functional import cross_entropy

from nilr.models.registry import build_learner
from nilr.probes.gradient_statistics import (
    Curvature,
    GradientSums,
    chance,
    effective_step,
    first_step_curvature,
    rate_consistency,
)
from tests.probes.plain_network import N_WAY, SIZE, episode, logits


def over(gradients: Tensor, rates: Tensor) -> dict[str, float]:
    """Return the figures of gradients (episodes, elements)."""
    return rate_consistency(gradients.sum(0), gradients.square().sum(0), len(gradients), rates)


def test_two_episodes_give_the_figures_of_the_definition() -> None:
    # means 2, 0 and 1, mean squares 5, 4 and 1; products of the two episodes 3, -4 and 1; the last element is silent
    gradients = torch.tensor([[3.0, 2.0, -1.0, 0.0], [1.0, -2.0, -1.0, 0.0]]).double()
    found = over(gradients, torch.tensor([0.5, -0.1, -0.3, -9.0]).double())
    assert found["consistency_positive"] == pytest.approx(2 / math.sqrt(5))
    assert found["consistency_negative"] == pytest.approx((0 + 1) / 2)
    assert found["shared_positive"] == pytest.approx(3 / 5)
    assert found["shared_negative"] == pytest.approx((-1 + 1) / 2)
    assert found["difference"] == pytest.approx(0 - 3 / 5)
    # c ascends as elements 2, 1, 3; sizes as 2, 3, 1; rates as 3, 2, 1
    assert found["rank_size"] == pytest.approx(0.5)
    assert found["rank_rate"] == pytest.approx(-0.5)


def test_signal_and_noise_share_what_the_signal_explains() -> None:
    generator = torch.Generator().manual_seed(0)
    n, elements = 200, 20_000
    noise = torch.randn(n, 2 * elements, generator=generator, dtype=torch.float64)
    scale = torch.rand(2 * elements, generator=generator, dtype=torch.float64) + 0.1  # the measure ignores it
    signal = torch.cat([torch.zeros(elements), torch.full((elements,), 0.5)]).double()
    rates = torch.cat([torch.ones(elements), -torch.ones(elements)]).double()
    found = over(scale * (signal + noise), rates)
    assert found["shared_positive"] == pytest.approx(0, abs=5e-4)
    assert found["shared_negative"] == pytest.approx(0.25 / 1.25, abs=5e-3)
    assert found["consistency_positive"] == pytest.approx(chance(n), rel=0.02)
    assert "rank_size" not in found  # all sizes are equal
    assert found["rank_rate"] < -0.7


def test_chance_is_the_mean_coordinate_of_a_random_direction() -> None:
    # one episode is always consistent; the mean of |cos| over a circle; of |z| over a sphere
    assert [chance(n) for n in (1, 2, 3)] == pytest.approx([1, 2 / math.pi, 0.5])
    assert chance(100) == pytest.approx(math.sqrt(2 / (math.pi * 100)), rel=0.01)


def test_the_interval_leaves_out_one_block_of_episodes_at_a_time() -> None:
    generator = torch.Generator().manual_seed(1)
    gradients = torch.randn(20, 30, generator=generator, dtype=torch.float64) + 0.3
    rates, params = torch.randn(30, generator=generator, dtype=torch.float64), torch.zeros(30)
    sums = GradientSums(20)
    for gradient in gradients:
        sums.add({"a": gradient[:10], "b": gradient[10:], "other": gradient})
    found = sums.consistency({"a": rates[:10], "b": rates[10:]}, {"a": params[:10], "b": params[10:]}, ["a", "b"])

    def rank(kept: Tensor) -> float:
        c = kept.mean(0).abs() / kept.square().mean(0).sqrt()
        return float(spearmanr(c.numpy(), rates.abs().numpy()).statistic)

    # episodes i and i + 10 are a block
    parts = torch.tensor([rank(gradients[[j for j in range(20) if j % 10 != i]]) for i in range(10)]).double()
    error = math.sqrt(9 / 10 * (parts - parts.mean()).square().sum().item())
    assert found["rank_size"].mean == pytest.approx(rank(gradients))
    assert found["rank_size"].ci95 == pytest.approx(float(student.ppf(0.975, 9)) * error)


def test_rates_of_a_tensor_and_of_the_first_step_count_for_each_element() -> None:
    sums = GradientSums(2)
    for _ in range(2):
        sums.add({"a": torch.ones(2, 2), "b": torch.ones(3)})
    params = {"a": torch.zeros(2, 2), "b": torch.zeros(3)}
    found = sums.consistency({"a": torch.tensor(0.1), "b": torch.tensor([[-0.1] * 3, [9.0] * 3])}, params, ["a", "b"])
    assert found["consistency_positive"] == found["shared_negative"] == (1.0, None)
    assert found["difference"].mean == 0


def test_one_episode_has_no_consistency() -> None:
    assert over(torch.ones(1, 3).double(), torch.ones(3).double()) == {}


@pytest.mark.parametrize("moved", ["all", "body.block3", "head"])
def test_slope_and_curvature_are_those_of_the_whole_hessian(moved: str) -> None:
    learner = build_learner("conv4", n_way=N_WAY, image_size=SIZE, filters=2, seed=0)
    params = {name: value.double() for name, value in learner.initial_params().items()}
    generator = torch.Generator().manual_seed(4)
    rates = {
        name: 0.3 * torch.randn(2, *value.shape, generator=generator, dtype=torch.float64)  # per step; the first counts
        for name, value in params.items()
        if moved == "all" or name.startswith(moved)
    }
    support = episode(5)
    names = sorted(rates)
    sizes = [params[name].numel() for name in names]

    def loss(flat: Tensor) -> Tensor:
        at = {n: part.reshape(params[n].shape) for n, part in zip(names, flat.split(sizes), strict=True)}
        return cross_entropy(logits({**params, **at}, support.support_x, support.support_x, "apart"), support.support_y)

    flat = torch.cat([params[name].flatten() for name in names])
    gradient = torch.autograd.functional.jacobian(loss, flat)
    hessian = torch.autograd.functional.hessian(loss, flat)
    step = -torch.cat([rates[name][0].flatten() for name in names]) * gradient
    found = first_step_curvature(learner, params, rates, (support.support_x, support.support_y))
    assert found.linear == pytest.approx((gradient @ step).item(), rel=1e-9)
    assert found.curvature == pytest.approx((step @ hessian @ step).item(), rel=1e-9)
    width = 1e-4
    ends = loss(flat + width * step) + loss(flat - width * step) - 2 * loss(flat)
    assert found.curvature == pytest.approx(ends.item() / width**2, rel=1e-3)


def test_the_effective_step_is_one_at_the_minimum_and_two_without_gain() -> None:
    # a loss k x^2 / 2 at x = 3 with k = 4: a step of rate a has slope -a (k x)^2 and curvature k (a k x)^2
    def quadratic(a: float) -> Curvature:
        return Curvature(-a * 144, 4 * (a * 12) ** 2)

    for rate, ratio in ((0.25, 1.0), (0.5, 2.0), (0.1, 0.4), (-0.25, -1.0)):
        assert effective_step([quadratic(rate)]) == (pytest.approx(ratio), None)
    found = effective_step([Curvature(-1.0, 1.0), Curvature(-3.0, 1.0), Curvature(-2.0, 4.0)])
    assert found is not None
    assert found.mean == pytest.approx(1.0)
    parts = torch.tensor([5 / 5, 5 / 3, 2 / 4]).double()  # without each episode in turn
    error = math.sqrt(2 / 3 * (parts - parts.mean()).square().sum().item())
    assert found.ci95 == pytest.approx(float(student.ppf(0.975, 2)) * error)
    assert effective_step([Curvature(0.0, 0.0)]) is None
