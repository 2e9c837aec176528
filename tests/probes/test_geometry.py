"""Measures of geometry against loops over images, and against the truth of simulated classes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from nilr.probes.geometry import MEASURES, hyperplane_variation, inverse_cdnv, inverse_directional_cdnv

N, Q, D = 4, 6, 3


@pytest.fixture
def x() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    means = 2 * torch.randn(N, 1, D, generator=generator, dtype=torch.float64)
    return means + torch.randn(N, Q, D, generator=generator, dtype=torch.float64)


def test_inverse_cdnv_is_the_ratio_of_means_over_pairs_of_images(x: Tensor) -> None:
    images = x.numpy()
    # half the mean squared distance of two images of a class is its variance; the mean product of differences of four
    # different images of two classes is the squared distance of the means
    within = [
        np.sum((images[c, a] - images[c, b]) ** 2) / 2 for c in range(N) for a, b in itertools.combinations(range(Q), 2)
    ]
    between = [
        (images[c, a] - images[d, b]) @ (images[c, a2] - images[d, b2])
        for c, d in itertools.combinations(range(N), 2)
        for a, a2 in itertools.permutations(range(Q), 2)
        for b, b2 in itertools.permutations(range(Q), 2)
    ]
    assert inverse_cdnv(x) == pytest.approx(np.mean(between) / np.mean(within), rel=1e-12)


def test_directional_cdnv_projects_each_half_on_lines_from_the_other(x: Tensor) -> None:
    images, spread, distance = x.numpy(), 0.0, 0.0
    for line, judged in (((0, 2, 4), (1, 3, 5)), ((1, 3, 5), (0, 2, 4))):
        for c, d in itertools.combinations(range(N), 2):
            along = sum(images[c, k] for k in line) / 3 - sum(images[d, k] for k in line) / 3
            along = along / math.sqrt(along @ along)
            first, second = ([images[one, k] @ along for k in judged] for one in (c, d))
            variances = sum(sum((v - sum(values) / 3) ** 2 for v in values) / 2 for values in (first, second))
            spread += variances / 2
            distance += (sum(first) / 3 - sum(second) / 3) ** 2 - variances / 3
    assert inverse_directional_cdnv(x) == pytest.approx(distance / spread, rel=1e-12)


def test_hyperplane_variation_compares_the_normals_of_neighbouring_images(x: Tensor) -> None:
    images, values = x.numpy(), []
    for c, d in itertools.combinations(range(N), 2):
        for k in range(Q):
            one, other = (images[c, m] - images[d, m] for m in (k, (k + 1) % Q))
            values.append(np.linalg.norm(one - other) / (np.linalg.norm(one) + np.linalg.norm(other)))
    assert hyperplane_variation(x) == pytest.approx(np.mean(values), rel=1e-12)


def test_feature_clustering_is_cdnv_times_a_constant() -> None:
    """R_FC = C/N sum ||x - mu_i||^2 / sum ||mu_i - mu||^2 (Goldblum et al., 2020) is 2 C^2 / (C - 1) CDNV."""
    images = np.random.default_rng(0).normal(size=(N, 1, 2)) + np.random.default_rng(1).normal(size=(N, 50_000, 2))
    means = images.mean(1)
    scatter = ((images - means[:, None]) ** 2).sum() * N / images.shape[1]
    r_fc = scatter / ((means - means.mean(0)) ** 2).sum()
    assert 2 * N**2 / (N - 1) / inverse_cdnv(torch.from_numpy(images)) == pytest.approx(r_fc, rel=1e-3)


def simulated(n_images: int, n_episodes: int = 400) -> Tensor:
    """Return episodes (E, 5, n, 20) of Gaussian classes whose variances differ by direction."""
    generator = torch.Generator().manual_seed(3)
    scale = torch.linspace(1.5, 0.1, 20, dtype=torch.float64)
    means = torch.zeros(5, 1, 20, dtype=torch.float64)
    means[torch.arange(5), 0, torch.arange(5)] = 2.5
    return means + scale * torch.randn(n_episodes, 5, n_images, 20, generator=generator, dtype=torch.float64)


def test_the_estimate_from_four_images_is_right_where_the_plain_one_is_too_large() -> None:
    scale, squared_distance = np.linspace(1.5, 0.1, 20), 2 * 2.5**2
    truth = squared_distance / (scale**2).sum()
    few = simulated(4)
    assert np.mean([inverse_cdnv(episode) for episode in few]) == pytest.approx(truth, rel=0.05)
    variance, means = few.var(2, correction=1).sum(-1), few.mean(2)
    i, j = torch.triu_indices(5, 5, 1)
    plain = (means[:, i] - means[:, j]).square().sum(-1).mean(1) / variance.mean(1)
    assert plain.mean() > 1.5 * truth


def test_directional_cdnv_finds_the_variance_along_the_line_between_the_means() -> None:
    scale, squared_distance = np.linspace(1.5, 0.1, 20), 2 * 2.5**2
    pairs = list(itertools.combinations(range(5), 2))
    truth = squared_distance / np.mean([(scale[i] ** 2 + scale[j] ** 2) / 2 for i, j in pairs])
    many = simulated(400, n_episodes=20)
    assert np.mean([inverse_directional_cdnv(episode) for episode in many]) == pytest.approx(truth, rel=0.03)
    assert truth > 5 * np.mean([inverse_cdnv(episode) for episode in many])


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_shift_scale_and_rotation_change_no_measure(measure: object, x: Tensor) -> None:
    rotation = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    assert measure(50 * x @ rotation + 3) == pytest.approx(measure(x), rel=1e-9)  # type: ignore[operator]


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_equal_features_have_no_measure(measure: object) -> None:
    assert math.isnan(measure(torch.ones(3, 4, 2, dtype=torch.float64)))  # type: ignore[operator]
