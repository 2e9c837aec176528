"""The outer step against Adam's published formulas."""

import math

import pytest
import torch
from torch import Tensor

from nilr.episodes import Episode
from nilr.errors import CheckpointError, DivergedError
from nilr.meta.algorithms import ALGORITHMS, initial_rates
from nilr.meta.engine.contract import MetaGradient
from nilr.meta.engine.reference import ReferenceEngine
from nilr.meta.outer_loop import OuterLoop, OuterSettings, share_negative, share_negative_by_layer
from nilr.models.registry import build_learner

LEARNER = build_learner("conv4", n_way=2, image_size=16, filters=2)
EPISODES = Episode(*(torch.zeros(1, 2) for _ in range(4)))


class GivenEngine(ReferenceEngine):
    """Announces gradients that the test chose."""

    def __init__(self, value: float, loss: float = 1.0) -> None:
        self.value, self.loss = value, loss

    def meta_gradient(self, learner, params, inner_lr, algorithm, episodes, *, steps) -> MetaGradient:  # type: ignore[no-untyped-def]  # noqa: ANN001
        def given(values: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: torch.full_like(value, self.value) for name, value in values.items()}

        rates = given(inner_lr) if algorithm.learns_rates else {}
        return MetaGradient(torch.tensor([0.5, self.loss]), torch.ones(2), given(params), rates)


def loop(engine: GivenEngine, *, algo: str = "metasgd", clip: float | None = None) -> OuterLoop:
    params = LEARNER.initial_params()
    row = ALGORITHMS[algo]
    rates = initial_rates(row, params, seed=0)
    return OuterLoop(LEARNER, row, params, rates, engine=engine, settings=OuterSettings(0.01, clip, 1))


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
    outer.step(EPISODES, outer_step=0, first_episode=0)
    engine.value = -0.5
    outer.step(EPISODES, outer_step=1, first_episode=4)
    end = {**outer.params, **{f"rate {name}": rate for name, rate in outer.inner_lr.items()}}
    for name, value in end.items():
        torch.testing.assert_close(value - start[name], torch.full_like(value, adam(effective)), rtol=0, atol=2e-7)


def test_fixed_rates_stay() -> None:
    outer = loop(GivenEngine(1.0), algo="maml")
    before = {name: rate.clone() for name, rate in outer.inner_lr.items()}
    outer.step(EPISODES, outer_step=0, first_episode=0)
    assert all(torch.equal(outer.inner_lr[name], rate) for name, rate in before.items())


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        (GivenEngine(1.0, loss=math.nan), "the query loss is nan at outer step 7, episode 29"),
        (GivenEngine(math.inf), "the meta-gradient in `body.block1.conv.weight` is not finite at outer step 7"),
    ],
)
def test_a_number_that_is_not_finite_stops_before_anything_changes(engine: GivenEngine, said: str) -> None:
    outer = loop(engine)
    before = {name: value.clone() for name, value in outer.state().items()}
    with pytest.raises(DivergedError) as caught:
        outer.step(EPISODES, outer_step=7, first_episode=28)
    assert said in caught.value.message
    assert all(torch.equal(value, before[name]) for name, value in outer.state().items())


def test_a_loaded_state_goes_on_bit_for_bit() -> None:
    whole, other = loop(GivenEngine(0.3)), loop(GivenEngine(0.3))
    for outer in (whole, other):
        outer.step(EPISODES, outer_step=0, first_episode=0)
    resumed = loop(GivenEngine(0.3))
    resumed.load_state({name: value.clone() for name, value in other.state().items()})
    for outer in (whole, resumed):
        outer.step(EPISODES, outer_step=1, first_episode=2)
    assert whole.state().keys() == resumed.state().keys()
    assert all(torch.equal(value, resumed.state()[name]) for name, value in whole.state().items())


def test_a_state_that_lacks_a_tensor_is_refused() -> None:
    outer = loop(GivenEngine(0.3))
    outer.step(EPISODES, outer_step=0, first_episode=0)
    state = outer.state()
    del state["adam/exp_avg/params/head.bias"]
    with pytest.raises(CheckpointError, match=r"lacks the tensor 'adam/exp_avg/params/head\.bias'"):
        loop(GivenEngine(0.3)).load_state(state)


def test_a_state_of_another_shape_is_refused() -> None:
    state = loop(GivenEngine(0.3)).state()
    state["params/head.bias"] = torch.zeros(3)
    with pytest.raises(CheckpointError, match=r"`head\.bias` has shape \(3,\) and not \(2,\)"):
        loop(GivenEngine(0.3)).load_state(state)


def test_the_share_of_negative_rates_counts_elements() -> None:
    assert share_negative({"a": torch.tensor([-1.0, 0.0, 2.0]), "b": torch.tensor([-0.1])}) == 0.5


def test_the_share_of_negative_rates_of_a_layer_counts_its_tensors_together() -> None:
    rates = {
        "body.block1.conv.weight": torch.tensor([-1.0, 0.0, 2.0]),
        "body.block1.norm.bias": torch.tensor([-0.1]),
        "head.bias": torch.tensor([1.0]),
    }
    assert share_negative_by_layer(rates) == {"block1": 0.5, "head": 0.0}
