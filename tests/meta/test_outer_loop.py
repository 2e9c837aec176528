"""The outer step against Adam's published formulas."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from nilr.episodes import Episode
from nilr.errors import CheckpointError, DivergedError
from nilr.meta.algorithms import ALGORITHMS
from nilr.meta.engine.contract import MetaGradient, Objective
from nilr.meta.engine.reference import ReferenceEngine
from nilr.meta.inner_lr import initial_rates
from nilr.meta.outer_loop import OuterLoop, OuterSettings, Report, meta_gradients
from nilr.models.learner import Tensors
from nilr.models.registry import build_learner
from tests.meta.steps import take_step

LEARNER = build_learner("conv4", n_way=2, image_size=16, filters=2)
EPISODES = Episode(*(torch.zeros(1, 2) for _ in range(4)))


class GivenEngine(ReferenceEngine):
    """Announces gradients that the test chose."""

    def __init__(self, value: float, loss: float = 1.0) -> None:
        super().__init__(LEARNER)
        self.value, self.loss = value, loss

    def meta_gradient(
        self, params: Tensors, inner_lr: Tensors, episodes: Episode, objective: Objective
    ) -> MetaGradient:
        self.seen, self.weights = inner_lr, objective.loss_weights

        def given(values: Tensors) -> dict[str, Tensor]:
            return {name: torch.full_like(value, self.value) for name, value in values.items()}

        rates = given(inner_lr) if objective.algorithm.learns_rates else {}
        return MetaGradient(torch.tensor([0.5, self.loss]), torch.ones(2), given(params), rates)


def loop(
    engine: GivenEngine, *, algo: str = "metasgd", clip: float | None = None, row: Any = None, **settings: Any
) -> OuterLoop:
    params = LEARNER.initial_params()
    algorithm = dataclasses.replace(ALGORITHMS[algo], **(row or {}))
    rates = initial_rates(algorithm, params, LEARNER.kinds, seed=0)
    how = OuterSettings(0.01, clip, algorithm.inner_steps, outer_steps=100, **settings)
    return OuterLoop(algorithm, params, rates, engine=engine, settings=how)


def adam(gradients: list[float], rate: float = 0.01) -> float:
    """Return where Adam (Kingma and Ba, 2015, algorithm 1) ends from 0."""
    x = m = v = 0.0
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        x -= rate * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return x


@pytest.mark.parametrize(("clip", "effective"), [(None, [3.0, -0.5]), (1.0, [1.0, -0.5])])
def test_params_and_learned_rates_take_adams_step_on_the_clipped_gradient(
    clip: float | None, effective: list[float]
) -> None:
    engine = GivenEngine(3.0)
    outer = loop(engine, clip=clip)
    start = {**outer.params, **{f"rate {name}": rate for name, rate in outer.inner_lr.items()}}
    start = {name: value.clone() for name, value in start.items()}
    take_step(outer, EPISODES, outer_step=0, first_episode=0)
    engine.value = -0.5
    take_step(outer, EPISODES, outer_step=1, first_episode=4)
    end = {**outer.params, **{f"rate {name}": rate for name, rate in outer.inner_lr.items()}}
    for name, value in end.items():
        torch.testing.assert_close(value - start[name], torch.full_like(value, adam(effective)), rtol=0, atol=2e-7)


def test_fixed_rates_stay() -> None:
    outer = loop(GivenEngine(1.0), algo="maml")
    before = {name: rate.clone() for name, rate in outer.inner_lr.items()}
    take_step(outer, EPISODES, outer_step=0, first_episode=0)
    assert all(torch.equal(outer.inner_lr[name], rate) for name, rate in before.items())


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        (GivenEngine(1.0, loss=math.nan), "the query loss is nan at outer step 7, episode 29"),
        (GivenEngine(math.inf), "the meta-gradient in `body.block1.conv.weight` is not finite at outer step 7"),
        # 1e20 squared is beyond float32: Adam's second moment would be infinite, and its number never move again
        (GivenEngine(1e20), "the meta-gradient in `body.block1.conv.weight` is too large for Adam at outer step 7"),
    ],
)
def test_a_number_that_is_not_finite_stops_before_anything_changes(engine: GivenEngine, said: str) -> None:
    outer = loop(engine)
    before = {name: value.clone() for name, value in outer.state().items()}
    with pytest.raises(DivergedError) as caught:
        take_step(outer, EPISODES, outer_step=7, first_episode=28)
    assert said in caught.value.message
    assert all(torch.equal(value, before[name]) for name, value in outer.state().items())


@pytest.mark.parametrize("part", ["params", "inner_lr"])
def test_what_is_not_finite_is_seen_in_the_parameters_and_in_their_rates(part: str) -> None:
    outer = loop(GivenEngine(1.0))
    gradient = meta_gradients([outer], [EPISODES], None)[0]
    getattr(gradient, part)["head.bias"].fill_(math.inf)
    report = Report(*outer.stage(gradient).tolist())
    named = "`head.bias`" if part == "params" else "`the rate of head.bias`"
    with pytest.raises(DivergedError, match=f"in {named} is not finite at outer step 3, episodes 6 to 7"):
        outer.apply(gradient, report, outer_step=3, first_episode=6)


def test_a_loaded_state_continues_bit_for_bit() -> None:
    whole, other = loop(GivenEngine(0.3)), loop(GivenEngine(0.3))
    for outer in (whole, other):
        take_step(outer, EPISODES, outer_step=0, first_episode=0)
    resumed = loop(GivenEngine(0.3))
    resumed.load_state({name: value.clone() for name, value in other.state().items()})
    for outer in (whole, resumed):
        take_step(outer, EPISODES, outer_step=1, first_episode=2)
    assert whole.state().keys() == resumed.state().keys()
    assert all(torch.equal(value, resumed.state()[name]) for name, value in whole.state().items())


def test_a_state_that_lacks_a_tensor_is_refused() -> None:
    outer = loop(GivenEngine(0.3))
    take_step(outer, EPISODES, outer_step=0, first_episode=0)
    state = outer.state()
    del state["adam/exp_avg/params/head.bias"]
    with pytest.raises(CheckpointError, match=r"lacks the tensor `adam/exp_avg/params/head\.bias`"):
        loop(GivenEngine(0.3)).load_state(state)


def test_a_state_of_another_shape_is_refused() -> None:
    state = loop(GivenEngine(0.3)).state()
    state["params/head.bias"] = torch.zeros(3)
    with pytest.raises(
        CheckpointError, match=r"`params/head\.bias` of the training state has shape \(3,\), expected \(2,\)"
    ):
        loop(GivenEngine(0.3)).load_state(state)


def test_a_constrained_rate_is_brought_back_after_the_step_and_leaves_as_soon_as_the_gradient_turns() -> None:
    engine = GivenEngine(1.0)
    outer = loop(engine, row={"inner_lr_init": "0.005", "constraint": "non-negative"})
    # Adam's first steps are of its rate, 0.01: 0.005 would become -0.005, then -0.015, and so on
    for step in range(3):
        take_step(outer, EPISODES, outer_step=step, first_episode=0)
        assert {float(value) for rate in outer.inner_lr.values() for value in rate.flatten()} == {0.0}
    engine.value = -100.0
    take_step(outer, EPISODES, outer_step=3, first_episode=0)
    assert all((rate > 0).all() for rate in outer.inner_lr.values())


def test_a_rectified_number_keeps_falling_below_zero_and_must_rise_again_from_there() -> None:
    engine = GivenEngine(1.0)
    outer = loop(engine, row={"inner_lr_init": "0.005", "rectified": True})
    rate = outer.state()["inner_lr/head.bias"]
    for step in range(3):
        take_step(outer, EPISODES, outer_step=step, first_episode=0)
    assert rate.tolist() == pytest.approx([0.005 + adam([1.0] * 3)] * 2, abs=1e-6)
    assert (rate < -0.02).all()
    assert (engine.seen["head.bias"] == 0).all()
    engine.value = -100.0
    take_step(outer, EPISODES, outer_step=3, first_episode=0)
    assert (outer.inner_lr["head.bias"] == 0).all()


def test_a_rate_with_a_fixed_sign_stops_at_zero_on_its_side_even_after_its_state_is_loaded() -> None:
    engine, row = GivenEngine(1.0), {"inner_lr_init": "random-sign:0.015", "constraint": "fixed-signs"}
    outer = loop(engine, row=row)
    start = {name: rate.clone() for name, rate in outer.inner_lr.items()}
    for step in range(2):  # of Adam's rate 0.01, downwards: 0.015 becomes 0.005, then 0
        take_step(outer, EPISODES, outer_step=step, first_episode=0)
    for name, rate in outer.inner_lr.items():
        expected = torch.where(start[name] > 0, 0.0, start[name] - 0.02)
        torch.testing.assert_close(rate, expected, rtol=0, atol=1e-6)
    engine.value = -100.0  # upwards: the positive rates leave zero at once, the negative ones end at zero
    resumed = loop(engine, row=row)
    resumed.load_state(outer.state())
    for step in range(2, 12):
        take_step(resumed, EPISODES, outer_step=step, first_episode=0)
    for name, rate in resumed.inner_lr.items():
        assert torch.equal(rate == 0, start[name] < 0)
        assert (rate[start[name] > 0] > 0).all()


def test_rates_keep_their_norms_per_tensor_after_every_step_and_after_a_load() -> None:
    params, row = LEARNER.initial_params(), dataclasses.replace(ALGORITHMS["metasgd"], constraint="non-negative")
    rates = initial_rates(row, params, LEARNER.kinds, seed=0)
    norms = {name: torch.tensor(0.1 * (i + 1)) for i, name in enumerate(rates)}
    how = OuterSettings(0.01, None, row.inner_steps, outer_steps=100)
    outer, resumed = (
        OuterLoop(row, params, rates, engine=GivenEngine(1.0), settings=how, rate_norms=given)
        for given in (norms, {name: torch.zeros(()) for name in rates})
    )
    take_step(outer, EPISODES, outer_step=0, first_episode=0)
    resumed.load_state(outer.state())
    take_step(resumed, EPISODES, outer_step=1, first_episode=0)
    for one in (outer, resumed):
        for name, rate in one.inner_lr.items():
            assert rate.min() >= 0
            assert rate.double().square().sum().sqrt().item() == pytest.approx(norms[name].item(), rel=1e-6)


def test_bounds_hold_at_every_step() -> None:
    engine = GivenEngine(-1.0)
    outer = loop(engine, row={"inner_lr_init": "0.05", "constraint": "bounded:-0.001,0.055"})
    seen = []
    for step in range(12):
        take_step(outer, EPISODES, outer_step=step, first_episode=0)
        engine.value = 1.0
        seen.append(float(outer.inner_lr["head.bias"][0]))
    assert max(seen) == pytest.approx(0.055)
    assert seen[-1] == pytest.approx(-0.001)


def test_a_single_rate_for_all_takes_adams_step_on_the_summed_gradient() -> None:
    outer = loop(GivenEngine(0.5), clip=1.0, row={"grain": "scalar", "inner_lr_init": "0.05"})
    take_step(outer, EPISODES, outer_step=0, first_episode=0)
    assert [float(rate) for rate in outer.inner_lr.values()] == pytest.approx([0.04] * 14)
    # Adam's first moment after a step is a tenth of the gradient: 14 tensors times 0.5, clipped at 1
    assert outer.state()["adam/exp_avg/inner_lr/all"].item() == pytest.approx(0.1)


def test_adams_rate_follows_the_cosine() -> None:
    outer = loop(GivenEngine(1.0), outer_lr_schedule="cosine")
    before = outer.params["head.bias"].clone()
    for step in (0, 50):
        moved = outer.params["head.bias"].clone()
        take_step(outer, EPISODES, outer_step=step, first_episode=0)
        # with a constant gradient every step of Adam is of its rate: 0.01 at the start, half of it midway
        expected = 0.01 * (1 if step == 0 else 0.5)
        torch.testing.assert_close(moved - outer.params["head.bias"], torch.full((2,), expected), rtol=1e-4, atol=0)
    assert not torch.equal(before, outer.params["head.bias"])


def test_the_losses_of_earlier_steps_weigh_at_first_and_not_later() -> None:
    engine = GivenEngine(1.0)
    outer = loop(engine, algo="maml", multi_step_loss=True)
    take_step(outer, EPISODES, outer_step=0, first_episode=0)
    assert engine.weights == pytest.approx((0.2, 0.2, 0.2, 0.2, 0.2))
    take_step(outer, EPISODES, outer_step=15, first_episode=0)
    assert engine.weights is None


@pytest.mark.parametrize("grain", ["element", "tensor", "scalar"])
def test_a_loaded_state_of_every_grain_continues_bit_for_bit(grain: str) -> None:
    kind = {"grain": grain, "per_step": True, "inner_steps": 3, "rectified": True, "inner_lr_init": "0.005"}
    whole, other = (loop(GivenEngine(0.3), row=kind, outer_lr_schedule="cosine") for _ in range(2))
    for outer in (whole, other):
        for step in range(2):
            take_step(outer, EPISODES, outer_step=step, first_episode=0)
    resumed = loop(GivenEngine(0.3), row=kind, outer_lr_schedule="cosine")
    resumed.load_state({name: value.clone() for name, value in other.state().items()})
    for outer in (whole, resumed):
        take_step(outer, EPISODES, outer_step=2, first_episode=2)
    assert whole.state().keys() == resumed.state().keys()
    assert all(torch.equal(value, resumed.state()[name]) for name, value in whole.state().items())
