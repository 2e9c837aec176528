"""Displacements of parameters, on cases computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nilr.episodes import Episode
from nilr.probes.conditions import META_INIT, Condition, Quantity, Subject, View, read_episode
from nilr.probes.directions import DIRECTIONS, Displacement, displace
from nilr.probes.tasks import Task, Tasks

THETA = {
    "body.block1.conv.weight": torch.tensor([1.0, -2.0], dtype=torch.float64),
    "body.block2.conv.weight": torch.tensor([3.0], dtype=torch.float64),
    "head.weight": torch.tensor([5.0], dtype=torch.float64),
}
# the displacement of one inner step; two steps move twice as far
STEP = {
    "body.block1.conv.weight": torch.tensor([0.5, 0.25], dtype=torch.float64),
    "body.block2.conv.weight": torch.tensor([-1.0], dtype=torch.float64),
    "head.weight": torch.tensor([7.0], dtype=torch.float64),
}


class SteppingEngine:
    """Adaptation adds STEP."""

    def __init__(self) -> None:
        self.steps = 0

    def adapt(self, params, inner_lr, support_x, support_y, *, steps, first_step=0):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        self.steps += steps
        return {name: value + steps * STEP[name] for name, value in params.items()}


def quadratic(view: View, _before: View) -> float:
    """Return a + b^2 - 3 a c + 2 c^2 of the body's three parameters a, b, c."""
    a, b = view.params["body.block1.conv.weight"].tolist()
    (c,) = view.params["body.block2.conv.weight"].tolist()
    return a + b**2 - 3 * a * c + 2 * c**2


def tasks(index: int = 0) -> Tasks:
    x, y = torch.zeros(2, 3, 1, 1), torch.arange(2)
    b = Episode(x, y, x, y)
    return Tasks(b, {Task("same-task"): b}, index)


def test_odd_and_even_parts_of_a_quadratic_are_its_slope_and_its_curvature() -> None:
    engine = SteppingEngine()
    subject = Subject(THETA, {"any": torch.tensor(1.0)}, 2, engine)  # type: ignore[arg-type]
    plain = Condition("same-task")

    def read(*displacements: Displacement | None) -> list[float]:
        conditions = [replace(plain, displacement=one) for one in displacements]
        values = read_episode(subject, tasks(), [Quantity(c, quadratic) for c in [META_INIT, *conditions]])
        return [values[Quantity(c, quadratic)] for c in conditions]

    # theta = (1, -2, 3) has 1 + 4 - 9 + 18 = 14; two steps displace by d = (1, 0.5, -2)
    learned, negative, twice = read(None, Displacement("negative", "body"), Displacement("twice", "body"))
    assert learned == 2 + 2.25 - 6 + 2  # at (2, -1.5, 1)
    assert negative == 0 + 6.25 - 0 + 50  # at (0, -2.5, 5)
    assert twice == 3 + 1 + 9 + 2  # at (3, -1, -1)
    # slope (1 - 3c, 2b, -3a + 4c) = (-8, -4, 9) times d is -28; half of d'Hd is 0.25 - 3 * 1 * -2 + 2 * 4 = 14.25
    assert (learned - negative) / 2 == -28
    assert (learned + negative) / 2 - 14 == 14.25
    # block 2 alone: slope 9 * -2, half the curvature 2 * 4
    learned, negative = read(Displacement("learned", "block2"), Displacement("negative", "block2"))
    assert ((learned - negative) / 2, (learned + negative) / 2 - 14) == (-18, 8)
    # each reading adapted once, by two steps
    assert engine.steps == 2 * 2


def drawn(direction: str, part: str = "body", *, seed: int = 0, stream: str = "same-task/0") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"body.block1.conv.weight": (16, 3, 3, 3), "body.block1.conv.bias": (16,), "head.weight": (5, 16)}
    start = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    adapted = {name: value + LEARNED[name] for name, value in start.items()}
    moved = displace(start, adapted, Displacement(direction, part), seed=seed, stream=stream)
    return {name: moved[name] - start[name] for name in start}


LEARNED = {
    "body.block1.conv.weight": torch.arange(432, dtype=torch.float64).reshape(16, 3, 3, 3) / 100,
    "body.block1.conv.bias": torch.full((16,), -0.5, dtype=torch.float64),
    "head.weight": torch.ones(5, 16, dtype=torch.float64),
}
BODY = list(LEARNED)[:2]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_direction_keeps_what_its_name_says(direction: str) -> None:
    found = drawn(direction)
    scale = 2 if direction == "twice" else 1
    for name in BODY:
        assert found[name].norm().item() == pytest.approx(scale * LEARNED[name].norm().item(), rel=1e-9)
        if direction != "gaussian":
            torch.testing.assert_close(found[name].abs(), scale * LEARNED[name].abs())
    assert not found["head.weight"].any()


def test_half_of_random_signs_are_turned() -> None:
    kept = drawn("random-signs")["body.block1.conv.weight"].flatten()[1:] > 0
    # 431 fair coins: the standard deviation of the share is 0.024
    assert 0.4 < kept.double().mean() < 0.6


def test_gaussian_elements_do_not_depend_on_the_size_of_the_learned_ones() -> None:
    noise = drawn("gaussian")["body.block1.conv.weight"].flatten()
    half = len(noise) // 2
    assert noise[:half].norm() == pytest.approx(noise[half:].norm().item(), rel=0.3)
    # of the learned one, the second half is 2.6 times as long as the first


@pytest.mark.parametrize("direction", ["random-signs", "gaussian"])
def test_random_directions_depend_on_seed_episode_and_protocol_and_on_nothing_else(direction: str) -> None:
    weight = "body.block1.conv.weight"
    first = drawn(direction)
    assert torch.equal(first[weight], drawn(direction, "block1")[weight])
    for other in ({"seed": 1}, {"stream": "same-task/1"}, {"stream": "cross-task/0"}):
        assert not torch.equal(first[weight], drawn(direction, **other)[weight])
