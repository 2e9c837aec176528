"""Networks with the names of other libraries, written for the tests, and learn2learn's own two files."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

LEARN2LEARN = Path(__file__).parents[2] / "build" / "peers" / "learn2learn-0.2.0"


class Block(nn.Module):
    """A block as learn2learn registers it: normalisation before convolution."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.normalize = nn.BatchNorm2d(filters)
        self.conv = nn.Conv2d(channels, filters, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.max_pool2d(self.normalize(self.conv(x)).relu(), 2)


class CNN4(nn.Module):
    """Four blocks and a classifier, with the names of learn2learn's CNN4."""

    def __init__(self, n_way: int, filters: int, size: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*(Block(filters if i else 3, filters) for i in range(4)))
        self.classifier = nn.Linear(filters * (size // 16) ** 2, n_way)

    def embed(self, x: Tensor) -> Tensor:
        return self.features(x).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.embed(x))


def plain_block(channels: int, filters: int, *, slope: float = 0.0) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, filters, 3, padding=1), nn.BatchNorm2d(filters), nn.LeakyReLU(slope), nn.MaxPool2d(2)
    )


def learn2learn() -> types.SimpleNamespace:
    """Return learn2learn's MAML and MetaSGD, from the two files that need only torch; skip if they are not there."""
    if not LEARN2LEARN.is_dir():
        pytest.skip("learn2learn is not in build/peers: `make peers` downloads it")
    for name in ("learn2learn", "learn2learn.algorithms"):  # its own __init__ needs what does not build
        module = types.ModuleType(name)
        module.__path__ = [str(LEARN2LEARN.joinpath(*name.split(".")))]
        sys.modules[name] = module
    from learn2learn.algorithms.maml import MAML
    from learn2learn.algorithms.meta_sgd import MetaSGD

    return types.SimpleNamespace(MAML=MAML, MetaSGD=MetaSGD)


def episode(seed: int, n_way: int, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return two support and two query images per class, of one noisy colour each, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n_way).repeat_interleave(2)
    colours = torch.rand(n_way, 3, 1, 1, generator=generator, dtype=torch.float64)[labels]
    images = [
        (colours + torch.randn(2 * n_way, 3, size, size, generator=generator, dtype=torch.float64) / 5).to(dtype)
        for _ in range(2)
    ]
    return images[0], images[1], labels


def adapted(wrapper: Any, support: Tensor, labels: Tensor, steps: int) -> Any:
    learner = wrapper.clone()
    for _ in range(steps):
        learner.adapt(nn.functional.cross_entropy(learner(support), labels))
    return learner


def trained(make: Callable[[nn.Module], Any], net: nn.Module, steps: int, size: int, n_way: int) -> Any:
    """Train a wrapper of learn2learn for a few updates."""
    wrapper = make(net)
    optimiser = torch.optim.Adam(wrapper.parameters(), lr=0.01)
    for seed in range(5):
        support, query, labels = episode(seed, n_way, size, next(net.parameters()).dtype)
        loss = nn.functional.cross_entropy(adapted(wrapper, support, labels, steps)(query), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return wrapper
