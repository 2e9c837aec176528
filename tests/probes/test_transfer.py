"""First-order transfer against finite differences and a plain loop, in float64, on a network written here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nilr.episodes import Episode
from nilr.meta.engine.reference import ReferenceEngine
from nilr.models.registry import build_learner
from nilr.probes.conditions import META_INIT, Condition, Quantity, Subject, read_episode
from nilr.probes.edits import NORM_MATCHED
from nilr.probes.readings import LossChange, PredictedLossChange
from nilr.probes.tasks import Task, Tasks
from tests.probes.plain_network import N_WAY, SIZE, episode, logits

Loss = Callable[[dict[str, Tensor]], Tensor]

A, B = episode(1), episode(2)
TASKS = Tasks(B, {Task("same-task"): B, Task("cross-task"): A})


def model(*, steps: int = 1, per_step: bool = False) -> tuple[Subject, dict[str, Tensor], dict[str, Tensor]]:
    learner = build_learner("conv4", n_way=N_WAY, image_size=SIZE, filters=3, seed=0)
    params = {name: value.double() for name, value in learner.initial_params().items()}
    generator = torch.Generator().manual_seed(3)
    lead = (steps,) if per_step else ()
    rates = {
        name: 0.2 * torch.randn(*lead, *value.shape, generator=generator, dtype=torch.float64)
        for name, value in params.items()
    }
    rates["body.block2.conv.weight"][..., 0, 0] = 0.0
    return Subject(params, rates, steps, ReferenceEngine(learner)), params, rates


def walked(params: dict[str, Tensor], rates: dict[str, Tensor], support: Episode, steps: int, per_step: bool) -> Any:
    """Return the adapted parameters, and the displacement by positive and by negative rates, by a plain loop."""
    at = dict(params)
    up, down = ({name: torch.zeros_like(value) for name, value in params.items()} for _ in range(2))
    for k in range(steps):
        leaves = {name: value.clone().requires_grad_() for name, value in at.items()}
        loss = cross_entropy(logits(leaves, support.support_x, support.support_x, "apart"), support.support_y)
        for name, g in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
            rate = rates[name][k] if per_step else rates[name]
            at[name] = at[name] - rate * g
            up[name] = up[name] - rate.clamp(min=0) * g
            down[name] = down[name] - rate.clamp(max=0) * g
    return at, up, down


def slope(loss: Loss, params: dict[str, Tensor], along: dict[str, Tensor], width: float = 1e-5) -> float:
    """Return d/dt loss(params + t along) at t = 0, by central differences."""
    ends = [{name: value + side * along[name] for name, value in params.items()} for side in (width, -width)]
    return (loss(ends[0]) - loss(ends[1])).item() / (2 * width)


def parts(protocol: str, subject: Subject, *wheres: str) -> dict[tuple[str, Any], float]:
    condition = Condition(protocol)
    quantities = {
        (where, sign): Quantity(condition, PredictedLossChange(sign, where))
        for where in wheres
        for sign in (None, "positive", "negative")
    }
    found = read_episode(subject, TASKS, quantities.values())
    return {key: found[quantity] for key, quantity in quantities.items()}


@pytest.mark.parametrize("batch_stats", ["apart", "together", "inductive"])
@pytest.mark.parametrize(("steps", "per_step"), [(1, False), (3, False), (3, True)])
@pytest.mark.parametrize("protocol", ["same-task", "cross-task"])
def test_the_prediction_is_the_slope_of_the_loss_along_the_displacement(
    protocol: str, steps: int, per_step: bool, batch_stats: Any
) -> None:
    subject, params, rates = model(steps=steps, per_step=per_step)
    subject = Subject(params, rates, steps, subject.engine, batch_stats)
    end, up, down = walked(params, rates, {"same-task": B, "cross-task": A}[protocol], steps, per_step)

    def loss(at: dict[str, Tensor]) -> Tensor:
        return cross_entropy(logits(at, B.support_x, B.query_x, batch_stats), B.query_y)

    found = parts(protocol, subject, "all")
    whole = {name: end[name] - params[name] for name in params}
    for sign, along in ((None, whole), ("positive", up), ("negative", down)):
        assert found["all", sign] == pytest.approx(slope(loss, params, along), rel=1e-5, abs=1e-9)
    quantity = Quantity(Condition(protocol), LossChange())
    actual = read_episode(subject, TASKS, [quantity])[quantity]
    assert actual == pytest.approx((loss(end) - loss(params)).item(), abs=1e-10)


@pytest.mark.parametrize("per_step", [False, True])
def test_the_parts_sum_to_the_whole(per_step: bool) -> None:
    subject, *_ = model(steps=2, per_step=per_step)
    layers = ("block1", "block2", "block3", "block4")
    found = parts("cross-task", subject, "all", "body", "head", *layers)
    for where in ("all", "body", "head", *layers):
        assert found[where, None] == pytest.approx(found[where, "positive"] + found[where, "negative"], abs=1e-12)
    for sign in (None, "positive", "negative"):
        assert found["all", sign] == pytest.approx(found["body", sign] + found["head", sign], abs=1e-12)
        assert found["body", sign] == pytest.approx(sum(found[layer, sign] for layer in layers), abs=1e-12)
    assert min(abs(value) for value in found.values()) > 1e-6


def test_norm_matched_steps_go_down_whatever_the_sign_of_the_rates() -> None:
    subject, params, rates = model(steps=2)
    edited = Subject(params, rates, 2, subject.engine, edits={NORM_MATCHED: rates})
    readings = [PredictedLossChange(sign) for sign in (None, "positive", "negative")]
    quantities = [Quantity(Condition("same-task", NORM_MATCHED), reading) for reading in readings]
    whole, positive, negative = read_episode(edited, TASKS, quantities).values()
    assert negative == 0
    assert positive == whole < 0


def test_the_meta_initialisation_has_no_displacement() -> None:
    subject, *_ = model()
    with pytest.raises(ValueError, match="no displacement"):
        read_episode(subject, TASKS, [Quantity(META_INIT, PredictedLossChange())])
