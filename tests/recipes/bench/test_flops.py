from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nilr.episodes import EpisodeSampler, PackedImages
from nilr.meta.algorithms import ALGORITHMS
from nilr.meta.engine.contract import Objective
from nilr.meta.engine.registry import ENGINES
from nilr.meta.inner_lr import initial_rates
from nilr.models.registry import build_learner
from nilr.recipes.bench import flops
from nilr.recipes.bench.flops import NeededFlop, convolution_rate, seconds_each

CPU = torch.device("cpu")


def needed(image_size: int = 84, filters: int = 32) -> NeededFlop:
    return NeededFlop.of(build_learner("conv4", n_way=5, image_size=image_size, filters=filters), image_size)


def test_a_forward_pass_of_conv4_has_the_operations_of_its_four_convolutions() -> None:
    # by hand: 2 * 9 * channels in * channels out * height * width, at 84, 42, 21 and 10 px
    by_hand = [
        2 * 9 * 3 * 32 * 84**2,
        2 * 9 * 32 * 32 * 42**2,
        2 * 9 * 32 * 32 * 21**2,
        2 * 9 * 32 * 32 * 10**2,
    ]
    flop = needed()
    assert [convolution.flop for convolution in flop.convolutions] == by_hand
    assert flop.forward == sum(by_hand)
    assert str(flop.convolutions[1]) == "32 -> 32 channels at 42 px"


def test_the_gradient_of_the_images_is_not_needed() -> None:
    flop = needed()
    first = flop.convolutions[0].flop
    assert flop.loss_pass == 3 * flop.forward - first
    assert flop.hessian == 6 * flop.forward - 4 * first


def test_an_update_and_an_evaluation_need_the_operations_counted_by_hand() -> None:
    # 54.7 MFLOP an image forward; 1-shot, 75 queries, 4 episodes: 88.7 and 54.2 GFLOP an update of 5 and of 1 steps,
    # 45.6 of each in the query passes; 11.7 GFLOP to adapt to an episode in 10 steps and evaluate it
    flop, maml, size = needed(), ALGORITHMS["maml"], {"support": 5, "query": 75}
    assert flop.forward == pytest.approx(54.7e6, rel=2e-3)
    assert flop.update(maml, **size, episodes=4, steps=5) == pytest.approx(88.7e9, rel=1e-3)
    assert flop.update(ALGORITHMS["metasgd"], **size, episodes=4, steps=1) == pytest.approx(54.2e9, rel=1e-3)
    assert flop.update(maml, support=0, query=75, episodes=4, steps=5) == pytest.approx(45.6e9, rel=2e-3)
    assert flop.evaluation(maml, **size, episodes=1, steps=10) == pytest.approx(11.7e9, rel=1e-3)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("algo", "excess"), [("maml", 1.02), ("fomaml", 1.02), ("anil", None)])
def test_the_explicit_engine_does_at_least_the_needed_operations_and_hardly_more(
    algo: str, excess: float | None
) -> None:
    row, steps = ALGORITHMS[algo], 3
    learner = build_learner("conv4", n_way=3, image_size=32, filters=8)
    params = learner.initial_params()
    pixels = torch.randint(0, 256, (30, 32, 32, 3), dtype=torch.uint8)
    episodes = EpisodeSampler(PackedImages(pixels, (10,) * 3), 3, 2, 4, 0, "test").draw(range(2))
    with FlopCounterMode(display=False) as counter:
        rates = initial_rates(row, params, learner.kinds, 0)
        ENGINES["explicit"](learner).meta_gradient(params, rates, episodes, Objective(row, steps))
    counts = counter.get_flop_counts()["Global"]
    counted = sum(flop for operation, flop in counts.items() if "convolution" in str(operation))
    least = needed(32, 8).update(row, support=6, query=12, episodes=2, steps=steps)
    assert least <= counted
    assert excess is None or counted <= excess * least


def test_a_first_order_row_needs_no_hessian() -> None:
    flop = needed()
    arguments = {"support": 5, "query": 75, "episodes": 1, "steps": 5}
    first, second = (flop.update(ALGORITHMS[name], **arguments) for name in ("fomaml", "maml"))
    assert second - first == 5 * 5 * flop.hessian


def test_if_only_the_head_moves_the_steps_cost_nothing() -> None:
    flop, anil = needed(), ALGORITHMS["anil"]
    one, many = (flop.update(anil, support=5, query=75, episodes=1, steps=steps) for steps in (1, 20))
    assert one == many == 80 * flop.loss_pass
    assert flop.evaluation(anil, support=5, query=75, episodes=1, steps=9) == 80 * flop.forward
    assert flop.evaluation(anil, support=5, query=75, episodes=1, steps=0) == 75 * flop.forward


def test_the_rate_of_a_convolution_is_that_of_the_faster_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter((4.0, 2.0))  # channels last, then contiguous
    monkeypatch.setattr(flops, "seconds_each", lambda work, device, *, at_least: next(seconds))
    second = needed(16, 4).convolutions[1]
    by_hand = 3 * 2 * 9 * 4 * 4 * 8 * 8  # 3 images
    with FlopCounterMode(display=False) as counter:
        rate = convolution_rate(second, 3, CPU)
    assert rate == by_hand / 2.0
    assert counter.get_total_flops() == 2 * by_hand  # once in each layout


def test_work_is_repeated_until_it_has_taken_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: seconds[0])

    def work() -> None:
        seconds[0] += 0.25

    assert seconds_each(work, CPU, at_least=1.0) == 0.25
    assert seconds[0] == 1.0  # four times
    assert seconds_each(work, CPU, at_least=0.0) == 0.25
    assert seconds[0] == 1.25  # once
