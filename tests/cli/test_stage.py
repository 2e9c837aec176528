from __future__ import annotations

import itertools
import random

import pytest

from nilr.cli.stage import Countdown, Stage


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def shown(estimates: list[float], step: float = 0.5) -> list[float | None]:
    """Return the time left that is shown, if an estimate is made every `step` seconds."""
    countdown, values = Countdown(0.0), []
    for i, seconds in enumerate(estimates, 1):
        countdown.expect(i * step, seconds)
        values.append(countdown.left(i * step))
    return values


def test_a_right_estimate_is_shown_as_it_is_after_a_few_seconds() -> None:
    values = shown([60 - i / 2 for i in range(1, 121)])
    assert values[:9] == [None] * 9
    assert values[9:-2] == [60 - i / 2 for i in range(10, 119)]


@pytest.mark.parametrize("seed", range(20))
def test_the_time_left_never_jumps_and_never_stops(seed: int) -> None:
    drawn = random.Random(seed)
    factor, values = 1.0, []
    estimates = []
    for i in range(600):
        if i % 60 == 0:
            factor = drawn.choice([0.3, 0.6, 1.0, 1.4, 4.0])
        estimates.append(max(0.0, (300 - i / 2) * factor * drawn.uniform(0.85, 1.15)))
    values = shown(estimates)
    both = [(a, b) for a, b in itertools.pairwise(values) if a is not None and b is not None]
    assert len(both) > 200
    for before, after in both:
        speed = (before - after) / 0.5  # 1 is that of the clock
        assert 0.1 < speed < 2 + before / 20
    for before, now, after in zip(values, values[1:], values[2:], strict=False):
        assert before is None or now is not None or after is None  # withdrawn for a while, not for a moment


def test_the_time_left_is_withdrawn_if_the_estimate_grows_much_and_is_shown_again() -> None:
    values = shown([60.0 - i / 2 for i in range(20)] + [200.0 - i / 2 for i in range(20)])
    assert values[19] == pytest.approx(50.5, abs=0.1)
    assert values[20:29] == [None] * 9
    assert values[-1] == pytest.approx(190.5, abs=0.1)


def test_the_time_left_is_withdrawn_at_zero_if_no_news_come() -> None:
    countdown = Countdown(0.0)
    countdown.expect(10.0, 20.0)
    assert [countdown.left(now) for now in (10.0, 20.0, 28.0, 30.0, 90.0)] == [20.0, 10.0, 2.0, None, None]


def test_the_own_estimate_of_a_recipe_replaces_the_pace_and_its_share_the_rate() -> None:
    clock = Clock()
    stage = Stage("reproduce", 8, 2, "models", clock)
    for _ in range(20):
        clock.now += 1
        stage.advance(0)
        stage.expect(100 - clock.now, 0.25 + clock.now / 400)
    assert stage.counts() == ["2/8 models", "30 %"]
    assert stage.times(ended=False) == ["20 s elapsed", "1 min 20 s left"]
    stage.update({"demo-maml-s0 training share": 0.347})
    assert stage.values() == ["demo-maml-s0 training 35 %"]
