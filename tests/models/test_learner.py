import pytest
import torch

from nilr.errors import EpisodeError, UnknownNameError
from nilr.models.parameters import layer, part
from nilr.models.registry import BODIES, build_learner


@pytest.mark.parametrize("arch", BODIES)
def test_features_and_logits_have_the_announced_shapes(arch: str) -> None:
    learner = build_learner(arch, n_way=5, image_size=20, filters=4)
    params = learner.initial_params()
    x = torch.rand(6, 3, 20, 20)
    assert learner.features(params, x).shape == (6, learner.feature_dim)
    assert learner.logits(params, x).shape == (6, 5)


def test_conv4_at_84_pixels_and_32_filters_has_800_features_and_finns_parameters() -> None:
    learner = build_learner("conv4", n_way=5, image_size=84, filters=32)
    assert learner.feature_dim == 800
    # 3x3 convolutions 3->32->32->32->32 without bias, scale and shift per block, a linear head 800 -> 5
    assert sum(value.numel() for value in learner.parameters()) == 27 * 32 + 3 * 9 * 32 * 32 + 4 * 64 + 800 * 5 + 5


def test_parameters_know_their_part_layer_and_kind() -> None:
    kinds = build_learner("conv4", n_way=3, image_size=16, filters=2).kinds
    names = list(kinds)
    assert [(part(n), layer(n), kinds[n]) for n in names[:3]] == [
        ("body", "block1", "convolution weight"),
        ("body", "block1", "norm scale"),
        ("body", "block1", "norm shift"),
    ]
    assert [(part(n), layer(n), kinds[n]) for n in names[-2:]] == [
        ("head", "head", "head weight"),
        ("head", "head", "head bias"),
    ]


@pytest.mark.parametrize("arch", BODIES)
def test_the_seed_decides_the_initial_weights(arch: str) -> None:
    first, again, other = (
        build_learner(arch, n_way=5, image_size=16, filters=4, seed=seed).initial_params() for seed in (3, 3, 4)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_features_are_normalised_by_their_own_batch() -> None:
    learner = build_learner("conv4", n_way=2, image_size=16, filters=4)
    params = learner.initial_params()
    x = torch.rand(4, 3, 16, 16)
    assert torch.allclose(learner.features(params, x), learner.features(params, 3 * x), atol=1e-3)
    assert not torch.allclose(learner.features(params, x)[:2], learner.features(params, x[:2]), atol=1e-3)


def test_images_too_small_for_four_poolings_are_refused() -> None:
    with pytest.raises(EpisodeError, match=r"at least 16 px, but these have 12"):
        build_learner("conv4", n_way=5, image_size=12, filters=4)


def test_an_unknown_architecture_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError) as caught:
        build_learner("vgg", n_way=5, image_size=16, filters=4)
    assert "conv4" in (caught.value.hint or "")
