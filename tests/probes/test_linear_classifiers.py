"""Linear classifiers against normal equations, explicit leave-one-out, and an optimiser without gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax
from torch import Tensor

from nilr.probes.linear_classifiers import (
    CLASSIFIERS,
    GRADIENT_TOLERANCE,
    LOGISTIC_PENALTIES,
    RIDGE_PENALTIES,
    Linear,
    fit_logistic,
    logistic,
    ridge,
)

every_classifier = pytest.mark.parametrize("classify", CLASSIFIERS.values(), ids=CLASSIFIERS)


def features(n_way: int, per_class: int, n_features: int, *, apart: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Return query and support features around class means, and the support's labels."""
    generator = torch.Generator().manual_seed(0)
    means = apart * torch.randn(n_way, n_features, generator=generator, dtype=torch.float64)
    labels = torch.arange(n_way).repeat_interleave(per_class)
    noise = torch.randn(2, len(labels), n_features, generator=generator, dtype=torch.float64)
    query, support = means[labels] + noise + 3
    return query, support, labels


def normal_equations(x: np.ndarray, targets: np.ndarray, penalty: float) -> np.ndarray:
    """Return ridge weights for features with a column of ones first, whose weight is not penalised."""
    penalties = np.diag([0.0, *[penalty] * (x.shape[1] - 1)])
    return np.linalg.solve(x.T @ x + penalties, x.T @ targets)


@pytest.mark.parametrize("n_features", [3, 30], ids=["fewer features than images", "more"])
def test_ridge_solves_the_normal_equations_with_the_best_penalty_of_explicit_leave_one_out(n_features: int) -> None:
    query, support, labels = features(3, 5, n_features, apart=0.6)
    centred = support.numpy() - support.numpy().mean(0)
    scale = np.sqrt((centred**2).sum(1).mean())
    x, q = (np.hstack([np.ones((len(v), 1)), v.numpy() / scale]) for v in (support, query))
    targets, n = np.eye(3)[labels.numpy()], len(x)
    errors = []
    for penalty in RIDGE_PENALTIES:
        left_out = [
            targets[i] - x[i] @ normal_equations(np.delete(x, i, 0), np.delete(targets, i, 0), n * penalty)
            for i in range(n)
        ]
        errors.append(np.square(left_out).sum())
    best = RIDGE_PENALTIES[int(np.argmin(errors))]
    assert RIDGE_PENALTIES[0] < best < RIDGE_PENALTIES[-1]
    expected = q @ normal_equations(x, targets, n * best)
    np.testing.assert_allclose(ridge(query, support, labels, 3).numpy(), expected, atol=1e-9)


def loss_of(x: np.ndarray, labels: np.ndarray, penalty: float, values: np.ndarray) -> float:
    weight, bias = values[:-3].reshape(-1, 3), values[-3:]
    scores = log_softmax(x @ weight + bias, axis=1)
    return float(-scores[range(len(x)), labels].mean() + penalty / 2 * (weight**2).sum())


def test_logistic_regression_finds_the_minimum_that_an_optimiser_without_gradients_finds() -> None:
    _, support, labels = features(3, 6, 2)
    x, penalty = support.numpy(), 0.01
    found = fit_logistic(support, labels, penalty, Linear.zeros(2, 3))
    given = x, labels.numpy(), penalty
    brute = minimize(lambda v: loss_of(*given, v), np.zeros(9), method="BFGS", options={"gtol": 1e-7})
    values = np.concatenate([found.weight.numpy().ravel(), found.bias.numpy()])
    assert loss_of(*given, values) == pytest.approx(brute.fun, abs=1e-9)
    np.testing.assert_allclose(found.weight.numpy().ravel(), brute.x[:-3], atol=2e-3)


@pytest.mark.parametrize("penalty", [LOGISTIC_PENALTIES[0], LOGISTIC_PENALTIES[-1]])
def test_the_gradient_of_the_logistic_loss_is_within_its_tolerance(penalty: float) -> None:
    _, support, labels = features(4, 10, 12)
    x = support.numpy() - support.numpy().mean(0)
    found = fit_logistic(torch.from_numpy(x), labels, penalty, Linear.zeros(12, 4))
    probabilities = np.exp(log_softmax(x @ found.weight.numpy() + found.bias.numpy(), axis=1))
    errors = (probabilities - np.eye(4)[labels.numpy()]) / len(x)
    gradient = np.vstack([x.T @ errors + penalty * found.weight.numpy(), errors.sum(0)])
    assert 0 < np.abs(gradient).max() <= GRADIENT_TOLERANCE


def test_logistic_regression_takes_the_penalty_with_the_smallest_held_out_cross_entropy() -> None:
    query, support, labels = features(3, 10, 12, apart=0.5)
    centred = support - support.mean(0)
    scale = centred.square().sum(1).mean().sqrt()
    x, q = centred / scale, (query - support.mean(0)) / scale
    held = torch.tensor([i % 5 == 4 for i in range(30)])
    losses = []
    for penalty in LOGISTIC_PENALTIES:
        fit = fit_logistic(x[~held], labels[~held], penalty, Linear.zeros(12, 3))
        losses.append(torch.nn.functional.cross_entropy(fit(x[held]), labels[held]).item())
    best = LOGISTIC_PENALTIES[int(np.argmin(losses))]
    assert LOGISTIC_PENALTIES[0] > best > LOGISTIC_PENALTIES[-1]
    expected = fit_logistic(x, labels, best, Linear.zeros(12, 3))(q)
    torch.testing.assert_close(logistic(query, support, labels, 3), expected, atol=0.01, rtol=0)


@every_classifier
def test_scale_shift_and_rotation_of_the_features_change_no_score(classify: object) -> None:
    query, support, labels = features(3, 10, 5)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    moved = (1000 * values @ rotation + 7 for values in (query, support))
    before, after = classify(query, support, labels, 3), classify(*moved, labels, 3)  # type: ignore[operator]
    torch.testing.assert_close(before, after, atol=0.01, rtol=0)


@every_classifier
def test_features_that_are_constant_give_every_image_the_same_finite_scores(classify: object) -> None:
    labels = torch.arange(3).repeat_interleave(5)
    scores = classify(torch.ones(4, 6), torch.ones(15, 6), labels, 3)  # type: ignore[operator]
    torch.testing.assert_close(scores, scores[0, 0].expand(4, 3))
