"""Accuracy, means with their interval, and paired differences.

An interval over episodes is conditional on one trained model and on the split's classes: it says how well the mean over
further episodes is known, and nothing about another training run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


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
    """The mean of paired differences, the half width of its 95 % t interval, and the two-sided paired t-test's p.

    With zero variance there is no test: ci95 is 0, p None and `verdict` "exactly zero" or "exactly constant".
    """

    mean: float
    ci95: float | None
    p: float | None
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


def paired_difference(values: Tensor, reference: Tensor) -> PairedDifference:
    """Compare `values` with `reference`, both of shape (n,), episode by episode.

    Raises:
        ValueError: the shapes differ, so that nothing is paired.
    """
    from scipy.stats import t as student

    if values.shape != reference.shape:
        raise ValueError(f"paired values need one shape, not {tuple(values.shape)} and {tuple(reference.shape)}")
    differences = values.to(torch.float64) - reference.to(torch.float64)
    if bool((differences == differences[0]).all()):
        constant = differences[0].item()
        verdict = "exactly zero" if constant == 0 else "exactly constant"
        alone = differences.numel() == 1
        return PairedDifference(constant, None if alone else 0.0, None, None if alone else verdict)
    interval = mean_interval(differences)
    error = differences.std(correction=1).item() / math.sqrt(interval.n)
    p = 2 * float(student.sf(abs(interval.mean) / error, interval.n - 1))
    return PairedDifference(interval.mean, interval.ci95, p, None)
