"""Similarity of two representations of the same images: linear CKA, SVCCA, cosines.

Every measure takes `Activations`, which include the identity of each image. Comparing different images, or the same
ones in another order, gives a plausible number; here it is an error. An undefined value, for example of a layer that
is constant, is NaN.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nilr.errors import EpisodeError

EXPLAINED = 0.99
SAMPLES_PER_COMPONENT = 10
MIN_IMAGES = 4


@dataclass(frozen=True)
class Activations:
    """A layer's outputs for n images."""

    values: Tensor  # (n, ...); (n, C, H, W) has channels at positions
    images: tuple[str, ...]  # identity of each image; see `identities`
    labels: Tensor  # class of each image, int64 (n,)

    @property
    def flat(self) -> Tensor:
        """The values as float64 (n, D)."""
        return self.values.flatten(1).double()


def identities(x: Tensor) -> tuple[str, ...]:
    """Return the hexadecimal SHA-256 of each image of `x` (n, C, H, W)."""
    return tuple(hashlib.sha256(image.numpy()).hexdigest() for image in x.cpu().contiguous())


def cka(before: Activations, after: Activations) -> float:
    """Return the linear CKA of the flattened activations; EpisodeError if the images differ, or are fewer than 4."""
    _require_same_images(before, after)
    _require_samples("CKA", MIN_IMAGES, len(before.images), "query images")
    return linear_cka(before.flat, after.flat)


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Return the linear CKA of `x` (n, D) and `y` (n, D'), n >= 4, from unbiased estimates of HSIC.

    It is 0 on average for noise, and NaN if the estimate of a representation's own HSIC is not positive. Kornblith,
    Norouzi, Lee, Hinton: Similarity of Neural Network Representations Revisited, 2019; with the estimator of Song,
    Smola, Gretton, Bedo, Borgwardt (Feature Selection via Dependence Maximization, 2012), as in Nguyen, Raghu,
    Kornblith: Do Wide and Deep Networks Learn the Same Things?, 2021.
    """
    # Centring does not change the estimates. It keeps precision if features have a large common mean.
    x, y = (values.double() - values.double().mean(0) for values in (x, y))
    k, l = x @ x.T, y @ y.T  # noqa: E741 - the papers' letters
    self_hsic = torch.stack([_hsic(k, k), _hsic(l, l)])
    return (_hsic(k, l) / self_hsic.prod().sqrt()).item() if bool((self_hsic > 0).all()) else float("nan")


def _hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    """Return HSIC_1 of Song et al. (2012), equation 5, of two Gram matrices (n, n)."""
    n = len(k)
    k, l = (gram - gram.diag().diag() for gram in (k, l))  # noqa: E741
    rows = k.sum(1) @ l.sum(1)
    return ((k * l).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * rows / (n - 2)) / (n * (n - 3))


def svcca(before: Activations, after: Activations) -> float:
    """Return SVCCA, the mean canonical correlation of the main components.

    Outputs (n, C, H, W) give n*H*W samples of C channels. Each representation keeps the components that explain 99 % of
    its variance, at most one per ten samples: with as many components as samples, any two representations correlate
    perfectly. Raghu, Gilmer, Yosinski, Sohl-Dickstein: SVCCA: Singular Vector Canonical Correlation Analysis for Deep
    Learning Dynamics and Interpretability, 2017.

    Raises:
        EpisodeError: the images differ, or give fewer than 10 samples.
    """
    _require_same_images(before, after)
    x, y = (a.values.movedim(1, -1).reshape(-1, a.values.shape[1]) for a in (before, after))
    _require_samples("SVCCA", SAMPLES_PER_COMPONENT, len(x), "samples (query images times positions)")
    correlations = canonical_correlations(x, y, at_most=len(x) // SAMPLES_PER_COMPONENT)
    return correlations.mean().item() if len(correlations) else float("nan")


def canonical_correlations(x: Tensor, y: Tensor, *, at_most: int) -> Tensor:
    """Return the canonical correlations of the first `at_most` main components of `x` (n, C) and `y` (n, C').

    Returns:
        float64, largest first; empty if a representation has no variance.
    """
    x, y = (values.double() - values.double().mean(0) for values in (x, y))
    correlations: Tensor = torch.linalg.svdvals(_whitened(x, at_most).T @ _whitened(y, at_most))
    return correlations.clamp(max=1)


def _whitened(x: Tensor, at_most: int) -> Tensor:
    """Return the orthonormal main components (n, k) of centred values (n, C); k is 0 without variance."""
    ascending, columns = torch.linalg.eigh(x.T @ x)
    variances: Tensor = ascending.flip(0).clamp(min=0)
    directions: Tensor = columns.flip(1)
    total = variances.sum()
    if not total > 0:
        return x[:, :0]
    needed = int((variances.cumsum(0) < EXPLAINED * total).sum()) + 1
    kept = min(needed, at_most, len(variances))
    return x @ directions[:, :kept] / variances[:kept].sqrt()


def cosine(before: Activations, after: Activations) -> float:
    """Return the mean cosine of each image's flattened activations before and after; 0 for a zero vector.

    Raises:
        EpisodeError: the images differ.
    """
    _require_same_images(before, after)
    return (normalize(before.flat, dim=1) * normalize(after.flat, dim=1)).sum(1).mean().item()


def class_cosine(_before: Activations, after: Activations, *, same_class: bool) -> float:
    """Return the mean cosine of all pairs of images of one class, or of different ones; NaN without such pairs."""
    unit = normalize(after.flat, dim=1)
    alike = after.labels[:, None] == after.labels[None, :]
    pairs = (alike == same_class).triu(1)
    return (unit @ unit.T)[pairs].mean().item()


Measure = Callable[[Activations, Activations], float]

# BETWEEN compares the outputs before and after; WITHIN compares images with each other, after.
BETWEEN: dict[str, Measure] = {"cka": cka, "svcca": svcca, "cosine": cosine}
WITHIN: dict[str, Measure] = {
    "within-class-cosine": partial(class_cosine, same_class=True),
    "between-class-cosine": partial(class_cosine, same_class=False),
}
MEASURES = BETWEEN | WITHIN


def _require_same_images(before: Activations, after: Activations) -> None:
    if before.images == after.images:
        return
    if sorted(before.images) == sorted(after.images):
        raise EpisodeError("similarity needs the images in the same order", hint="sort both in the same order")
    shared = len(set(before.images) & set(after.images))
    raise EpisodeError(
        f"similarity needs the same images; of {len(before.images)} before and {len(after.images)} after, "
        f"{shared} are the same",
        hint="use the same images before and after",
    )


def _require_samples(measure: str, needed: int, found: int, what: str) -> None:
    if found < needed:
        raise EpisodeError(f"{measure} needs at least {needed} {what}; the episode has {found}", hint="raise --n-query")
