import math

import pytest
import torch
from torch import Tensor

from nilr.inference import (
    at_equal_level,
    bootstrap_interval,
    episodes_for_half_width,
    holm,
    jackknife_half_width,
    over_seeds,
    power,
)
from nilr.metrics import mean_interval, paired_difference

QUERIES = 75


def paired_accuracies(n: int, effect: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw accuracies of n episodes of different difficulty under two conditions, whose true means differ by effect."""
    difficulty = torch.empty(n, dtype=torch.float64).uniform_(0.3, 0.6, generator=generator)

    def judged(probability: Tensor) -> Tensor:
        draws = torch.rand(n, QUERIES, dtype=torch.float64, generator=generator)
        return (draws < probability[:, None]).double().mean(1)

    return judged(difficulty + effect), judged(difficulty)


def deviation(share: float, repetitions: int) -> float:
    """Return three and a half standard errors of a share."""
    return 3.5 * math.sqrt(share * (1 - share) / repetitions)


def test_under_a_true_null_the_t_interval_covers_95_percent() -> None:
    generator, repetitions = torch.Generator().manual_seed(1), 3_000
    found = [paired_difference(*paired_accuracies(100, 0.0, generator)) for _ in range(repetitions)]
    covered = sum(abs(f.mean) <= (f.ci95 or 0) for f in found) / repetitions
    assert covered == pytest.approx(0.95, abs=deviation(0.95, repetitions))
    rejected = sum(f.p is not None and f.p < 0.05 for f in found) / repetitions
    assert rejected == pytest.approx(0.05, abs=deviation(0.05, repetitions))


def test_under_a_true_null_the_bootstrap_interval_covers_95_percent() -> None:
    generator, repetitions = torch.Generator().manual_seed(2), 300
    covered = 0
    for i in range(repetitions):
        found = paired_difference(*paired_accuracies(60, 0.0, generator), interval="bootstrap", seed=i)
        covered += found.low is not None and found.high is not None and found.low <= 0 <= found.high
    assert covered / repetitions == pytest.approx(0.95, abs=deviation(0.95, repetitions))


def test_a_planted_effect_of_one_point_is_found_with_the_announced_power() -> None:
    # The difference of two shares of 75 queries: the variance is the sum of two binomial ones, averaged over
    # probabilities from 0.3 to 0.6 (mean of q(1-q): 0.24), hence nearly 2 * 0.24 / 75.
    generator, repetitions, n = torch.Generator().manual_seed(3), 1_000, 500
    announced = power(0.01, math.sqrt(2 * 0.24 / QUERIES), n)
    assert 0.7 < announced < 0.9
    found = 0
    for _ in range(repetitions):
        difference = paired_difference(*paired_accuracies(n, 0.01, generator))
        found += difference.p is not None and difference.p < 0.05
    assert found / repetitions == pytest.approx(announced, abs=deviation(announced, repetitions))


def test_power_is_the_level_without_an_effect_and_grows_to_certainty() -> None:
    assert power(0.0, 0.1, 30) == pytest.approx(0.05)
    assert power(0.1, 0.1, 100) == pytest.approx(1.0)
    # R: power.t.test(delta = 0.5, power = 0.8, type = "one.sample") gives n = 33.36713
    assert power(0.5, 1.0, 33) < 0.8 < power(0.5, 1.0, 34)
    assert power(0.5, 1.0, 34) == pytest.approx(
        0.8 + (34 - 33.36713) * (power(0.5, 1.0, 34) - power(0.5, 1.0, 33)), abs=1e-4
    )


def test_the_bootstrap_agrees_with_the_exact_distribution_of_a_coin() -> None:
    # 50 ones in 100: the resampled mean is a binomial share, whose 2.5 % and 97.5 % quantiles are 0.40 and 0.60
    # (any table); without bias and skew the correction is none.
    values = torch.tensor([0.0, 1.0] * 50)
    assert bootstrap_interval(values, seed=0) == pytest.approx((0.40, 0.60), abs=0.011)


def test_the_bootstrap_is_its_seeds_and_leans_to_the_long_tail() -> None:
    values = torch.empty(200, dtype=torch.float64).exponential_(generator=torch.Generator().manual_seed(5))
    low, high = bootstrap_interval(values, seed=7)
    assert (low, high) == bootstrap_interval(values, seed=7)
    assert (low, high) != bootstrap_interval(values, seed=8)
    mean = values.mean().item()
    assert high - mean > mean - low


def test_holm_multiplies_the_smallest_by_their_number_and_the_next_by_one_less() -> None:
    # 4 * 0.005, then 3 * 0.01, 2 * 0.03, and the last never below the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_among_many_true_nulls_holm_rejects_any_in_at_most_5_percent() -> None:
    generator, repetitions = torch.Generator().manual_seed(4), 4_000
    plain = corrected = 0
    for _ in range(repetitions):
        p_values = torch.rand(12, generator=generator, dtype=torch.float64).tolist()
        plain += min(p_values) < 0.05
        corrected += min(holm(p_values)) < 0.05
    assert plain / repetitions > 0.4
    assert corrected / repetitions < 0.05 + deviation(0.05, repetitions)


@pytest.mark.parametrize(("spread", "half_width"), [(0.08, 0.002), (0.08, 0.01), (0.1, 0.1), (0.001, 0.5)])
def test_the_announced_number_of_episodes_is_the_least_that_gives_the_width(spread: float, half_width: float) -> None:
    from scipy.stats import t as student

    def width(n: int) -> float:
        return float(student.ppf(0.975, n - 1)) * spread / math.sqrt(n)

    n = episodes_for_half_width(spread, half_width)
    assert width(n) <= half_width
    assert n == 2 or width(n - 1) > half_width


def test_seeds_are_judged_by_t_with_one_degree_of_freedom_less() -> None:
    # 1, 2, 3: mean 2, standard error 1 / sqrt(3), t(0.975, 2) = 4.3026527
    found = over_seeds([1.0, 2.0, 3.0])
    assert (found.mean, found.spread, found.n) == (2.0, 1.0, 3)
    assert found.ci95 == pytest.approx(4.3026527 / math.sqrt(3), abs=1e-6)
    assert found.verdict == "undecided"
    assert over_seeds([1.9, 2.0, 2.1]).verdict == "positive"
    assert over_seeds([-1.9, -2.0, -2.1]).verdict == "negative"


@pytest.mark.parametrize("means", [[0.5], [0.5, 0.5], [0.5, 0.500001]])
def test_under_three_seeds_nothing_is_decided(means: list[float]) -> None:
    assert over_seeds(means).verdict == "undecided"


def test_seeds_that_are_equal_but_for_rounding_have_no_p_and_no_sign() -> None:
    found = over_seeds([1 / 2 - 2 / 3, 1 / 3 - 1 / 2, 1 / 2 - 2 / 3])
    assert (found.p, found.verdict) == (None, "negative")
    found = over_seeds([0.1 + 0.2 - 0.3, 0.0, 0.7 - (0.1 + 0.6)])
    assert (found.p, found.verdict) == (None, "undecided")


def test_a_single_seed_has_no_spread() -> None:
    found = over_seeds([0.5])
    assert (found.mean, found.spread, found.ci95, found.p) == (0.5, None, None, None)
    with pytest.raises(ValueError, match="no seed"):
        over_seeds([])


@pytest.mark.parametrize("n", [3, 5])
def test_seeds_of_an_algorithm_without_effect_are_decided_in_5_percent(n: int) -> None:
    generator, repetitions = torch.Generator().manual_seed(n), 3_000
    draws = torch.randn(repetitions, n, generator=generator, dtype=torch.float64).tolist()
    decided = sum(over_seeds(means).verdict != "undecided" for means in draws) / repetitions
    assert decided == pytest.approx(0.05, abs=deviation(0.05, repetitions))


def test_pooling_the_episodes_of_seeds_would_have_found_what_is_not_there() -> None:
    """An interval over episodes is about its own models: with spread between seeds it covers no claim beyond them."""
    generator, repetitions, pooled, by_seed = torch.Generator().manual_seed(9), 200, 0, 0
    for _ in range(repetitions):
        effects = 0.02 * torch.randn(3, generator=generator, dtype=torch.float64)
        differences = []
        for effect in effects.tolist():
            after, before = paired_accuracies(300, effect, generator)
            differences.append(after - before)
        all_of_them = torch.cat(differences)
        p = paired_difference(all_of_them, torch.zeros_like(all_of_them)).p
        pooled += p is not None and p < 0.05
        by_seed += over_seeds([values.mean().item() for values in differences]).verdict != "undecided"
    assert pooled / repetitions > 0.4
    assert by_seed / repetitions < 0.05 + deviation(0.05, repetitions)


def drawn_runs(n: int, effect: float, generator: torch.Generator) -> list[list[tuple[float, float]]]:
    """Draw levels and gains of two runs; the first starts 2 points lower. Gain: 0.3 - 0.7 * level + effect + noise."""
    runs = []
    for start, own in ((0.37, effect), (0.39, 0.0)):
        level = start + 0.008 * torch.randn(n, generator=generator, dtype=torch.float64)
        gain = 0.3 - 0.7 * level + own + 0.002 * torch.randn(n, generator=generator, dtype=torch.float64)
        runs.append(list(zip(level.tolist(), gain.tolist(), strict=True)))
    return runs


def test_the_gain_at_equal_level_is_the_least_squares_estimate_with_its_standard_error() -> None:
    import numpy as np
    from scipy.stats import t as student

    for n_b in (3, 5, 9):
        generator = torch.Generator().manual_seed(n_b)
        a, b = drawn_runs(5, 0.003, generator)[0], drawn_runs(n_b, 0.0, generator)[1]
        level, gain = np.array([*a, *b]).T
        design = np.stack([np.ones(5 + n_b), np.arange(5 + n_b) < 5, level], axis=1)
        estimate, squares, *_ = np.linalg.lstsq(design, gain, rcond=None)
        freedom = 5 + n_b - 3
        errors = np.sqrt(squares[0] / freedom * np.diag(np.linalg.inv(design.T @ design)))
        found = at_equal_level(a, b)
        assert found is not None
        assert (found.mean, found.slope) == pytest.approx(tuple(estimate[1:]), rel=1e-6)
        assert (found.ci95, found.slope_ci95) == pytest.approx(
            tuple(student.ppf(0.975, freedom) * errors[1:]), rel=1e-6
        )
        assert found.p == pytest.approx(2 * student.sf(abs(estimate[1] / errors[1]), freedom), rel=1e-5)


def test_the_gain_at_equal_level_equals_the_level_after_at_equal_level_before() -> None:
    a, b = drawn_runs(5, 0.003, torch.Generator().manual_seed(1))
    gain, after = at_equal_level(a, b), at_equal_level(*([(x, x + g) for x, g in run] for run in (a, b)))
    assert gain is not None
    assert after is not None
    assert (after.mean, after.ci95) == pytest.approx((gain.mean, gain.ci95))
    assert after.slope == pytest.approx(gain.slope + 1)


def test_a_larger_gain_from_a_lower_start_alone_is_no_gain_at_equal_level() -> None:
    generator, repetitions, plain, adjusted, found_again = torch.Generator().manual_seed(6), 400, 0, 0, 0
    for _ in range(repetitions):
        a, b = drawn_runs(5, 0.0, generator)
        plain += over_seeds([x[1] - y[1] for x, y in zip(a, b, strict=True)]).verdict == "positive"
        equal, planted = at_equal_level(a, b), at_equal_level(*drawn_runs(5, 0.01, generator))
        adjusted += equal is not None and equal.verdict != "undecided"
        found_again += planted is not None and planted.verdict == "positive"
    assert plain / repetitions > 0.7
    assert adjusted / repetitions == pytest.approx(0.05, abs=deviation(0.05, repetitions))
    assert found_again / repetitions > 0.9


def test_gains_at_equal_level_need_three_seeds_of_each_run_with_different_levels() -> None:
    line = [(0.1, 0.3), (0.2, 0.2), (0.3, 0.1)]
    exact = at_equal_level(line, [(x + 0.1, gain) for x, gain in line])
    assert exact is not None
    assert (exact.mean, exact.slope) == pytest.approx((-0.1, -1.0))  # from one and the same level, 0.1 less
    assert at_equal_level(line, line[:2]) is None
    assert at_equal_level(line[:2], line) is None
    assert at_equal_level([(0.1 + 0.2, 0.1)] * 3, [(0.4, 0.2)] * 3) is None


def test_the_jackknife_of_a_mean_is_the_t_interval() -> None:
    values = torch.tensor([0.3, 1.7, -0.4, 2.2, 0.9], dtype=torch.float64)
    left_out = [((values.sum() - value) / 4).item() for value in values]
    assert jackknife_half_width(left_out) == pytest.approx(mean_interval(values).ci95)
    assert jackknife_half_width(left_out[:2]) is None
    assert jackknife_half_width([*left_out, math.nan]) is None
