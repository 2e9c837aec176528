"""Accuracy, means with their interval, and paired differences.

An interval over episodes is conditional on one trained model and on the split's classes. It describes the mean over
further episodes, not over other training runs.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nilr.inference import bootstrap_interval, rounding, student_quantile, two_sided_p

Interval = Literal["t", "bootstrap"]


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the share of correct rows, (...) float64, of logits (..., n, N) and labels (..., n)."""
    return (logits.argmax(-1) == labels).to(torch.float64).mean(-1)


@dataclass(frozen=True)
class MeanInterval:
    """A mean and half the width of its 95 % t interval; None if there is only one value."""

    mean: float
    ci95: float | None
    n: int


@dataclass(frozen=True)
class PairedDifference:
    """The mean of paired differences, its 95 % interval, and the two-sided paired t-test."""

    mean: float  # of the differences
    ci95: float | None  # half the width of the interval; None for one pair, 0 for zero variance
    low: float | None  # the interval's lower bound; a bootstrap interval need not be symmetric around the mean
    high: float | None  # its upper bound
    p: float | None  # of the t-test; None for zero variance
    # effect size, the mean over the standard deviation of the differences (Cohen: Statistical Power Analysis for the
    # Behavioral Sciences, 1988; there d_z); None for zero variance
    d: float | None
    verdict: str | None  # "exactly zero" or "exactly constant" for zero variance, otherwise None


def mean_interval(values: Tensor) -> MeanInterval:
    """Return the mean of `values`, shape (n,), with its 95 % interval (Student's t, n - 1 degrees of freedom)."""
    exact = values.to(torch.float64)
    n = exact.numel()
    mean = exact.mean().item()
    if n < 2:
        return MeanInterval(mean, None, n)
    error = exact.std(correction=1).item() / math.sqrt(n)
    return MeanInterval(mean, student_quantile(0.975, n - 1) * error, n)


def paired_difference(
    values: Tensor, reference: Tensor, *, interval: Interval = "t", seed: int = 0
) -> PairedDifference:
    """Compare `values` with the `reference` of the same episodes, both (n,).

    `interval` is Student's t or `nilr.inference.bootstrap_interval` with `seed`.

    Raises:
        ValueError: the shapes differ.
    """
    if values.shape != reference.shape:
        raise ValueError(f"paired values need one shape, not {tuple(values.shape)} and {tuple(reference.shape)}")
    differences = values.to(torch.float64) - reference.to(torch.float64)
    least, most = differences.min().item(), differences.max().item()
    if most - least <= rounding(values.abs().max().item()):
        value = 0.0 if abs(least) <= rounding(0) else differences[0].item()
        if differences.numel() == 1:
            return PairedDifference(value, None, None, None, None, None, None)
        verdict = "exactly zero" if value == 0 else "exactly constant"
        return PairedDifference(value, 0.0, value, value, None, None, verdict)
    n, mean, spread = differences.numel(), differences.mean().item(), differences.std(correction=1).item()
    error = spread / math.sqrt(n)
    if interval == "bootstrap":
        low, high = bootstrap_interval(differences, seed=seed)
    else:
        half = student_quantile(0.975, n - 1) * error
        low, high = mean - half, mean + half
    p = two_sided_p(mean, error, n - 1)
    return PairedDifference(mean, (high - low) / 2, low, high, p, mean / spread, None)
