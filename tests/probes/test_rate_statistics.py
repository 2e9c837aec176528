"""The figures of the inner rates against their definitions, on numbers written by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nilr.meta.engine.reference import ReferenceEngine
from nilr.models.registry import build_learner
from nilr.probes.edits import adapt
from nilr.probes.rate_statistics import BINS, larger, signal, spread, walk, without_signal


def test_a_spread_is_that_of_all_rates_together() -> None:
    found = spread([torch.tensor([[-1.0, 0.0], [1.0, 2.0]]), torch.tensor(3.0)])
    assert found["count"] == 5
    assert found["mean"] == 1.0
    assert found["std"] == pytest.approx(math.sqrt(2))  # (4 + 1 + 0 + 1 + 4) / 5
    assert found["share_negative"] == 0.2
    assert found["quantiles"]["0.0"] == -1.0
    assert found["quantiles"]["0.25"] == 0.0
    assert found["quantiles"]["0.5"] == 1.0
    assert found["quantiles"]["0.95"] == pytest.approx(2.8)  # 0.8 of the way from 2 to 3
    assert found["quantiles"]["1.0"] == 3.0


def below_zero(edges: list[float], counts: list[int]) -> int:
    return sum(n for edge, n in zip(edges[1:], counts, strict=True) if edge <= 0)


@pytest.mark.parametrize(
    "rates",
    [
        torch.randn(1000, generator=torch.Generator().manual_seed(0)),
        torch.rand(1000, generator=torch.Generator().manual_seed(0)) + 3,
        -torch.rand(1000, generator=torch.Generator().manual_seed(0)),
        torch.tensor([-1.0, 0.0]),
        torch.tensor([-1e-30, 1.0]),
        torch.tensor([-7.0]),
        torch.tensor(0.05),
        torch.zeros(3),
    ],
    ids=lambda rates: f"{rates.min():.2g} to {rates.max():.2g}",
)
def test_a_histogram_counts_every_rate_and_separates_the_signs(rates: Tensor) -> None:
    edges, counts = spread([rates])["histogram"].values()
    assert sum(counts) == rates.numel()
    assert len(edges) == len(counts) + 1 <= BINS + 3
    assert edges == sorted(set(edges))
    assert below_zero(edges, counts) == int((rates < 0).sum())
    for low, high, n in zip(edges, edges[1:], counts, strict=False):
        # to the rounding of an edge
        slack = 1e-9 * max(abs(low), abs(high))
        assert ((rates.double() >= low - slack) & (rates.double() < high + slack)).sum() >= n


class Slopes:
    """An engine whose gradient is the parameter itself, so that a step of rate a leaves (1 - a) of it."""

    def support_gradient(self, params, support_x, support_y, names):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        return {name: params[name] for name in names}


NOTHING = (torch.empty(0), torch.empty(0))


def walked(params: dict[str, Tensor], rates: dict[str, Tensor], steps: int):  # type: ignore[no-untyped-def]  # noqa: ANN201
    return walk(Slopes(), params, rates, NOTHING, steps=steps)  # type: ignore[arg-type]


def test_one_step_gives_the_ascent_the_norm_and_the_cosine_of_the_definition() -> None:
    params = {"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0])}
    rates = {"a": torch.tensor([0.5, -1.0]), "b": torch.tensor(-0.25)}
    taken, *_ = walked(params, rates, 1)
    a, both = signal([taken], ["a"]), signal([taken], ["a", "b"])
    # |a| g^2 is 4.5 and 1, the latter uphill; a*g is (1.5, -1); (1.5, -1) . (3, 1) = 3.5
    assert a["ascent"].tolist() == pytest.approx([1 / 5.5])
    assert a["step_norm"].tolist() == pytest.approx([math.sqrt(3.25)])
    assert a["cosine"].tolist() == pytest.approx([3.5 / math.sqrt(3.25 * 10)])
    # b adds 0.25 * 4 = 1, uphill; a step of -0.5; -1 to the product
    assert both["ascent"].tolist() == pytest.approx([2 / 6.5])
    assert both["step_norm"].tolist() == pytest.approx([math.sqrt(3.5)])
    assert both["cosine"].tolist() == pytest.approx([2.5 / math.sqrt(3.5 * 14)])


def test_the_statistics_of_a_step_use_the_parameters_at_that_step() -> None:
    # rates per step 0.5 and -1: the parameter is 4, then 2; the steps are 2 and -2
    taken, largest, first = walked({"a": torch.tensor([4.0])}, {"a": torch.tensor([[0.5], [-1.0]])}, 2)
    found = signal([taken], ["a"])
    assert found["step_norm"].tolist() == [2.0]
    assert found["cosine"].tolist() == [0.0]  # 1 and -1
    assert found["ascent"].tolist() == pytest.approx([4 / 12])  # 0.5 * 16 down, 1 * 4 up
    assert largest["a"].tolist() == first["a"].tolist() == [4.0]


def test_an_undefined_value_is_nan_only_in_its_episode() -> None:
    still, *_ = walked({"a": torch.zeros(1)}, {"a": torch.tensor(0.5)}, 1)
    moved, *_ = walked({"a": torch.ones(1)}, {"a": torch.tensor(0.5)}, 1)
    found = signal([still, moved], ["a"])
    assert found["ascent"].isnan().tolist() == found["cosine"].isnan().tolist() == [True, False]
    assert found["step_norm"].tolist() == [0.0, 0.5]


def test_a_gradient_that_is_only_rounding_is_no_signal() -> None:
    largest = {"conv": torch.tensor([0.2, 0.0]), "conv.bias": torch.tensor([3e-9]), "dead": torch.zeros(2)}
    assert without_signal(largest) == ["conv.bias", "dead"]
    assert without_signal({}) == []


def test_the_larger_of_two_is_taken_element_by_element() -> None:
    first = larger({}, {"a": torch.tensor([1.0, 2.0])})
    assert larger(first, {"a": torch.tensor([0.0, 5.0])})["a"].tolist() == [1.0, 5.0]


def test_the_walk_takes_the_steps_of_the_inner_loop() -> None:
    learner = build_learner("conv4", n_way=3, image_size=16, filters=4, seed=0)
    params = {name: value.double() for name, value in learner.initial_params().items()}
    generator = torch.Generator().manual_seed(0)
    support = (torch.rand(3, 3, 16, 16, generator=generator, dtype=torch.float64), torch.arange(3))
    rates = {name: torch.randn(value.shape, generator=generator).double() / 9 for name, value in params.items()}
    engine = ReferenceEngine(learner)
    taken, *_ = walk(engine, params, rates, support, steps=2)
    at = [adapt(engine, params, rates, support, steps=k) for k in range(3)]
    for t, name in enumerate(taken.names):
        for k in range(2):
            gone = (at[k][name] - at[k + 1][name]).square().sum().item()
            assert taken.step[k, t].item() == pytest.approx(gone, rel=1e-6)
