"""How far apart and how compact classes are in feature space: class-distance normalised variance, and its relatives.

All measures take the features (N, Q, D) of N classes with Q images each, as float64. They do not depend on shift, scale
or rotation of the features. They are NaN without variance.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

MIN_IMAGES = 4  # per class: two in each half


def inverse_cdnv(x: Tensor) -> float:
    """Return the mean squared distance of two class means over the mean variance of a class.

    That is the inverse of the class-distance normalised variance (Galanti, Gyorgy, Hutter: On the Role of Neural
    Collapse in Transfer Learning, 2021), as a ratio of means over pairs of classes. The squared distance of two sample
    means is too large by the variances of the means, which are subtracted; so it may fall below 0, and CDNV itself
    would have no mean.
    """
    variance, means = x.var(1, correction=1).sum(-1), x.mean(1)
    i, j = _pairs(len(x))
    both = variance[i] + variance[j]
    distance = (means[i] - means[j]).square().sum(-1) - both / x.shape[1]
    return (distance.mean() / (both.mean() / 2)).item()


def inverse_directional_cdnv(x: Tensor) -> float:
    """Return the same of variances and distances along the line between two class means.

    Luthra, Salunkhe, Galanti: Directional Neural Collapse Explains Few-Shot Transfer in Self-Supervised Learning, 2026.
    Half of each class's images give the line and the other half is projected on it, in turn: along a line from the same
    images, the distance would contain their noise.
    """
    halves = x[:, ::2], x[:, 1::2]
    i, j = _pairs(len(x))
    spread, distance = [], []
    for line, projected in (halves, halves[::-1]):
        means = line.mean(1)
        direction = normalize(means[i] - means[j], dim=1)
        first, second = (torch.einsum("pqd,pd->pq", projected[one], direction) for one in (i, j))
        both = first.var(1, correction=1) + second.var(1, correction=1)
        spread.append(both / 2)
        distance.append((first.mean(1) - second.mean(1)).square() - both / projected.shape[1])
    return (torch.cat(distance).mean() / torch.cat(spread).mean()).item()


def hyperplane_variation(x: Tensor) -> float:
    """Return how much the difference of two images of two classes varies with the images, from 0 to 1.

    For images a, a' of one class and b, b' of another: ||(a - b) - (a' - b')|| / (||a - b|| + ||a' - b'||), mean over
    pairs of classes and neighbouring images. Goldblum, Reich, Fowl, Ni, Cherepanova, Goldstein: Unraveling
    Meta-Learning: Understanding Feature Representations for Few-Shot Tasks, 2020; there R_HV.
    """
    i, j = _pairs(len(x))
    difference = x[i] - x[j]
    following = difference.roll(-1, 1)
    ratio: Tensor = (difference - following).norm(dim=-1) / (difference.norm(dim=-1) + following.norm(dim=-1))
    return ratio.mean().item()


MEASURES: dict[str, Callable[[Tensor], float]] = {
    "inverse-cdnv": inverse_cdnv,
    "inverse-directional-cdnv": inverse_directional_cdnv,
    "hyperplane-variation": hyperplane_variation,
}


def _pairs(n: int) -> tuple[Tensor, Tensor]:
    """Return the two positions of every pair of n classes."""
    i, j = torch.triu_indices(n, n, 1)
    return i, j
