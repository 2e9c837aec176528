from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nilr.episodes import EpisodeSampler, PackedImages
from nilr.meta.algorithms import ALGORITHMS
from nilr.meta.engine.registry import ENGINES
from nilr.meta.inner_lr import initial_rates
from nilr.models.registry import build_learner
from nilr.recipes.bench.flops import Convolution, Floor, convolution_rates, convolutions, seconds_each

CPU = torch.device("cpu")


def network(image_size: int = 84, filters: int = 32) -> list[Convolution]:
    return convolutions(build_learner("conv4", n_way=5, image_size=image_size, filters=filters), image_size)


def test_conv4_does_four_convolutions_of_which_the_first_sees_the_images() -> None:
    found = network()
    # by hand: 2 * 9 * channels in * channels out * height * width, at 84, 42, 21 and 10 px
    assert [c.flop for c in found] == [
        2 * 9 * 3 * 32 * 84**2,
        2 * 9 * 32 * 32 * 42**2,
        2 * 9 * 32 * 32 * 21**2,
        2 * 9 * 32 * 32 * 10**2,
    ]
    assert [c.first for c in found] == [True, False, False, False]
    assert str(found[1]) == "32 -> 32 channels at 42 px"


def test_the_floor_is_the_one_counted_by_hand() -> None:
    # 54.7 MFLOP an image forward; 1-shot, 75 queries, 4 episodes: 88.7 and 54.2 GFLOP an update of 5 and of 1 steps,
    # 45.6 of each in the query passes; 11.7 GFLOP to adapt to an episode in 10 steps and judge it
    floor = Floor.of(network())
    assert floor.forward == pytest.approx(54.7e6, rel=2e-3)
    size = {"support": 5, "query": 75}
    maml = ALGORITHMS["maml"]
    assert floor.update(maml, **size, episodes=4, steps=5) == pytest.approx(88.7e9, rel=1e-3)
    assert floor.update(maml, **size, episodes=4, steps=1) == pytest.approx(54.2e9, rel=1e-3)
    assert floor.update(maml, support=0, query=75, episodes=4, steps=5) == pytest.approx(45.6e9, rel=2e-3)
    assert floor.evaluation(maml, **size, episodes=1, steps=10) == pytest.approx(11.7e9, rel=1e-3)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("algo", "excess"), [("maml", 1.02), ("fomaml", 1.02), ("anil", None)])
def test_no_engine_does_less_than_the_floor_and_the_explicit_one_hardly_more(algo: str, excess: float | None) -> None:
    row, steps = ALGORITHMS[algo], 3
    learner = build_learner("conv4", n_way=3, image_size=32, filters=8)
    params = learner.initial_params()
    pixels = torch.randint(0, 256, (30, 32, 32, 3), dtype=torch.uint8)
    episodes = EpisodeSampler(PackedImages(pixels, (10,) * 3), 3, 2, 4, 0, "test").draw(range(2))
    with FlopCounterMode(display=False) as counter:
        ENGINES["explicit"](learner).meta_gradient(
            params, initial_rates(row, params, learner.kinds, 0), episodes, row, steps=steps
        )
    counts = counter.get_flop_counts()["Global"]
    counted = sum(flop for operation, flop in counts.items() if "convolution" in str(operation))
    floor = Floor.of(network(32, 8)).update(row, support=6, query=12, episodes=2, steps=steps)
    assert floor <= counted
    assert excess is None or counted <= excess * floor


def test_a_first_order_row_needs_no_hessian() -> None:
    floor = Floor.of(network())
    arguments = {"support": 5, "query": 75, "episodes": 1, "steps": 5}
    first, second = (floor.update(ALGORITHMS[name], **arguments) for name in ("fomaml", "maml"))
    assert second - first == 5 * 5 * floor.hessian


def test_where_the_head_alone_moves_the_steps_cost_nothing() -> None:
    floor, anil = Floor.of(network()), ALGORITHMS["anil"]
    one, many = (floor.update(anil, support=5, query=75, episodes=1, steps=steps) for steps in (1, 20))
    assert one == many == 80 * floor.loss_pass
    assert floor.evaluation(anil, support=5, query=75, episodes=1, steps=9) == 80 * floor.forward
    assert floor.evaluation(anil, support=5, query=75, episodes=1, steps=0) == 75 * floor.forward


@pytest.mark.usefixtures("one_thread")
def test_every_convolution_has_a_rate() -> None:
    small = [dataclasses.replace(c) for c in network(16, 4)]
    rates = convolution_rates(small, 2, CPU)
    assert len(rates) == 4
    assert all(rate > 0 for rate in rates)


def test_work_is_repeated_until_it_has_taken_long_enough() -> None:
    calls = []
    each = seconds_each(lambda: calls.append(1), CPU, at_least=0.02)
    assert len(calls) > 10
    assert each * len(calls) == pytest.approx(0.02, rel=0.5)
    calls.clear()
    seconds_each(lambda: calls.append(1), CPU, at_least=0.0)
    assert len(calls) == 1
