"""Each edit against its definition, on rates written by hand and on a real learner."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from nilr.config.evaluation import RATES
from nilr.errors import UnknownNameError
from nilr.meta.engine.reference import ReferenceEngine
from nilr.models.learner import Learner
from nilr.models.registry import build_learner
from nilr.probes.edits import EDITS, adapt, edited, find_edit, matched_rate, rates_of_part

NAME = "body.block1.conv.weight"
LEARNED = [[0.5, -0.25, 0.0], [-1.0, 2.0, 4.0]]
MIXED = torch.tensor(LEARNED)
PARAMETER = torch.zeros(2, 3)


def edit(name: str, rates: Tensor = MIXED, *, parameter: Tensor = PARAMETER, seed: int = 0) -> Tensor:
    return edited({NAME: rates}, {NAME: parameter}, name, seed=seed)[NAME]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("learned", LEARNED),
        ("zero-negative", [[0.5, 0.0, 0.0], [0.0, 2.0, 4.0]]),
        ("zero-positive", [[0.0, -0.25, 0.0], [-1.0, 0.0, 0.0]]),
        ("absolute", [[0.5, 0.25, 0.0], [1.0, 2.0, 4.0]]),
        ("negated", [[-0.5, 0.25, 0.0], [1.0, -2.0, -4.0]]),
        ("tensor-mean", [[0.875] * 3] * 2),  # (0.5 - 0.25 + 0 - 1 + 2 + 4) / 6
        ("norm-matched", LEARNED),
        ("0.125", [[0.125] * 3] * 2),
        ("-1e-2", [[-0.01] * 3] * 2),
    ],
)
def test_each_edit_is_its_definition(name: str, expected: list[list[float]]) -> None:
    assert torch.equal(edit(name), torch.tensor(expected))


def test_shuffled_rates_are_the_same_numbers_in_another_order() -> None:
    rates = torch.randn(5, 7)
    shuffled = edit("shuffled", rates, parameter=rates)
    assert Counter(shuffled.flatten().tolist()) == Counter(rates.flatten().tolist())
    assert not torch.equal(shuffled, rates)


def test_shuffled_signs_keep_every_size_and_the_number_of_negatives() -> None:
    rates = torch.randn(5, 7)
    shuffled = edit("shuffled-signs", rates, parameter=rates)
    assert torch.equal(shuffled.abs(), rates.abs())
    assert (shuffled < 0).sum() == (rates < 0).sum()
    assert not torch.equal(shuffled, rates)


@pytest.mark.parametrize("name", ["shuffled", "shuffled-signs"])
def test_shuffles_depend_on_the_seed_and_on_the_tensor_alone(name: str) -> None:
    rates = torch.randn(50)
    params = {"body.block1.conv.weight": rates, "body.block2.conv.weight": rates}
    first, again, other = (edited(params, params, name, seed=seed) for seed in (0, 0, 1))
    for tensor in params:
        assert torch.equal(first[tensor], again[tensor])
        assert not torch.equal(first[tensor], other[tensor])
    assert not torch.equal(first["body.block1.conv.weight"], first["body.block2.conv.weight"])


@pytest.mark.parametrize("name", ["shuffled", "shuffled-signs", "tensor-mean", "absolute", "zero-negative"])
def test_one_positive_number_for_a_tensor_stays_as_it_is(name: str) -> None:
    assert torch.equal(edit(name, torch.tensor(0.05)), torch.tensor(0.05))


def test_rates_per_step_are_shuffled_in_one_order_and_have_a_mean_per_step() -> None:
    rates = torch.stack([torch.arange(1.0, 31), torch.arange(101.0, 131)]) * torch.tensor([1.0, -1.0]).repeat(15)
    parameter = torch.zeros(30)
    shuffled = edit("shuffled", rates, parameter=parameter)
    assert torch.equal(shuffled[0].abs() + 100, shuffled[1].abs())
    assert torch.equal(edit("tensor-mean", rates, parameter=parameter), torch.tensor([[-0.5], [-0.5]]).expand(2, 30))


def test_an_unknown_edit_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError) as caught:
        find_edit("xyz")
    assert caught.value.message == "unknown rates `xyz`"
    assert caught.value.hint == f"known: {', '.join(EDITS)}, a number"


@pytest.mark.parametrize("number", ["nan", "inf", ""])
def test_only_a_finite_number_is_a_rate(number: str) -> None:
    with pytest.raises(UnknownNameError):
        find_edit(number)


def test_the_help_lists_the_table() -> None:
    assert list(RATES) == list(EDITS)


@pytest.fixture(scope="module")
def learner() -> Learner:
    return build_learner("conv4", n_way=3, image_size=16, filters=4, seed=0)


@pytest.fixture
def support() -> tuple[Tensor, Tensor]:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(3)


def test_a_part_is_all_body_head_or_a_layer(learner: Learner) -> None:
    params = learner.initial_params()
    rates = {name: torch.tensor(0.1) for name in params}
    assert set(rates_of_part(rates, params, ["all"])) == set(params)
    assert set(rates_of_part(rates, params, ["head"])) == {"head.weight", "head.bias"}
    assert set(rates_of_part(rates, params, ["body"])) == set(params) - {"head.weight", "head.bias"}
    assert {name.split(".")[1] for name in rates_of_part(rates, params, ["block1", "block3"])} == {"block1", "block3"}
    with pytest.raises(UnknownNameError) as caught:
        rates_of_part(rates, params, ["block5"])
    assert caught.value.hint == "did you mean `block4`? known: all, body, head, block1, block2, block3, block4"


def test_a_matched_rate_is_the_ratio_of_the_norms() -> None:
    # a * g = (3, -4), of norm 5; g = (6, 8), of norm 10
    assert matched_rate(torch.tensor([0.5, -0.5]), torch.tensor([6.0, 8.0])) == 0.5
    assert matched_rate(torch.tensor([0.5, -0.5]), torch.zeros(2)) == 0


def test_norm_matched_steps_are_as_long_as_the_learned_ones_and_downhill(
    learner: Learner, support: tuple[Tensor, Tensor]
) -> None:
    params = {name: value.double() for name, value in learner.initial_params().items()}
    pixels = (support[0].double(), support[1])
    generator = torch.Generator().manual_seed(1)
    rates = {name: torch.randn(value.shape, generator=generator).double() for name, value in params.items()}
    engine = ReferenceEngine(learner)
    gradient = engine.support_gradient(params, *pixels, rates)
    learned = adapt(engine, params, rates, pixels, steps=1)
    matched = adapt(engine, params, rates, pixels, steps=1, norm_matched=True)
    for name, start in params.items():
        step = start - matched[name]
        assert step.norm().item() == pytest.approx((start - learned[name]).norm().item(), rel=1e-9)
        cosine = torch.cosine_similarity(step.flatten(), gradient[name].flatten(), dim=0)
        assert cosine.item() == pytest.approx(1, abs=1e-9)


def test_norm_matched_uses_the_gradient_of_every_step(learner: Learner, support: tuple[Tensor, Tensor]) -> None:
    params = {name: value.double() for name, value in learner.initial_params().items()}
    pixels = (support[0].double(), support[1])
    rates = {name: torch.full((2, *value.shape), 0.1, dtype=torch.float64) for name, value in params.items()}
    for rate in rates.values():
        rate[1] = -0.3
    engine = ReferenceEngine(learner)
    matched = adapt(engine, params, rates, pixels, steps=2, norm_matched=True)
    # the constant is 0.1 in the first step and |-0.3| in the second
    plain = engine.adapt(params, {name: torch.tensor(0.1) for name in rates}, *pixels, steps=1)
    plain = engine.adapt(plain, {name: torch.tensor(0.3) for name in rates}, *pixels, steps=1)
    for name, value in plain.items():
        assert torch.allclose(matched[name], value, rtol=1e-6, atol=1e-8)


def test_without_negative_rates_absolute_is_learned_bit_for_bit(
    learner: Learner, support: tuple[Tensor, Tensor]
) -> None:
    params = learner.initial_params()
    rates = {name: torch.rand_like(value) for name, value in params.items()}
    absolute = edited(rates, params, "absolute", seed=0)
    for name, value in adapt(ReferenceEngine(learner), params, rates, support, steps=2).items():
        assert torch.equal(adapt(ReferenceEngine(learner), params, absolute, support, steps=2)[name], value)


def test_without_rates_nothing_moves(learner: Learner, support: tuple[Tensor, Tensor]) -> None:
    params = learner.initial_params()
    assert adapt(ReferenceEngine(learner), params, {}, support, steps=3) is params


@pytest.mark.parametrize("number", ["1e39", "-1e39", "inf", "nan"])
def test_a_number_that_float32_does_not_hold_is_no_edit(number: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown rates"):
        find_edit(number)
