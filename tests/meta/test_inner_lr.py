"""From learned numbers to inner rates and back, against autograd on formulas written here."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from nilr.errors import UsageError
from nilr.meta.algorithms import ALGORITHMS, Algorithm
from nilr.meta.inner_lr import (
    SHARED,
    bounds,
    initial_rates,
    inner_rates,
    keep_within,
    learned_gradient,
    share_negative,
    share_negative_by_layer,
)
from nilr.models.registry import build_learner

LEARNER = build_learner("conv4", n_way=3, image_size=16, filters=4, seed=1).double()
PARAMS, KINDS = LEARNER.initial_params(), LEARNER.kinds
CONV, BIAS = "body.block1.conv.weight", "head.bias"


def row(**fields: Any) -> Algorithm:
    return dataclasses.replace(ALGORITHMS["metasgd"], inner_steps=3, **fields)


def test_one_draw_is_shared_by_all_rates_and_depends_on_the_seed() -> None:
    rates, others = (initial_rates(ALGORITHMS["metasgd"], PARAMS, KINDS, seed=seed) for seed in (0, 1))
    values = {value for rate in rates.values() for value in rate.flatten().tolist()}
    assert len(values) == 1
    assert 0.005 <= values.pop() <= 0.1
    assert rates[BIAS][0] != others[BIAS][0]
    assert all(rate.shape == PARAMS[name].shape for name, rate in rates.items())


def test_uniform_each_draws_every_element_within_the_bounds() -> None:
    values = torch.cat(
        [r.flatten() for r in initial_rates(row(inner_lr_init="uniform-each:-0.1,0.3"), PARAMS, KINDS, 0).values()]
    )
    assert values.unique().numel() == values.numel()
    # 855 draws: the mean of U(-0.1, 0.3) is 0.1 with a standard error of 0.004
    assert values.mean().item() == pytest.approx(0.1, abs=0.02)
    assert (values.min() >= -0.1, values.max() <= 0.3) == (True, True)


def test_random_signs_have_one_size_and_half_of_them_are_negative_and_depend_on_the_seed() -> None:
    first, again, other = (initial_rates(row(inner_lr_init="random-sign:0.01"), PARAMS, KINDS, s) for s in (0, 0, 1))
    values = torch.cat([rate.flatten() for rate in first.values()])
    assert values.abs().unique().tolist() == [0.01]
    # 855 draws: the share is 1/2 with a standard error of 0.017
    assert (values < 0).double().mean().item() == pytest.approx(0.5, abs=0.07)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first[CONV], other[CONV])
    with pytest.raises(UsageError, match="`maml` has one fixed rate"):
        initial_rates(dataclasses.replace(ALGORITHMS["maml"], inner_lr_init="random-sign:0.01"), PARAMS, KINDS, 0)


def test_fixed_signs_refuse_rates_that_would_stay_0() -> None:
    with pytest.raises(UsageError, match="rates that start at 0 stay 0"):
        initial_rates(row(inner_lr_init="0", constraint="fixed-signs"), PARAMS, KINDS, 0)
    assert initial_rates(row(inner_lr_init="0", constraint="non-negative"), PARAMS, KINDS, 0)


@pytest.mark.parametrize("rate", ["-0.05", "0.0", "-0.0", "1e-05", "2000.0"])
def test_a_fixed_rate_is_any_finite_number(rate: str) -> None:
    rates = initial_rates(dataclasses.replace(ALGORITHMS["maml"], inner_lr_init=rate), PARAMS, KINDS, 0)
    assert {float(value) for value in rates.values()} == {float(rate)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fast",
        "nan",
        "inf",
        "uniform:1",
        "uniform:2,1",
        "uniform:a,b",
        "normal:0,1",
        "random-sign:x",
        "random-sign:inf",
        "random-sign:0",
        "random-sign:-0.1",
        "tensor-mean",
    ],
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        initial_rates(row(inner_lr_init=text), PARAMS, KINDS, seed=0)
    assert "uniform:LOW,HIGH" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("grain", "per_step", "learned", "conv", "bias"),
    [
        ("element", False, {CONV: (4, 3, 3, 3), BIAS: (3,)}, (4, 3, 3, 3), (3,)),
        ("element", True, {CONV: (3, 4, 3, 3, 3), BIAS: (3, 3)}, (3, 4, 3, 3, 3), (3, 3)),
        ("tensor", False, {CONV: (), BIAS: ()}, (), ()),
        ("tensor", True, {CONV: (3, 1, 1, 1, 1), BIAS: (3, 1)}, (3, 1, 1, 1, 1), (3, 1)),
        ("scalar", False, {SHARED: ()}, (), ()),
        ("scalar", True, {SHARED: (3,)}, (3, 1, 1, 1, 1), (3, 1)),
    ],
)
def test_each_grain_learns_as_many_numbers_as_it_says_and_shapes_them_for_the_inner_loop(
    grain: Any, per_step: bool, learned: dict[str, tuple[int, ...]], conv: tuple[int, ...], bias: tuple[int, ...]
) -> None:
    algorithm = row(grain=grain, per_step=per_step)
    numbers = initial_rates(algorithm, PARAMS, KINDS, seed=0)
    assert {name: numbers[name].shape for name in learned} == learned
    assert set(numbers) == (set(PARAMS) if grain != "scalar" else {SHARED})
    rates = inner_rates(algorithm, numbers, PARAMS, KINDS)
    assert set(rates) == set(PARAMS)
    assert (rates[CONV].shape, rates[BIAS].shape) == (conv, bias)


VARIANTS = [
    pytest.param(
        row(grain=grain, per_step=per_step, rectified=rectified),
        id=f"{grain}{'-per-step' if per_step else ''}{'-rectified' if rectified else ''}",
    )
    for grain in ("element", "tensor", "scalar")
    for per_step in (False, True)
    for rectified in (False, True)
]


@pytest.mark.parametrize("algorithm", VARIANTS)
def test_the_gradient_in_the_learned_numbers_is_that_of_the_formula(algorithm: Algorithm) -> None:
    generator = torch.Generator().manual_seed(3)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64)

    numbers = {name: noise(value) for name, value in initial_rates(algorithm, PARAMS, KINDS, seed=0).items()}
    rates = inner_rates(algorithm, numbers, PARAMS, KINDS)
    given = {name: noise(value) for name, value in rates.items()}
    leaves = {name: value.clone().requires_grad_() for name, value in numbers.items()}
    total = torch.zeros((), dtype=torch.float64)
    for name, gradient in given.items():
        number = leaves[SHARED if algorithm.grain == "scalar" else name]
        # straight through: the value of max(0, r), the derivative of r
        rate = number + (number.relu() - number).detach() if algorithm.rectified else number
        for k in range(3 if algorithm.per_step else 1):
            at, g = (rate[k], gradient[k]) if algorithm.per_step else (rate, gradient)
            torch.testing.assert_close(at.detach().expand_as(g), rates[name][k] if algorithm.per_step else rates[name])
            total = total + (at * g).sum()
    total.backward()
    found = learned_gradient(algorithm, given)
    assert found.keys() == leaves.keys()
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        torch.testing.assert_close(found[name], leaf.grad, rtol=1e-12, atol=1e-14)


def test_a_rectified_number_below_zero_gives_rate_zero_and_still_has_a_gradient() -> None:
    algorithm = row(rectified=True)
    numbers = {BIAS: torch.tensor([-0.3, 0.0, 0.2])}
    assert inner_rates(algorithm, numbers, PARAMS, KINDS)[BIAS].tolist() == pytest.approx([0, 0, 0.2])
    assert learned_gradient(algorithm, {BIAS: torch.tensor([1.0, -2.0, 3.0])})[BIAS].tolist() == [1, -2, 3]


@pytest.mark.parametrize(
    ("constraint", "kept"),
    [
        ("free", [-0.3, 0.0, 0.2]),
        ("non-negative", [0.0, 0.0, 0.2]),
        ("bounded:-0.1,0.1", [-0.1, 0.0, 0.1]),
        ("bounded:0.05,0.05", [0.05, 0.05, 0.05]),
    ],
)
def test_a_constraint_takes_the_nearest_rate_that_it_allows(constraint: str, kept: list[float]) -> None:
    numbers = {BIAS: torch.tensor([-0.3, 0.0, 0.2], dtype=torch.float64)}
    keep_within(row(constraint=constraint), numbers)
    assert numbers[BIAS].tolist() == kept


def test_a_constraint_holds_from_the_start() -> None:
    algorithm = row(inner_lr_init="uniform-each:-0.1,0.1", constraint="non-negative")
    values = torch.cat([rate.flatten() for rate in initial_rates(algorithm, PARAMS, KINDS, seed=0).values()])
    assert values.min() == 0
    assert (values > 0).double().mean().item() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    "text",
    ["", "positive", "bounded", "bounded:", "bounded:1", "bounded:2,1", "bounded:a,b", "bounded:0,inf", "free:0,1"],
)
def test_what_is_no_constraint_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        bounds(text)
    assert caught.value.message == f"the constraint on rates `{text}` is invalid"
    assert caught.value.hint == "use free, non-negative, fixed-signs or bounded:LOW,HIGH"
    assert caught.value.exit_status == 2


def test_the_bounds_of_free_and_non_negative_are_infinite() -> None:
    assert (bounds("free"), bounds("non-negative")) == ((-math.inf, math.inf), (0, math.inf))


def test_the_share_of_negative_rates_counts_elements() -> None:
    assert share_negative({"a": torch.tensor([-1.0, 0.0, 2.0]), "b": torch.tensor([-0.1])}) == 0.5


def test_the_share_by_layer_gathers_a_layers_tensors() -> None:
    rates = {
        "body.block1.conv.weight": torch.tensor([-1.0, 0.0, 2.0]),
        "body.block1.norm.bias": torch.tensor([-1.0]),
        "head.weight": torch.tensor([[1.0, 2.0], [-3.0, 4.0]]),
        "head.bias": torch.tensor(0.1),
    }
    assert share_negative_by_layer(rates) == {"block1": 0.5, "head": 0.2}


@pytest.mark.parametrize("init", ["1e39", "uniform:1,1e39", "uniform-each:-1e39,1", "random-sign:1e39"])
def test_initial_rates_fit_into_float32(init: str) -> None:
    row = dataclasses.replace(ALGORITHMS["metasgd"], inner_lr_init=init)
    with pytest.raises(UsageError, match=r"the initial inner rate `.*` is invalid"):
        initial_rates(row, {}, {}, 0)
