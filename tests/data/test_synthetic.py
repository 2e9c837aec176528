import numpy as np
import pytest
import torch

from nilr.data import synthetic
from nilr.data.synthetic import CLASSES, class_name, generate, generate_class, layout
from nilr.episodes import EpisodeSampler, PackedImages
from nilr.models.registry import build_learner
from nilr.probes.neighbours import nearest


def test_there_are_100_classes_in_disjoint_splits_of_64_16_and_20() -> None:
    planned = layout(7)
    assert {split: len(classes) for split, classes in planned.items()} == {"train": 64, "val": 16, "test": 20}
    assert len({name for classes in planned.values() for name in classes}) == 100
    assert {n for classes in planned.values() for n in classes.values()} == {7}


def test_each_class_is_generated_once_as_planned() -> None:
    found: dict[str, dict[str, int]] = {split: {} for split in CLASSES}
    pixels = set()
    for split, name, images, filenames in generate(seed=0, images_per_class=2, image_size=8):
        assert images.shape == (2, 8, 8, 3)
        assert images.dtype == np.uint8
        assert filenames == [f"{name}-00000.png", f"{name}-00001.png"]
        found[split][name] = len(images)
        pixels |= {image.tobytes() for image in images}
    assert found == layout(2)
    assert len(pixels) == 200


def test_the_same_seed_gives_the_same_images_and_another_gives_others() -> None:
    first = generate_class(3, 5, 4, 16)
    np.testing.assert_array_equal(first, generate_class(3, 5, 4, 16))
    assert not np.array_equal(first, generate_class(4, 5, 4, 16))
    assert not np.array_equal(first, generate_class(3, 6, 4, 16))


@pytest.mark.parametrize("pixels_at_once", [1, 5 * 24 * 24, 1 << 17])
def test_an_image_does_not_depend_on_how_many_are_drawn(monkeypatch: pytest.MonkeyPatch, pixels_at_once: int) -> None:
    many = generate_class(0, 1, 13, 24)
    monkeypatch.setattr(synthetic, "_PIXELS_AT_ONCE", pixels_at_once)
    np.testing.assert_array_equal(generate_class(0, 1, 6, 24), many[:6])


@pytest.mark.parametrize("size", [8, 33, 84])
def test_images_come_at_any_size_with_light_and_colour_in_them(size: int) -> None:
    images = generate_class(0, 42, 8, size).astype(np.float64)
    assert images.shape == (8, size, size, 3)
    assert 40 < images.mean() < 215
    assert images.std(axis=(1, 2)).min() > 5


def test_the_picture_is_the_same_at_every_size() -> None:
    large = generate_class(0, 9, 4, 64).astype(np.float64)
    small = generate_class(0, 9, 4, 32).astype(np.float64)
    shrunk = large.reshape(4, 32, 2, 32, 2, 3).mean(axis=(2, 4))
    assert np.abs(shrunk - small).mean() < 8  # of 255: grain and edges


@pytest.mark.slow
def test_neighbours_of_raw_pixels_and_of_untrained_features_do_poorly() -> None:
    n, size = 30, 32
    images = np.concatenate([generate_class(0, index, n, size) for index in CLASSES["test"]])
    sampler = EpisodeSampler(PackedImages(torch.from_numpy(images), (n,) * 20), 5, 1, 15, seed=0, stream="test")
    learner = build_learner("conv4", n_way=5, image_size=size, filters=32)
    params = learner.initial_params()
    right = {"pixels": 0.0, "untrained": 0.0}
    n_episodes = 100
    with torch.no_grad():
        for i in range(n_episodes):
            episode = sampler.draw([i])[0]
            features = {"pixels": torch.flatten, "untrained": lambda x, _: learner.features(params, x.contiguous())}
            for name, of in features.items():
                support, query = of(episode.support_x, 1), of(episode.query_x, 1)
                scores = nearest(query, support, episode.support_y, 5, "cosine")
                right[name] += (scores.argmax(1) == episode.query_y).double().mean().item() / n_episodes
    # Chance is 0.20; 600 episodes gave 0.24 and 0.29.
    assert 0.20 < right["pixels"] < 0.28
    assert 0.22 < right["untrained"] < 0.36


def test_class_names_are_in_the_order_of_their_numbers() -> None:
    assert [class_name(index) for index in (0, 7, 99)] == ["class000", "class007", "class099"]
