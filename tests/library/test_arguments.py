"""Functions of `import nilr` check their arguments: one clear error for an invalid one, and no silent result."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

import nilr
from nilr.errors import DataError, DivergedError, EpisodeError, UnknownNameError, UsageError
from nilr.library.arguments import texts

pytestmark = pytest.mark.usefixtures("one_thread", "home")

FEW = {"n_episodes": 2, "n_query": 2}


@pytest.fixture(scope="module")
def small() -> nilr.Images:
    return nilr.generate_images(per_class=4, image_size=16)


@pytest.fixture(scope="module")
def model() -> nilr.Model:
    return nilr.build_model(filters=4, image_size=16)


@pytest.fixture(scope="module")
def episode(small: nilr.Images) -> nilr.Episode:
    return nilr.sample_episode(small, n_query=2)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("block1", ("block1",)),
        (0.1, ("0.1",)),
        (np.float64(0.1), ("0.1",)),
        (np.array(0.1), ("0.1",)),
        (np.array([0.1, 0.2]), ("0.1", "0.2")),
        ((word for word in ("b", "a")), ("b", "a")),
        ({"b", "a"}, ("a", "b")),
        ((), ()),
    ],
)
def test_any_iterable_except_a_text_is_several(values: Any, expected: tuple[str, ...]) -> None:
    assert texts(values) == expected


def test_a_probe_accepts_any_iterable_and_one_text(model: nilr.Model, small: nilr.Images) -> None:
    expected = nilr.probe(model, small, sections=["harm"], layers=["block1"], rates=["0.1", "0.2"], **FEW)
    found = nilr.probe(
        model, small, sections=(name for name in ["harm"]), layers={"block1"}, rates=np.array([0.1, 0.2]), **FEW
    )
    assert found.metrics == expected.metrics
    assert found.metrics["model"].harm is not None
    assert nilr.probe(model, small, sections="harm", **FEW).metrics["model"].harm is not None


def test_adaptation_moves_the_parts_of_any_iterable(model: nilr.Model, episode: nilr.Episode) -> None:
    expected, found = (nilr.adapt(model, episode, parts=parts) for parts in (["head"], (one for one in ["head"])))
    assert not torch.equal(found.params["head.weight"], model.params["head.weight"])
    assert all(torch.equal(found.params[name], value) for name, value in expected.params.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"outer_lr": -1}, "`outer_lr`"),
        ({"outer_lr": 0}, "`outer_lr`"),
        ({"outer_lr": 1001}, "`outer_lr`"),
        ({"outer_lr": math.nan}, "`outer_lr`"),
        ({"grad_clip": -1}, "`grad_clip`"),
        ({"grad_clip": 0}, "`grad_clip`"),
        ({"grad_clip": math.inf}, "`grad_clip`"),
        ({"updates": 0}, "`updates`"),
        ({"inner_steps": 0}, "`inner_steps`"),
        ({"meta_batch_size": 1.5}, "`meta_batch_size`"),
        ({"n_shot": "x"}, "`n_shot`"),
    ],
)
def test_invalid_settings_of_a_training_are_errors(
    model: nilr.Model, small: nilr.Images, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=f"invalid argument {message}"):
        nilr.train(model, small, **{"updates": 1, "n_query": 1} | arguments)


def test_a_seed_is_an_integer_in_every_function(model: nilr.Model, small: nilr.Images, episode: nilr.Episode) -> None:
    calls: dict[str, Callable[[Any], Any]] = {
        "sample_episode": lambda seed: nilr.sample_episode(small, n_query=1, seed=seed),
        "train": lambda seed: nilr.train(model, small, 1, n_query=1, seed=seed),
        "build_model": lambda seed: nilr.build_model(filters=2, image_size=16, seed=seed),
        "wrap": lambda seed: nilr.wrap(nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), image_size=16, seed=seed),
        "generate_images": lambda seed: nilr.generate_images("val", per_class=1, image_size=8, seed=seed),
        "adapt": lambda seed: nilr.adapt(model, episode, seed=seed),
        "probe": lambda seed: nilr.probe(model, small, seed=seed, **FEW),
        "measure_rates": lambda seed: nilr.measure_rates(model, seed=seed),
    }
    for call in calls.values():
        for seed in (1.0, True, "x", -5, 2**63, None):
            with pytest.raises(UsageError, match="`seed` cannot be"):
                call(seed)
        call(np.int64(3))
    drawn = [nilr.sample_episode(small, n_query=1, seed=seed).query_x for seed in (1, np.uint8(1))]
    assert torch.equal(*drawn)


def test_an_adaptation_that_diverges_is_an_error(model: nilr.Model, episode: nilr.Episode) -> None:
    with pytest.raises(DivergedError, match="is not finite") as caught:
        nilr.adapt(model, episode, rates=1e30, steps=5)
    assert "smaller `rates`" in (caught.value.hint or "")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_images_that_are_not_finite_are_an_error(model: nilr.Model, episode: nilr.Episode, value: float) -> None:
    x = episode.support_x.clone()
    x[-1, -1, -1, -1] = value
    for call in (lambda: nilr.adapt(model, (x, episode.support_y)), lambda: nilr.features(model, x)):
        with pytest.raises(EpisodeError, match="images have numbers that are not finite"):
            call()


def test_an_invalid_argument_is_named_with_its_value(
    model: nilr.Model, small: nilr.Images, episode: nilr.Episode, tmp_path: Path
) -> None:
    x, y = episode.support_x, episode.support_y
    grey = nilr.wrap(nn.Sequential(nn.Flatten(), nn.Linear(256, 4)), image_size=16, channels=1)
    cases: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: nilr.measure_rates(model, "syn"), UsageError, "`images` has type str, not Images"),
        (lambda: nilr.measure_rates(model, episode), UsageError, "`images` has type Episode, not Images"),
        (lambda: nilr.train(model, episode), UsageError, "`images` has type Episode, not Images"),
        (lambda: nilr.sample_episode("syn"), UsageError, "`images` has type str, not Images"),
        (lambda: nilr.probe(model, small, data_b=""), UsageError, "`data_b` has type str, not Images"),
        (lambda: nilr.probe(model, small, universality=False), UsageError, "`universality` has type bool, not Images"),
        (lambda: nilr.probe(model, small, n_way=0), UsageError, "invalid argument `n_way`"),
        (lambda: nilr.probe(model, small, sections=[1]), UnknownNameError, "unknown section `1`"),
        (lambda: nilr.read_images(tmp_path, resample="x"), UnknownNameError, "unknown resample `x`"),
        (lambda: nilr.read_images(tmp_path, fit="x"), UnknownNameError, "unknown fit `x`"),
        (lambda: nilr.read_images(tmp_path, image_size=1.5), UsageError, "`image_size` cannot be 1.5"),
        (lambda: nilr.generate_images(image_size=3), UsageError, "`image_size` cannot be 3"),
        (lambda: nilr.open_pack("syn", split="x"), UnknownNameError, "unknown split `x`"),
        (
            lambda: nilr.generate_images(["val"]),
            UsageError,
            r"`\['val'\]` is not the name of a split, but a value of type list",
        ),
        (lambda: nilr.generate_images(per_class="2"), UsageError, "`per_class` cannot be '2'"),
        (lambda: nilr.sample_episode(small, 1.0), UsageError, "`index` cannot be 1.0"),
        (lambda: nilr.sample_episode(small, n_way=0), UsageError, "`n_way` cannot be 0"),
        (lambda: small.of_class(0), UsageError, "`0` is not the name of a class, but a value of type int"),
        (lambda: nilr.features(model, x[:, :1]), EpisodeError, r"have 1 channel, and the model takes 3"),
        (lambda: nilr.features(grey, x), EpisodeError, r"have 3 channels, and the model takes 1"),
        (lambda: nilr.features(model, x.numpy()), UsageError, "`x` has type ndarray, not Tensor"),
        (lambda: nilr.features("m", x), UsageError, "`model` has type str, not Model"),
        (lambda: nilr.features(model, x, layer=1), UsageError, "`1` is not the name of a layer"),
        (lambda: nilr.adapt("m", episode), UsageError, "`model` has type str, not Model"),
        (
            lambda: nilr.adapt(model, (x.numpy(), y.numpy())),
            UsageError,
            "nor a pair of tensors, but has type tuple of ndarray",
        ),
        (lambda: nilr.adapt(model, x), UsageError, "nor a pair of tensors, but has type Tensor"),
        (lambda: nilr.adapt(model, episode, steps=1.5), UsageError, "`steps` cannot be 1.5"),
        (lambda: nilr.adapt(model, episode, parts=()), UsageError, "`parts` is empty"),
        (lambda: nilr.rates("m"), UsageError, "`model` has type str, not Model"),
        (lambda: nilr.rates_frame("m"), UsageError, "`model` has type str, not Model"),
        (lambda: nilr.result_frame("r"), UsageError, "`result` has type str, not Result"),
        (lambda: nilr.plot(model), UsageError, "`results` has type Model, not Result"),
        (lambda: nilr.build_model(image_size=16.0), UsageError, "`image_size` cannot be 16.0"),
        (lambda: nilr.build_model(algo=1), UnknownNameError, "unknown algorithm `1`"),
        (lambda: nilr.build_model(device=0), UsageError, "invalid device `0`"),
        (lambda: nilr.wrap(nn.Flatten(), n_way=1), UsageError, "`n_way` cannot be 1"),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message) as caught:
            call()
        assert caught.value.hint


def test_a_device_of_torch_is_accepted() -> None:
    built = nilr.build_model(filters=2, image_size=16, device=torch.device("cpu"))
    assert built.params["head.bias"].device == torch.device("cpu")


def test_images_of_another_size_than_the_model_s_are_an_error(model: nilr.Model) -> None:
    images = nilr.generate_images(per_class=6, image_size=32)
    for call in (lambda: nilr.train(model, images, updates=1), lambda: nilr.measure_rates(model, images)):
        with pytest.raises(EpisodeError, match="images are 32 px, and the model was built for 16 px"):
            call()


def test_folders_of_several_splits_are_an_error(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            PIL.Image.new("RGB", (8, 8)).save(tmp_path / split / name / "1.png")
    with pytest.raises(DataError, match="has the folders of several splits: train, val"):
        nilr.read_images(tmp_path, image_size=8)
    assert nilr.read_images(tmp_path / "val", image_size=8).class_sizes == {"cat": 1, "dog": 1}
