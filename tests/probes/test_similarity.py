"""Similarity against closed forms and the figures of published implementations."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nilr.errors import EpisodeError
from nilr.probes.similarity import (
    BETWEEN,
    MEASURES,
    Activations,
    canonical_correlations,
    cka,
    cosine,
    identities,
    linear_cka,
    svcca,
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seen(values: Tensor, images: Tensor | None = None, labels: list[int] | None = None) -> Activations:
    """Return activations of images that are told apart by their number, or by the numbers in `images`."""
    numbers = torch.arange(len(values)) if images is None else images
    pixels = numbers.float()[:, None, None, None]
    return Activations(values, identities(pixels), torch.tensor(labels) if labels else numbers % 5)


def rotation(d: int) -> Tensor:
    return torch.linalg.qr(noise(d, d, seed=7))[0]


def test_cka_is_invariant_to_rotation_scale_and_shift() -> None:
    x = noise(60, 12)
    moved = 3.7 * x @ rotation(12) + 100
    assert linear_cka(x, moved) == pytest.approx(1, abs=1e-10)


def test_svcca_is_invariant_to_rotation_scale_and_shift() -> None:
    x = noise(200, 12)
    assert svcca(seen(x), seen(-0.2 * x @ rotation(12) + 5)) == pytest.approx(1, abs=1e-10)


def test_cosine_depends_on_rotation_and_sign_but_not_on_scale() -> None:
    x = noise(30, 4)
    quarter = torch.tensor([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1], [0, 0, -1, 0]], dtype=torch.float64)
    assert cosine(seen(x), seen(2 * x)) == pytest.approx(1)
    assert cosine(seen(x), seen(-x)) == pytest.approx(-1)
    assert cosine(seen(x), seen(x @ quarter)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("features", [5, 40, 400])
def test_cka_of_independent_noise_is_zero_on_average(features: int) -> None:
    # with the biased HSIC of Gretton et al. (2005), the mean would be features / (30 + features)
    n, draws = 30, 200
    pairs = [(noise(n, features, seed=2 * i), noise(n, features, seed=2 * i + 1)) for i in range(draws)]
    found = torch.tensor([linear_cka(x, y) for x, y in pairs])
    assert abs(found.mean().item()) < 4 * found.std().item() / math.sqrt(draws)


def test_a_shared_signal_gives_the_cka_of_the_populations() -> None:
    # x = (s, e) and y = (s, f) of independent unit Gaussians s (3), e (9), f (9): the populations' HSIC are 3, 12, 12
    s = noise(4000, 3)
    x, y = torch.cat([s, noise(4000, 9, seed=1)], 1), torch.cat([s, noise(4000, 9, seed=2)], 1)
    assert linear_cka(x, y) == pytest.approx(3 / 12, abs=0.01)


def test_canonical_correlations_are_those_of_the_construction() -> None:
    # channels pairwise correlated by 0.9, 0.5 and 0, mixed by any regular matrices
    n = 50_000
    x, e = noise(n, 3), noise(n, 3, seed=1)
    rho = torch.tensor([0.9, 0.5, 0.0], dtype=torch.float64)
    y = rho * x + (1 - rho**2).sqrt() * e
    mixed = canonical_correlations(x @ (rotation(3) + torch.eye(3)), y @ rotation(3), at_most=3)
    assert mixed.tolist() == pytest.approx(rho.tolist(), abs=0.02)


def example() -> tuple[Tensor, Tensor]:
    """Return arrays of (40, 6) and (40, 4) that anyone can make again."""
    n = torch.arange(40, dtype=torch.float64)[:, None]
    j = torch.arange(1, 7, dtype=torch.float64)[None]
    x = torch.sin(n * j.sqrt()) / j**2
    y = torch.tanh(x @ torch.cos(torch.outer(j[0], j[0]))) + 0.3 * torch.sin(n * (j + 7).sqrt()) / j
    return x, y[:, :4].contiguous()


def test_values_equal_those_of_published_implementations() -> None:
    x, y = example()
    # pytorch-cka 1.1.3: xy, xx, yy = cka.hsic.hsic((x @ x.T)[None], (y @ y.T)[None]); xy / (xx * yy).sqrt();
    # ckatorch 1.0.3: ckatorch.core.cka_batch(x[None], y[None]) gives the same
    assert linear_cka(x, y) == pytest.approx(0.9742247380003503, rel=1e-12)
    # deep-reps 0.0.6, cca_measures.py: 6 * compute_standard_svcca(x, y), the sum of the correlations, since it divides
    # by the channels of x whatever was kept; 6 * compute_yanai_svcca(x, y), the sum of their squares
    found = canonical_correlations(x, y, at_most=40)
    assert len(found) == 3
    assert found.sum().item() == pytest.approx(2.299410836541668, rel=1e-12)
    assert found.square().sum().item() == pytest.approx(2.0099488127093696, rel=1e-12)


def test_positions_are_samples_of_svcca() -> None:
    # 4 images of 3 channels at 8 x 8 positions are 256 samples; a channel mix of every position changes nothing
    x = noise(4, 3, 8, 8)
    mixed = torch.einsum("nchw,cd->ndhw", x, rotation(3))
    assert svcca(seen(x), seen(mixed)) == pytest.approx(1, abs=1e-10)
    # independent noise: three canonical correlations of 256 samples are of the order sqrt(3 / 256)
    assert svcca(seen(x), seen(noise(4, 3, 8, 8, seed=1))) < 0.2


def test_svcca_keeps_a_tenth_as_many_components_as_samples() -> None:
    # 20 samples of 19 features: uncut, both span the same space and correlate perfectly
    x, y = noise(20, 19), noise(20, 19, seed=1)
    assert canonical_correlations(x, y, at_most=19).mean().item() > 0.8
    assert svcca(seen(x), seen(y)) == canonical_correlations(x, y, at_most=2).mean().item() < 0.6


@pytest.mark.parametrize(
    ("measure", "n", "said"),
    [(svcca, 9, "SVCCA needs at least 10 samples"), (cka, 3, "CKA needs at least 4 query images")],
)
def test_too_few_images_are_an_error(measure: Callable[..., float], n: int, said: str) -> None:
    with pytest.raises(EpisodeError, match=f"{said}.* has {n}"):
        measure(seen(noise(n, 2)), seen(noise(n, 2, seed=1)))


@pytest.mark.parametrize("name", BETWEEN)
def test_different_images_or_another_order_are_an_error(name: str) -> None:
    x = noise(40, 6)
    turned, others = torch.arange(40).flip(0), torch.arange(40) + 1
    with pytest.raises(EpisodeError, match="in the same order"):
        MEASURES[name](seen(x), seen(x, turned))
    with pytest.raises(EpisodeError, match="of 40 before and 40 after, 39 are the same"):
        MEASURES[name](seen(x), seen(x, others))
    with pytest.raises(EpisodeError, match="of 40 before and 39 after, 39 are the same"):
        MEASURES[name](seen(x), seen(x[:39]))


def test_identities_are_those_of_the_pixels() -> None:
    x = noise(3, 2, 4, 4).float()
    assert identities(x) == identities(x.to(memory_format=torch.channels_last))
    changed = x.clone()
    changed[1, 0, 0, 0] += 1e-3
    assert [a == b for a, b in zip(identities(x), identities(changed), strict=True)] == [True, False, True]


def test_class_cosines_are_means_over_pairs() -> None:
    # unit vectors at 0, 60 | 90, 180 degrees: within cos 60 and cos 90; between cos 90, cos 180, cos 30, cos 120
    angles = torch.tensor([0.0, 60.0, 90.0, 180.0], dtype=torch.float64).deg2rad()
    after = seen(torch.stack([angles.cos(), angles.sin()], 1) * 3, labels=[0, 0, 1, 1])
    within, between = (MEASURES[f"{side}-class-cosine"](after, after) for side in ("within", "between"))
    assert within == pytest.approx((0.5 + 0) / 2)
    assert between == pytest.approx((0 - 1 + math.sqrt(3) / 2 - 0.5) / 4)


def test_what_is_undefined_is_nan() -> None:
    constant, x = torch.ones(40, 3), noise(40, 3)
    assert math.isnan(cka(seen(x), seen(constant)))
    assert math.isnan(svcca(seen(x), seen(constant)))
    assert math.isnan(MEASURES["within-class-cosine"](seen(x[:3]), seen(x[:3], labels=[0, 1, 2])))
