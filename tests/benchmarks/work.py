"""What every contender works on: the same episodes, the same network with the same parameters."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nilr.episodes import Episode, EpisodeSampler, PackedImages
from nilr.models.learner import Learner
from nilr.models.registry import build_learner

SIZE, FILTERS, SEED = 84, 32, 0
RATE = 0.01
N_WAY, N_SHOT, N_QUERY = 5, 1, 15
PROTOCOLS = ("meta-init", "same-task", "cross-task")
TRAINING_STEPS = {"maml": 5, "metasgd": 1}
JUDGING_STEPS = 10
EPISODES = {"maml": 4, "metasgd": 4, "evaluation": 4, "probe": 2}
"""Of one turn with Conv4: long enough to be timed, and short enough for rounds of all contenders."""
WORK = {
    "maml": "one update, 5 steps unless --steps says otherwise, second order",
    "metasgd": "one update, 1 step, second order, a learned rate per element",
    "evaluation": "10 steps, query loss",
    "probe": "episodes under three protocols, 10 steps; a peer adapts and embeds afresh for each",
}
CHECKED = {"maml": 0.01, "metasgd": 0.01, "evaluation": 0.02, "probe": 0.05}
"""How far contenders may differ, relative, before anything is timed: float32 rounding moves max-pool ties."""


@dataclass(frozen=True)
class Done:
    """What a task computed.

    Attributes:
        value: mean query loss; of a probe, the sum of its protocols' accuracies.
        gradient: norm of the meta-gradient in the parameters; 0 where there is none.
    """

    value: float
    gradient: float = 0.0


@dataclass(frozen=True)
class Setup:
    """The network and the episodes of a comparison."""

    arch: str = "conv4"
    filters: int = FILTERS  # of conv4 and conv6
    widths: tuple[int, ...] = (64, 160, 320, 640)  # of resnet12
    size: int = SIZE
    n_way: int = N_WAY
    n_shot: int = N_SHOT
    n_query: int = N_QUERY
    steps: int | None = None  # of maml; None: 5
    episodes: int | None = None  # of a turn; None: those of `EPISODES`, or one of resnet12

    def learner(self, seed: int = SEED) -> Learner:
        """Return nilr's learner."""
        arguments = {"widths": self.widths} if self.arch == "resnet12" else {"filters": self.filters}
        return build_learner(self.arch, n_way=self.n_way, image_size=self.size, seed=seed, **arguments)

    def training_steps(self, task: str) -> int:
        """Return the inner steps of a task."""
        return self.steps if self.steps is not None and task == "maml" else TRAINING_STEPS[task]

    def draw(self, task: str) -> Episode:
        """Return the episodes of one turn."""
        default = 1 if self.arch == "resnet12" and task in TRAINING_STEPS else EPISODES[task]
        return draw_episodes(self.episodes or default, self)

    def __str__(self) -> str:
        """Describe it."""
        network = f"widths {','.join(map(str, self.widths))}" if self.arch == "resnet12" else f"{self.filters} filters"
        shots = f"{self.n_way}-way {self.n_shot}-shot, {self.n_query} queries per class"
        return f"{self.arch}, {network}, {self.size} px, {shots}"


def draw_episodes(n_episodes: int, setup: Setup | None = None) -> Episode:
    """Return episodes of random images."""
    setup = setup or Setup()
    generator = torch.Generator().manual_seed(SEED)
    per_class, classes = setup.n_shot + setup.n_query, 4 * setup.n_way
    shape = (classes * per_class, setup.size, setup.size, 3)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    images = PackedImages(pixels, (per_class,) * classes)
    sampler = EpisodeSampler(images, setup.n_way, setup.n_shot, setup.n_query, SEED, "bench")
    return sampler.draw(range(n_episodes))


def plain(batch: Episode) -> Episode:
    """Return the same images in (n, C, H, W) memory, which peers are used with."""
    return Episode(batch.support_x.contiguous(), batch.support_y, batch.query_x.contiguous(), batch.query_y)


def each(batch: Episode) -> Iterator[Episode]:
    """Yield the episodes of a batch."""
    return (batch[i] for i in range(len(batch)))


class ResidualBlock(nn.Module):
    """A block of ResNet-12."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            *(convolution(inputs, outputs), nn.LeakyReLU(0.1)),
            *(convolution(outputs, outputs), nn.LeakyReLU(0.1)),
            convolution(outputs, outputs),
        )
        self.shortcut = convolution(inputs, outputs, 1)
        self.end = nn.Sequential(nn.LeakyReLU(0.1), nn.MaxPool2d(2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.end(self.main(x) + self.shortcut(x))
        return out


def convolution(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    """Return a convolution without bias, and batch norm."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs, track_running_stats=False))


class PeerNet(nn.Module):
    """The network as a peer's user writes it, with nilr's parameters.

    Args:
        setup: the network.
        seed: of the parameters.
    """

    def __init__(self, setup: Setup | None = None, seed: int = SEED) -> None:
        super().__init__()
        setup = setup or Setup()
        if setup.arch == "resnet12":
            pairs = itertools.pairwise((3, *setup.widths))
            body = [*(ResidualBlock(*pair) for pair in pairs), nn.AdaptiveAvgPool2d(1)]
        else:
            poolings = (True,) * 4 + (False,) * (int(setup.arch == "conv6") * 2)
            body = [
                nn.Sequential(
                    convolution(setup.filters if i else 3, setup.filters),
                    nn.ReLU(),
                    nn.MaxPool2d(2) if pool else nn.Identity(),
                )
                for i, pool in enumerate(poolings)
            ]
        learner = setup.learner(seed)
        self.body = nn.Sequential(*body, nn.Flatten())
        self.head = nn.Linear(learner.feature_dim, setup.n_way)
        with torch.no_grad():
            for own, given in zip(self.parameters(), learner.initial_params().values(), strict=True):
                own.copy_(given)

    def forward(self, x: Tensor, *, features: bool = False) -> Tensor:
        seen: Tensor = self.body(x)
        return seen if features else self.head(seen)
