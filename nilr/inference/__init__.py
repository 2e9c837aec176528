"""Statistical inference: bootstrap intervals, multiple comparisons, sample sizes, seeds.

An interval over episodes is conditional on one trained model and on the split's classes: it shows how precise the mean
over episodes is. An interval over seeds shows what another training would give. A claim about an algorithm needs that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_SEEDS = 3

_LEAST_BLOCKS = 3

_RESAMPLES = 9_999
# The most resampled values in memory.
_CHUNK = 4_000_000
# A sum of squared differences of accuracies that is rounding alone.
_SAME_LEVEL = 1e-12
# A standard error of accuracies that is rounding alone, as of 1/2 - 2/3 and 1/3 - 1/2; larger numbers have more.
_ROUNDING = 1e-14
# In standard errors: beyond it, the probability to find a difference of the wrong sign is below 1e-8.
_NEAR = 5.0


def student_quantile(p: float, freedom: float) -> float:
    """Return the quantile `p` of Student's t.

    From `scipy.special`: importing `scipy.stats`, which calls the same function, takes a second.
    """
    from scipy.special import stdtrit

    return float(stdtrit(freedom, p))


def student_tail(t: float, freedom: float) -> float:
    """Return the probability that Student's t exceeds `t`."""
    from scipy.special import stdtr

    return float(stdtr(freedom, -t))


def bootstrap_interval(values: Tensor, *, seed: int = 0) -> tuple[float, float]:
    """Return the bounds of the 95 % bootstrap interval of the mean, bias-corrected and accelerated.

    Efron: Better Bootstrap Confidence Intervals, 1987; 9,999 resamples.

    Args:
        values: shape (n,), not all equal.
        seed: of the resampling.
    """
    import numpy as np
    from scipy.stats import bootstrap

    array = values.to(torch.float64).numpy()
    outcome = bootstrap(
        (array,),
        np.mean,
        n_resamples=_RESAMPLES,
        batch=max(1, _CHUNK // len(array)),
        method="BCa",
        rng=np.random.default_rng(seed),
    )
    return float(outcome.confidence_interval.low), float(outcome.confidence_interval.high)


def jackknife_half_width(left_out: Sequence[float]) -> float | None:
    """Return half the width of a 95 % interval from the statistic without each of n blocks of episodes in turn.

    Student's t with n - 1 degrees of freedom (Efron, Tibshirani: An Introduction to the Bootstrap, 1993, chapter 11).
    None for fewer than three blocks, or if a value is NaN.
    """
    n, values = len(left_out), torch.tensor(left_out, dtype=torch.float64)
    if n < _LEAST_BLOCKS or not bool(values.isfinite().all()):
        return None
    error = math.sqrt((n - 1) ** 2 / n) * values.std(correction=1).item()
    return student_quantile(0.975, n - 1) * error


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, whether or not the tests are independent.

    Holm: A Simple Sequentially Rejective Multiple Test Procedure, 1979.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def episodes_for_half_width(spread: float, half_width: float) -> int:
    """Return the least number of episodes whose 95 % t interval has a half width of at most `half_width`.

    Args:
        spread: sample standard deviation of one episode's value.
        half_width: in the unit of the values, above 0.
    """
    n = max(2, math.ceil((1.96 * spread / half_width) ** 2))
    while student_quantile(0.975, n - 1) * spread / math.sqrt(n) > half_width:
        n += 1
    return n


def power(effect: float, spread: float, n: int) -> float:
    """Return the probability that a two-sided paired t-test at 5 % finds a difference of `effect`.

    Args:
        effect: the true mean difference.
        spread: standard deviation of one episode's difference, above 0.
        n: episodes, at least 2.
    """
    from scipy.stats import nct

    critical, noncentral = student_quantile(0.975, n - 1), abs(effect) * math.sqrt(n) / spread
    # negligible beyond _NEAR, where scipy sometimes returns NaN
    wrong_sign = float(nct.cdf(-critical, n - 1, noncentral)) if noncentral < _NEAR else 0.0
    return float(nct.sf(critical, n - 1, noncentral)) + wrong_sign


def outcomes_by_chance(turned: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probability that most turned queries turn to wrong, and that as many turn to right as to wrong.

    Each of `turned` queries, (n,) by episode, turns to right or to wrong with probability 1/2, independently: what the
    sign test supposes without an effect. That most turn to right is as probable as that most turn to wrong.
    """
    from scipy.stats import binom

    counts = turned.to(torch.float64).round().numpy()
    tie = torch.as_tensor(binom.pmf(counts / 2, counts, 0.5), dtype=torch.float64)  # 0 for odd counts
    return (1 - tie) / 2, tie


@dataclass(frozen=True)
class SeedInference:
    """The inference from several trainings that differ only in their seed."""

    mean: float  # over seeds, each with the same weight
    spread: float | None  # sample standard deviation between seeds; None for one seed
    ci95: float | None  # half width of the 95 % t interval with n - 1 degrees of freedom; None for one seed
    ci90: float | None  # half width of the 90 % interval, for `is_equivalent`; None for one seed
    p: float | None  # of the two-sided t-test against zero; None for one seed, or if all means are equal
    n: int  # number of seeds
    # "positive" or "negative" if the interval excludes zero and there are at least three seeds, else "undecided"
    verdict: str


def over_seeds(means: Sequence[float]) -> SeedInference:
    """Return the inference on a difference from its mean in each seed; ValueError if `means` is empty."""
    if not means:
        raise ValueError("no seed")
    values = torch.tensor(means, dtype=torch.float64)
    n, mean = len(means), values.mean().item()
    if n == 1:
        return SeedInference(mean, None, None, None, None, 1, "undecided")
    spread = values.std(correction=1).item()
    error = spread / math.sqrt(n)
    ci95, ci90 = (student_quantile(quantile, n - 1) * error for quantile in (0.975, 0.95))
    p = two_sided_p(mean, error, n - 1)
    undecided = n < LEAST_SEEDS or abs(mean) <= max(ci95, _ROUNDING)
    verdict = "undecided" if undecided else "positive" if mean > 0 else "negative"
    return SeedInference(mean, spread, ci95, ci90, p, n, verdict)


def two_sided_p(mean: float, error: float, freedom: float) -> float | None:
    """Return p of the t-test of a mean against zero; None if its standard error is zero, or rounding alone."""
    return None if error <= rounding(mean) else 2 * student_tail(abs(mean) / error, freedom)


def rounding(value: float) -> float:
    """Return the largest difference that rounding makes between values of this size that are equal."""
    return _ROUNDING * max(1.0, abs(value))


def is_equivalent(mean: float, ci90: float, smallest_effect: float) -> bool:
    """Return whether two one-sided tests at 5 % reject any effect of at least `smallest_effect` in size.

    They do if the 90 % interval lies within that bound on both sides (Schuirmann: A Comparison of the Two One-Sided
    Tests Procedure and the Power Approach, 1987).
    """
    return abs(mean) + ci90 < smallest_effect


@dataclass(frozen=True)
class EqualLevel:
    """How much more one run gains than another from the same level before adaptation, over seeds."""

    mean: float  # difference of the gains at equal level
    ci95: float  # half width of the 95 % t interval with n_a + n_b - 3 degrees of freedom
    p: float | None  # of the two-sided t-test against zero; None without residuals
    slope: float  # change of the gain per change of the level, the same in both runs
    slope_ci95: float  # half width of its 95 % t interval
    verdict: str  # "positive" or "negative" if the interval excludes zero, else "undecided"


def at_equal_level(a: Sequence[tuple[float, float]], b: Sequence[tuple[float, float]]) -> EqualLevel | None:
    """Return the inference on the difference of gains, a's minus b's, at equal level before.

    Analysis of covariance with a common slope: gain = run + slope * level + error, by least squares (Maxwell and
    Delaney: Designing Experiments and Analyzing Data, 2004, chapter 9).

    Args:
        a: level before and gain of each seed of one run.
        b: the same of the other run.

    Returns:
        The inference; None with fewer than three seeds of a run, or if all seeds of each run have the same level.
    """
    if min(len(a), len(b)) < LEAST_SEEDS:
        return None
    runs = [torch.tensor(run, dtype=torch.float64) for run in (a, b)]
    means = [run.mean(0) for run in runs]
    squares = sum(((run - mean).T @ (run - mean) for run, mean in zip(runs, means, strict=True)), torch.zeros(2, 2))
    (level, both), (_, gain) = squares.tolist()
    if level < _SAME_LEVEL:
        return None
    slope, freedom = both / level, len(a) + len(b) - 3
    before, gained = (means[0] - means[1]).tolist()
    mean = gained - slope * before
    left = gain - slope * both
    residual = math.sqrt(left / freedom) if left > _SAME_LEVEL * gain else 0.0
    error = residual * math.sqrt(1 / len(a) + 1 / len(b) + before**2 / level)
    critical = student_quantile(0.975, freedom)
    p = two_sided_p(mean, error, freedom)
    verdict = "undecided" if abs(mean) <= max(critical * error, _ROUNDING) else "positive" if mean > 0 else "negative"
    return EqualLevel(mean, critical * error, p, slope, critical * residual / math.sqrt(level), verdict)
