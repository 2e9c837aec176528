"""What every contender works on: the same episodes, the same network with the same parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nilr.episodes import Episode, EpisodeSampler, PackedImages
from nilr.models.registry import build_learner

SIZE, FILTERS, SEED = 84, 32, 0
RATE = 0.01
N_WAY, N_SHOT, N_QUERY = 5, 1, 15
PROTOCOLS = ("meta-init", "same-task", "cross-task")
TRAINING_STEPS = {"maml": 5, "metasgd": 1}
JUDGING_STEPS = 10
# of one turn: long enough to be timed, and short enough for rounds of all contenders
EPISODES = {"maml": 4, "metasgd": 4, "evaluation": 4, "probe": 2}
WORK = {
    "maml": "one update of 4 episodes, 5 steps, second order",
    "metasgd": "one update of 4 episodes, 1 step, second order, a learned rate per element",
    "evaluation": "4 episodes, 10 steps, query loss",
    "probe": "2 episodes under three protocols, 10 steps; a peer adapts and embeds afresh for each",
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


def draw_episodes(n_episodes: int, *, n_way: int = N_WAY) -> Episode:
    """Return 1-shot episodes of random images with 15 queries per class."""
    generator = torch.Generator().manual_seed(SEED)
    per_class, classes = N_SHOT + N_QUERY, 4 * n_way
    pixels = torch.randint(0, 256, (classes * per_class, SIZE, SIZE, 3), dtype=torch.uint8, generator=generator)
    images = PackedImages(pixels, (per_class,) * classes)
    return EpisodeSampler(images, n_way, N_SHOT, N_QUERY, SEED, "bench").draw(range(n_episodes))


def plain(batch: Episode) -> Episode:
    """Return the same images in (n, C, H, W) memory, which peers are used with."""
    return Episode(batch.support_x.contiguous(), batch.support_y, batch.query_x.contiguous(), batch.query_y)


def each(batch: Episode) -> Iterator[Episode]:
    """Yield the episodes of a batch."""
    return (batch[i] for i in range(len(batch)))


class PeerNet(nn.Module):
    """Conv4 as a peer's user writes it, with nilr's parameters.

    Args:
        size: of the images.
        seed: of the parameters.
    """

    def __init__(self, size: int = SIZE, seed: int = SEED) -> None:
        super().__init__()
        blocks = [
            nn.Sequential(
                nn.Conv2d(3 if i == 0 else FILTERS, FILTERS, 3, padding=1, bias=False),
                nn.BatchNorm2d(FILTERS, track_running_stats=False),
                nn.ReLU(),
                nn.MaxPool2d(2),
            )
            for i in range(4)
        ]
        self.body = nn.Sequential(*blocks, nn.Flatten())
        self.head = nn.Linear(FILTERS * (size // 16) ** 2, N_WAY)
        params = build_learner("conv4", n_way=N_WAY, image_size=size, filters=FILTERS, seed=seed).initial_params()
        with torch.no_grad():
            for own, given in zip(self.parameters(), params.values(), strict=True):
                own.copy_(given)

    def forward(self, x: Tensor, *, features: bool = False) -> Tensor:
        seen: Tensor = self.body(x)
        return seen if features else self.head(seen)
