"""Intervals for new seeds and new classes, against a balanced analysis of variance by hand and by simulation."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from nilr.inference import over_seeds
from nilr.inference.crossed import Components, Crossed, crossed_inference

# Standard deviations of seed, class, seed x class, episode and residual, in points. The first are about those of the
# paired differences of Meta-SGD at 32 px, of which only the last two are clearly above zero.
DESIGNS = {
    "episodes alone": (0.0, 0.0, 0.0, 0.5, 2.3),
    "a little of each": (0.1, 0.5, 1.0, 0.5, 2.3),
    "classes and seeds": (0.2, 1.0, 1.0, 0.5, 2.3),
    "classes above all": (0.1, 1.0, 0.5, 1.0, 3.0),
    "seeds above all": (0.3, 0.3, 0.5, 1.0, 3.0),
}


def drawn(
    spread: tuple[float, ...], generator: torch.Generator, *, n_seeds: int = 5, roles: int = 1
) -> tuple[Tensor, list[Tensor]]:
    """Draw 600 episodes of 5 of 20 classes in each role, with effects that are normal; the true mean is 0."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    seed, of_class, seed_class, episode, residual = spread
    order = torch.rand(600, 20, generator=generator).argsort(1)
    classes = [order[:, 5 * role : 5 * role + 5] for role in range(roles)]
    values = seed * normal(n_seeds, 1) + episode * normal(1, 600) + residual * normal(n_seeds, 600)
    for members in classes:
        values = values + of_class / math.sqrt(roles) * normal(20)[members].mean(1)
        values = values + seed_class / math.sqrt(roles) * normal(n_seeds, 20)[:, members].mean(2)
    return values, classes


def found(values: Tensor, classes: list[Tensor], n_classes: int = 20) -> Crossed:
    inference = crossed_inference(values, classes, n_classes)
    assert inference is not None
    return inference


def coverage(name: str, repetitions: int, **design: int) -> tuple[float, float]:
    """Return how often the interval for new seeds and classes, and that for new seeds, contain the true mean."""
    generator, crossed, seeds = torch.Generator().manual_seed(16), 0, 0
    for _ in range(repetitions):
        values, classes = drawn(DESIGNS[name], generator, **design)
        inference, of_seeds = found(values, classes), over_seeds(values.mean(1).tolist())
        assert of_seeds.ci95 is not None
        crossed += abs(inference.mean) <= inference.ci95
        seeds += abs(of_seeds.mean) <= of_seeds.ci95
    return crossed / repetitions, seeds / repetitions


def test_with_one_class_per_episode_the_result_is_a_balanced_analysis_of_variance() -> None:
    """Searle, Casella, McCulloch: Variance Components, 1992, chapter 4, computed here with numpy."""
    n_seeds, n_classes, repeats = 4, 6, 10
    generator = np.random.default_rng(3)
    cells = 2 + 0.8 * generator.normal(size=(n_seeds, 1, 1)) + 1.5 * generator.normal(size=(1, n_classes, 1))
    cells = cells + 0.9 * generator.normal(size=(n_seeds, n_classes, 1))
    cells = cells + 0.7 * generator.normal(size=(1, n_classes, repeats))
    cells = cells + 1.1 * generator.normal(size=(n_seeds, n_classes, repeats))
    classes = torch.arange(n_classes).repeat_interleave(repeats)[:, None]
    inference = found(torch.from_numpy(cells.reshape(n_seeds, -1)), [classes], n_classes)

    grand, seed, of_class, cell = cells.mean(), cells.mean((1, 2)), cells.mean((0, 2)), cells.mean(2)
    ms_seed = n_classes * repeats * seed.var(ddof=1)
    ms_class = n_seeds * repeats * of_class.var(ddof=1)
    interaction = cell - seed[:, None] - of_class + grand
    ms_interaction = repeats * (interaction**2).sum() / ((n_seeds - 1) * (n_classes - 1))
    within = cells.mean(0) - of_class[:, None]
    ms_episode = n_seeds * (within**2).sum() / (n_classes * (repeats - 1))
    rest = cells - cell[:, :, None] - within
    ms_rest = (rest**2).sum() / ((n_seeds - 1) * n_classes * (repeats - 1))
    variance = (ms_seed + ms_class - ms_interaction) / cells.size
    terms = {n_seeds - 1: ms_seed, n_classes - 1: ms_class, (n_seeds - 1) * (n_classes - 1): ms_interaction}
    freedom = variance**2 / sum((ms / cells.size) ** 2 / df for df, ms in terms.items())

    assert inference.mean == pytest.approx(grand)
    assert inference.error == pytest.approx(math.sqrt(variance))
    assert inference.freedom == pytest.approx(freedom)
    parts = inference.components
    assert parts.residual == pytest.approx(ms_rest)
    assert parts.episode == pytest.approx((ms_episode - ms_rest) / n_seeds)
    assert parts.seed_class == pytest.approx((ms_interaction - ms_rest) / repeats)
    assert parts.classes == pytest.approx((ms_class - ms_interaction - ms_episode + ms_rest) / (n_seeds * repeats))
    assert parts.seed == pytest.approx((ms_seed - ms_interaction) / (n_classes * repeats))
    assert parts.variance(n_seeds, n_classes, n_classes * repeats) == pytest.approx(variance)


def test_the_components_of_episodes_of_several_classes_are_found() -> None:
    generator = torch.Generator().manual_seed(4)
    spread = (0.6, 2.0, 1.2, 0.8, 1.5)
    means = np.zeros(5)
    for _ in range(60):
        parts = found(*drawn(spread, generator)).components
        means += np.array([parts.seed, parts.classes, parts.seed_class, parts.episode, parts.residual]) / 60
    assert means == pytest.approx(np.square(spread), rel=0.25)


def test_two_roles_give_a_class_the_sum_of_its_effects_in_both() -> None:
    effects = torch.linspace(-1, 1, 20, dtype=torch.float64)
    _, classes = drawn(DESIGNS["episodes alone"], torch.Generator().manual_seed(5), roles=2)
    values = (2 * effects[classes[0]].mean(1) + 3 * effects[classes[1]].mean(1)).expand(3, -1)
    parts = found(values, classes).components
    assert parts.classes == pytest.approx(25 * effects.var().item())
    assert (parts.seed, parts.seed_class, parts.residual) == pytest.approx((0, 0, 0), abs=1e-12)


def test_seeds_that_agree_by_chance_do_not_make_an_interval_narrower_than_their_episodes_allow() -> None:
    values, classes = drawn(DESIGNS["episodes alone"], torch.Generator().manual_seed(6))
    values = values - values.mean(1, keepdim=True) + 0.1  # all seeds have the same mean
    assert over_seeds(values.mean(1).tolist()).ci95 == pytest.approx(0)
    assert found(values, classes).error >= 0.9 * 2.3 / math.sqrt(3000)


@pytest.mark.parametrize("name", ["a little of each", "classes and seeds"])
def test_an_interval_over_seeds_misses_the_mean_of_other_classes_and_this_one_does_not(name: str) -> None:
    crossed, seeds = coverage(name, 100)
    assert crossed >= 0.9
    assert seeds < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("roles", [1, 2])
@pytest.mark.parametrize("name", DESIGNS)
def test_about_95_percent_of_the_intervals_cover_new_seeds_and_new_classes(name: str, roles: int) -> None:
    crossed, seeds = coverage(name, 2_000, roles=roles)
    assert 0.925 <= crossed <= 0.995
    assert seeds < 0.955


@pytest.mark.slow
@pytest.mark.parametrize("n_seeds", [3, 8])
def test_three_and_eight_seeds_are_covered_as_well(n_seeds: int) -> None:
    crossed, _ = coverage("a little of each", 2_000, n_seeds=n_seeds)
    assert 0.925 <= crossed <= 0.985


def test_without_enough_seeds_or_episodes_there_is_no_inference_for_new_classes() -> None:
    values, classes = drawn(DESIGNS["a little of each"], torch.Generator().manual_seed(7), roles=2)
    assert crossed_inference(values[:2], classes, 20) is None
    assert crossed_inference(values[:, :39], [members[:39] for members in classes], 20) is None
    assert crossed_inference(values, classes, 21) is None  # a class that no episode has
    assert crossed_inference(values, [torch.arange(5).expand(600, 5)], 5) is None  # every episode has all classes


def test_the_standard_error_shrinks_with_what_its_variance_comes_from() -> None:
    seeds_alone = Components(seed=1.0, classes=0.0, seed_class=0.0, episode=0.0, residual=0.0)
    assert seeds_alone.narrowing(4, 20, 600) == pytest.approx(
        {"seeds": 1 - math.sqrt(4 / 5), "classes": 0, "episodes": 0}
    )
    half = Components(seed=0.0, classes=20.0, seed_class=0.0, episode=600.0, residual=0.0)
    assert half.variance(5, 20, 600) == pytest.approx(2)
    expected = {"seeds": 0, "classes": 1 - math.sqrt(0.75), "episodes": 1 - math.sqrt(0.75)}
    assert half.narrowing(5, 20, 600) == pytest.approx(expected)
