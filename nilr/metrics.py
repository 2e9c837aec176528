"""Accuracy, means with their interval, and paired differences.

An interval over episodes is conditional on one trained model and on the split's classes: it says how well the mean over
further episodes is known, and nothing about another training run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nilr.inference import bootstrap_interval

Interval = Literal["t", "bootstrap"]


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the share of rows whose largest logit is the label's.

    Args:
        logits: scores or one-hot votes of shape (..., n, N).
        labels: int64 of shape (..., n).

    Returns:
        float64 tensor of shape (...).
    """
    return (logits.argmax(-1) == labels).to(torch.float64).mean(-1)


@dataclass(frozen=True)
class MeanInterval:
    """A mean and the half width of its 95 % t interval; None where it is undefined (one value)."""

    mean: float
    ci95: float | None
    n: int


@dataclass(frozen=True)
class PairedDifference:
    """The mean of paired differences, its 95 % interval, and the two-sided paired t-test.

    With zero variance there is no test: ci95 is 0, p and d are None, and `verdict` is "exactly zero" or "exactly
    constant".

    Attributes:
        mean: of the differences.
        ci95: half the width of the interval; None for one pair.
        low: the interval's lower bound; a bootstrap interval need not be symmetric around the mean.
        high: its upper bound.
        p: of the t-test.
        d: effect size, the mean over the standard deviation of the differences (Cohen: Statistical Power Analysis for
            the Behavioral Sciences, 1988; there d_z).
        verdict: None where there is a test.
    """

    mean: float
    ci95: float | None
    low: float | None
    high: float | None
    p: float | None
    d: float | None
    verdict: str | None


def mean_interval(values: Tensor) -> MeanInterval:
    """Return the mean of `values`, shape (n,), with its 95 % interval (Student's t, n - 1 degrees of freedom)."""
    from scipy.stats import t as student

    exact = values.to(torch.float64)
    n = exact.numel()
    mean = exact.mean().item()
    if n < 2:
        return MeanInterval(mean, None, n)
    error = exact.std(correction=1).item() / math.sqrt(n)
    return MeanInterval(mean, float(student.ppf(0.975, n - 1)) * error, n)


def paired_difference(
    values: Tensor, reference: Tensor, *, interval: Interval = "t", seed: int = 0
) -> PairedDifference:
    """Compare `values` with `reference`, both of shape (n,), episode by episode.

    Args:
        values: one per episode.
        reference: the same episodes' values that they are compared with.
        interval: Student's t, or the bootstrap of `nilr.inference.bootstrap_interval`.
        seed: of the bootstrap.

    Raises:
        ValueError: the shapes differ, so that nothing is paired.
    """
    from scipy.stats import t as student

    if values.shape != reference.shape:
        raise ValueError(f"paired values need one shape, not {tuple(values.shape)} and {tuple(reference.shape)}")
    differences = values.to(torch.float64) - reference.to(torch.float64)
    if bool((differences == differences[0]).all()):
        return _constant(differences[0].item(), alone=differences.numel() == 1)
    n, mean, spread = differences.numel(), differences.mean().item(), differences.std(correction=1).item()
    error = spread / math.sqrt(n)
    if interval == "bootstrap":
        low, high = bootstrap_interval(differences, seed=seed)
    else:
        half = float(student.ppf(0.975, n - 1)) * error
        low, high = mean - half, mean + half
    p = 2 * float(student.sf(abs(mean) / error, n - 1))
    return PairedDifference(mean, (high - low) / 2, low, high, p, mean / spread, None)


def _constant(value: float, *, alone: bool) -> PairedDifference:
    if alone:
        return PairedDifference(value, None, None, None, None, None, None)
    verdict = "exactly zero" if value == 0 else "exactly constant"
    return PairedDifference(value, 0.0, value, value, None, None, verdict)
