"""Heads for other numbers of classes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from nilr.meta.algorithms import ALGORITHMS
from nilr.meta.engine.registry import ENGINES
from nilr.models.heads import resize_head
from tests.meta.engine.test_engines import batch, model


def test_rows_and_rates_follow_one_rule() -> None:
    weight, bias = torch.tensor([[1.0, 2.0], [3.0, 4.0], [8.0, 3.0]]), torch.tensor([1.0, 2.0, 6.0])
    params = {"body.w": torch.ones(3), "head.weight": weight, "head.bias": bias}
    rates = {"body.w": torch.ones(3), "head.weight": torch.stack([weight, 10 * weight]), "head.bias": torch.tensor(0.5)}
    new, taken = resize_head(params, rates, 4)
    assert new["head.weight"].tolist() == [[1, 2], [3, 4], [8, 3], [1, 2]]
    assert new["head.bias"].tolist() == [1, 2, 6, 1]
    assert taken["head.weight"][1].tolist() == [[10, 20], [30, 40], [80, 30], [10, 20]]
    assert (taken["head.bias"].item(), new["body.w"] is params["body.w"]) == (0.5, True)
    new, taken = resize_head(params, rates, 2, "mean")
    assert new["head.weight"].tolist() == [[4, 3], [4, 3]]
    assert new["head.bias"].tolist() == [3, 3]
    assert taken["head.weight"].tolist() == [[[4, 3], [4, 3]], [[40, 30], [40, 30]]]
    new, taken = resize_head(params, rates, 2, "zeros")
    assert new["head.weight"].tolist() == [[0, 0], [0, 0]]
    assert taken["head.weight"].tolist() == [[[4, 3], [4, 3]], [[40, 30], [40, 30]]]
    per_tensor = {"head.weight": torch.full((2, 1, 1), 0.1)}
    assert resize_head(params, per_tensor, 5, "rows")[1]["head.weight"].shape == (2, 1, 1)


def test_from_equal_rows_the_first_step_moves_the_head_alone_and_means_adapt_as_zeros() -> None:
    row = dataclasses.replace(ALGORITHMS["metasgd"])
    learner, params, rates = model("conv4", row)
    episode = batch()[0]
    engine = ENGINES["reference"](learner)
    reached = {}
    for choice in ("mean", "zeros"):
        start, taken = resize_head(params, rates, 4, choice)  # type: ignore[arg-type]
        support = (episode.support_x, torch.tensor([0, 1, 2, 3, 0, 1]))
        once = engine.adapt(start, taken, *support, steps=1)
        for name, value in once.items():
            moved = not torch.allclose(value, start[name], rtol=0, atol=1e-14)
            assert moved == name.startswith("head."), name
        adapted = engine.adapt(start, taken, *support, steps=3)
        reached[choice] = learner.logits(adapted, episode.query_x).softmax(1)
    torch.testing.assert_close(reached["mean"], reached["zeros"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("choice", ["rows", "mean", "zeros"])
def test_a_head_has_one_row_per_class(choice: str) -> None:
    _, params, rates = model("conv4", ALGORITHMS["metasgd"])
    new, taken = resize_head(params, rates, 7, choice)  # type: ignore[arg-type]
    assert new["head.weight"].shape == taken["head.weight"].shape == (7, 16)
    assert new["head.bias"].shape == taken["head.bias"].shape == (7,)
