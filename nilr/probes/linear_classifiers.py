"""Linear classifiers of fixed features: ridge regression and multinomial logistic regression.

The linear evaluation of features (Alain, Bengio: Understanding Intermediate Layers Using Linear Classifier Probes,
2016; Kornblith, Shlens, Le: Do Better ImageNet Models Transfer Better?, 2019). Features are centred and divided by the
root of their mean squared norm over the support, so that no outcome depends on their scale. Penalties are relative to
that, and chosen on the support alone. Everything is float64.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

RIDGE_PENALTIES = tuple(10 ** (power / 4) for power in range(-24, 5))
LOGISTIC_PENALTIES = tuple(10 ** (power / 2) for power in range(-3, -11, -1))  # in the order of the warm starts
HELD_OUT = 5  # every fifth image of the support chooses the penalty of the logistic regression
GRADIENT_TOLERANCE = 1e-5  # largest element of the gradient of the logistic loss at its minimum

_MAXIMUM = 5000  # iterations, and evaluations of the loss


def ridge(query: Tensor, support: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """Score each class by ridge regression on one-hot targets, (q, N) float64.

    The penalty has the smallest squared leave-one-out error, in closed form with the intercept that is not penalised
    (Hastie, Tibshirani, Friedman: The Elements of Statistical Learning, 2009, equation 7.64).

    Args:
        query: features (q, D).
        support: features (s, D) to fit.
        labels: int64 (s,), with every class in [0, N).
        n_way: N.
    """
    left, values, coordinates = _principal(query, support)
    targets = one_hot(labels, n_way).double()
    mean = targets.mean(0)
    projected = left.T @ (targets - mean)
    n = len(support)

    def leave_one_out(penalty: float) -> float:
        shrunk = values**2 / (values**2 + n * penalty)
        residuals = targets - mean - left @ (shrunk[:, None] * projected)
        return (residuals / (1 - 1 / n - left**2 @ shrunk)[:, None]).square().sum().item()

    penalty = min(RIDGE_PENALTIES, key=leave_one_out)
    return mean + coordinates @ ((values / (values**2 + n * penalty))[:, None] * projected)


def logistic(query: Tensor, support: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """Score each class by multinomial logistic regression, (q, N) float64; arguments as in `ridge`.

    The loss is the mean cross-entropy plus half the penalty times the squared norm of the weights without intercept.
    The penalty gives the first minimum, from strong to weak, of the cross-entropy on every fifth support image after a
    fit to the others.
    """
    left, values, coordinates = _principal(query, support)
    x = left * values
    held = torch.arange(len(x)) % HELD_OUT == HELD_OUT - 1
    best, smallest, fit = LOGISTIC_PENALTIES[0], math.inf, Linear.zeros(x.shape[1], n_way)
    for penalty in LOGISTIC_PENALTIES:
        fit = fit_logistic(x[~held], labels[~held], penalty, fit)
        loss = cross_entropy(fit(x[held]), labels[held]).item()
        if loss >= smallest:
            break
        best, smallest = penalty, loss
    return fit_logistic(x, labels, best, Linear.zeros(x.shape[1], n_way))(coordinates)


CLASSIFIERS: dict[str, Callable[[Tensor, Tensor, Tensor, int], Tensor]] = {"ridge": ridge, "logistic": logistic}


class Linear(NamedTuple):
    """Weights (D, N) and intercepts (N,), float64."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def zeros(cls, n_features: int, n_way: int) -> "Linear":
        """Return a classifier with the same score for all classes."""
        return cls(torch.zeros(n_features, n_way).double(), torch.zeros(n_way).double())

    def __call__(self, x: Tensor) -> Tensor:
        """Return the scores (n, N) of features (n, D)."""
        return x @ self.weight + self.bias


def fit_logistic(x: Tensor, labels: Tensor, penalty: float, start: Linear) -> Linear:
    """Return the minimum of the penalised mean cross-entropy on features (n, D), by L-BFGS from `start`."""
    from scipy.optimize import minimize

    targets = one_hot(labels, len(start.bias)).double()

    def unpacked(values: Any) -> Linear:  # noqa: ANN401 - an array
        both = torch.from_numpy(values).view(-1, len(start.bias))
        return Linear(both[:-1], both[-1])

    def loss(values: Any) -> tuple[float, Any]:  # noqa: ANN401 - an array
        at = unpacked(values)
        scores = at(x)
        errors = (scores.softmax(1) - targets) / len(x)
        gradient = torch.cat([x.T @ errors + penalty * at.weight, errors.sum(0)[None]])
        total = cross_entropy(scores, labels) + penalty / 2 * at.weight.square().sum()
        return total.item(), gradient.flatten().numpy()

    outcome = minimize(
        loss,
        torch.cat([start.weight, start.bias[None]]).flatten().numpy(),
        jac=True,
        method="L-BFGS-B",
        options={"gtol": GRADIENT_TOLERANCE, "ftol": 0, "maxcor": 20, "maxiter": _MAXIMUM, "maxfun": _MAXIMUM},
    )
    return unpacked(outcome.x)


def _principal(query: Tensor, support: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return U (s, k) and the singular values (k,) of the scaled support, and the query in its coordinates (q, k)."""
    support, query = support.double(), query.double()
    mean = support.mean(0)
    support, query = support - mean, query - mean
    scale = support.square().sum(1).mean().sqrt()
    if scale > 0:
        support, query = support / scale, query / scale
    left, values, right = torch.linalg.svd(support, full_matrices=False)
    return left, values, query @ right.T
