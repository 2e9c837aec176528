"""Fixtures that more than one tier uses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nilr.episodes import Episode


@pytest.fixture
def mini_imagenet() -> Path:
    """Return the directory of the real archive (train.tar, val.tar, test.tar, splits/), or skip."""
    default = Path(__file__).parents[2] / "shared" / "mini-imagenet"
    directory = Path(os.environ.get("NILR_MINI_IMAGENET", default))
    if not (directory / "train.tar").exists():
        pytest.skip("the real Mini-ImageNet is not here: set NILR_MINI_IMAGENET")
    return directory


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty store, which every command of the test uses."""
    for name in [name for name in os.environ if name.startswith("NILR_")]:
        monkeypatch.delenv(name)
    directory = tmp_path / "home"
    monkeypatch.setenv("NILR_HOME", str(directory))
    return directory


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute on one thread, so that tests beside each other do not wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_episodes(
    n_episodes: int = 2,
    *,
    n_way: int = 3,
    n_shot: int = 2,
    n_query: int = 2,
    size: int = 16,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Episode:
    """Return a batch of episodes of random images, different for every seed."""
    generator = torch.Generator().manual_seed(seed)

    def images(per_class: int) -> torch.Tensor:
        return torch.rand(n_episodes, n_way * per_class, 3, size, size, generator=generator, dtype=dtype)

    def labels(per_class: int) -> torch.Tensor:
        return torch.arange(n_way).repeat_interleave(per_class).expand(n_episodes, -1)

    return Episode(images(n_shot), labels(n_shot), images(n_query), labels(n_query))


@pytest.fixture
def episodes() -> Episode:
    """Return two 3-way 2-shot episodes of 16 px images in float64."""
    return make_episodes()
