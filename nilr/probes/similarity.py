"""How alike two representations of the same images are: linear CKA, SVCCA, cosines.

Every measure takes `Activations`, which carry the identity of each image beside its values: a figure between
different images, or the same ones in another order, looks as plausible as a true one, so it is an error.
A figure that is undefined (a layer that says the same of every image) is NaN.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nilr.errors import EpisodeError

EXPLAINED = 0.99
SAMPLES_PER_COMPONENT = 10
MIN_IMAGES = 4


@dataclass(frozen=True)
class Activations:
    """What a layer makes of n images.

    Attributes:
        values: (n, ...); with (n, C, H, W), channels at positions.
        images: identity of each image (see `identities`).
        labels: class of each image, int64 (n,).
    """

    values: Tensor
    images: tuple[str, ...]
    labels: Tensor

    @property
    def flat(self) -> Tensor:
        """The values as float64 (n, D)."""
        return self.values.flatten(1).double()


def identities(x: Tensor) -> tuple[str, ...]:
    """Return the SHA-256 of the values of each image of `x` (n, C, H, W), hex."""
    return tuple(hashlib.sha256(image.numpy()).hexdigest() for image in x.cpu().contiguous())


def cka(before: Activations, after: Activations) -> float:
    """Return the linear CKA of the flattened activations, from unbiased estimates of HSIC: 0 on average for noise.

    Kornblith, Norouzi, Lee, Hinton: Similarity of Neural Network Representations Revisited, 2019; estimator: Song,
    Smola, Gretton, Bedo, Borgwardt: Feature Selection via Dependence Maximization, 2012; as in Nguyen, Raghu,
    Kornblith: Do Wide and Deep Networks Learn the Same Things?, 2021. NaN where an estimate of a layer's own HSIC is
    not positive.

    Raises:
        EpisodeError: the images are not the same in the same order, or fewer than 4.
    """
    _require_same_images(before, after)
    _require(before, MIN_IMAGES, "CKA")
    return linear_cka(before.flat, after.flat)


def linear_cka(x: Tensor, y: Tensor, *, unbiased: bool = True) -> float:
    """Return the linear CKA of `x` (n, D) and `y` (n, D'), rows of the same images.

    Args:
        x: one representation.
        y: the other.
        unbiased: estimate HSIC without bias (n >= 4); otherwise as Gretton, Bousquet, Smola, Schölkopf (Measuring
            Statistical Dependence with Hilbert-Schmidt Norms, 2005), which is 1 on average for noise of many features.
    """
    hsic = _unbiased_hsic if unbiased else _biased_hsic
    # centring changes no estimate, and keeps digits where features share a large mean
    k, l = (_gram(values - values.mean(0)) for values in (x.double(), y.double()))  # noqa: E741 - the papers' letters
    own = torch.stack([hsic(k, k), hsic(l, l)])
    return (hsic(k, l) / own.prod().sqrt()).item() if bool((own > 0).all()) else float("nan")


def _gram(x: Tensor) -> Tensor:
    return x @ x.T


def _unbiased_hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741 - the papers' letters
    """Return HSIC_1 of Song et al. (2012), equation 5, of two Gram matrices (n, n)."""
    n = len(k)
    k, l = (gram - gram.diag().diag() for gram in (k, l))  # noqa: E741
    rows = k.sum(1) @ l.sum(1)
    return ((k * l).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * rows / (n - 2)) / (n * (n - 3))


def _biased_hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741 - the papers' letters
    """Return HSIC_0 of Gretton et al. (2005), tr(KHLH) / (n - 1)^2, of two Gram matrices (n, n)."""
    centred = k - k.mean(0) - k.mean(1, keepdim=True) + k.mean()
    return (centred * l).sum() / (len(k) - 1) ** 2


def svcca(before: Activations, after: Activations) -> float:
    """Return the mean canonical correlation of the main components: SVCCA, with every position as a sample.

    Raghu, Gilmer, Yosinski, Sohl-Dickstein: SVCCA: Singular Vector Canonical Correlation Analysis for Deep Learning
    Dynamics and Interpretability, 2017. Of each representation the components that explain 99 % of the variance are
    kept, and at most a tenth as many as there are samples: with as many components as samples any two representations
    correlate perfectly.

    Args:
        before: (n, C, H, W), n*H*W samples of C channels; or (n, C), n samples.
        after: the same of other parameters.

    Raises:
        EpisodeError: the images are not the same in the same order, or there are fewer than 10 samples.
    """
    _require_same_images(before, after)
    x, y = _positions(before.values), _positions(after.values)
    _require(before, SAMPLES_PER_COMPONENT, "SVCCA", samples=len(x))
    correlations = canonical_correlations(x, y, at_most=len(x) // SAMPLES_PER_COMPONENT)
    return correlations.mean().item() if len(correlations) else float("nan")


def canonical_correlations(x: Tensor, y: Tensor, *, at_most: int) -> Tensor:
    """Return the canonical correlations of the main components of `x` (n, C) and `y` (n, C'), largest first.

    Args:
        x: one representation, a row per sample.
        y: the other.
        at_most: components of each that are kept at most.

    Returns:
        float64, as many as the fewer components; none where a representation has no variance.
    """
    x, y = (values.double() - values.double().mean(0) for values in (x, y))
    correlations: Tensor = torch.linalg.svdvals(_whitened(x, at_most).T @ _whitened(y, at_most))
    return correlations.clamp(max=1)


def _whitened(x: Tensor, at_most: int) -> Tensor:
    """Return the main components (n, k) of centred values (n, C), orthonormal; k is 0 where there is no variance."""
    ascending, columns = torch.linalg.eigh(x.T @ x)
    variances: Tensor = ascending.flip(0).clamp(min=0)
    directions: Tensor = columns.flip(1)
    total = variances.sum()
    if not total > 0:
        return x[:, :0]
    needed = int((variances.cumsum(0) < EXPLAINED * total).sum()) + 1
    kept = min(needed, at_most, len(variances))
    return x @ directions[:, :kept] / variances[:kept].sqrt()


def _positions(values: Tensor) -> Tensor:
    """Return channels at positions as rows: (n, C, H, W) -> (n*H*W, C); (n, C) stays."""
    return values.movedim(1, -1).reshape(-1, values.shape[1])


def cosine(before: Activations, after: Activations) -> float:
    """Return the mean cosine of each image's flattened activations before and after; 0 for a vector of zeros.

    Raises:
        EpisodeError: the images are not the same in the same order.
    """
    _require_same_images(before, after)
    return (normalize(before.flat, dim=1) * normalize(after.flat, dim=1)).sum(1).mean().item()


def within_class_cosine(_before: Activations, after: Activations) -> float:
    """Return the mean cosine over all pairs of two images of one class, after; NaN where no class has two."""
    return _mean_cosine(after, same_class=True)


def between_class_cosine(_before: Activations, after: Activations) -> float:
    """Return the mean cosine over all pairs of images of different classes, after."""
    return _mean_cosine(after, same_class=False)


def _mean_cosine(activations: Activations, *, same_class: bool) -> float:
    unit = normalize(activations.flat, dim=1)
    alike = activations.labels[:, None] == activations.labels[None, :]
    pairs = (alike == same_class).triu(1)
    return (unit @ unit.T)[pairs].mean().item()


Measure = Callable[[Activations, Activations], float]

# What two sets of parameters make of the same images; and what one set makes of them, the second one.
BETWEEN: dict[str, Measure] = {"cka": cka, "svcca": svcca, "cosine": cosine}
WITHIN: dict[str, Measure] = {
    "within-class-cosine": within_class_cosine,
    "between-class-cosine": between_class_cosine,
}
MEASURES = BETWEEN | WITHIN


def _require_same_images(before: Activations, after: Activations) -> None:
    if before.images == after.images:
        return
    if sorted(before.images) == sorted(after.images):
        raise EpisodeError(
            "a similarity needs the same images in the same order, and these stand in another order",
            hint="index both by the same order",
        )
    shared = len(set(before.images) & set(after.images))
    raise EpisodeError(
        f"a similarity needs the same images: of {len(before.images)} before and {len(after.images)} after, "
        f"{shared} are the same",
        hint="look at the same images with both",
    )


def _require(activations: Activations, needed: int, measure: str, *, samples: int | None = None) -> None:
    found = len(activations.images) if samples is None else samples
    if found < needed:
        what = "query images" if samples is None else "samples (query images times positions)"
        raise EpisodeError(
            f"{measure} needs {needed} {what} or more, and the episode has {found}", hint="raise --n-query"
        )
