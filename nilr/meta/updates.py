"""Whole outer steps of several loops at once, from sampling episodes to Adam, without waiting for the device.

An update has two halves, each captured where the device has that: from sampling to meta-gradients; and Adam. Between
them the host reads, once for all loops, whether Adam may step; nothing that is not finite comes near a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nilr.episodes import Episode, EpisodeSampler
from nilr.meta.captured import Captured
from nilr.meta.engine.contract import MetaGradient
from nilr.meta.outer_loop import OuterLoop, Report, meta_gradients


@dataclass(frozen=True)
class Update:
    """An update that one loop has yet to take: its episodes, their meta-gradient, and what is known of it."""

    episodes: Episode
    gradient: MetaGradient
    report: Report


class Updates:
    """Updates of loops that differ in nothing but their seed.

    Args:
        outers: the loops.
        samplers: what gives each its episodes, on one device.
        n_episodes: per update and loop.
    """

    def __init__(self, outers: Sequence[OuterLoop], samplers: Sequence[EpisodeSampler], n_episodes: int) -> None:
        self.outers, self._samplers, self._n_episodes = list(outers), list(samplers), n_episodes
        device = samplers[0].images.device
        # What changes between updates stays where it is in memory.
        self._first_episode = torch.zeros((), dtype=torch.int64, device=device)
        self._weights: Tensor | None = None
        self._compute = Captured(self._computed, outers[0].capture)

    def compute(self, outer_step: int) -> list[Update]:
        """Return what the loops are to take next; the tensors hold until the next call.

        Args:
            outer_step: number of updates that all have completed.
        """
        self._first_episode.fill_(outer_step * self._n_episodes)
        self._weigh(self.outers[0].loss_weights(outer_step))
        computed, reports = self._compute()
        return [
            Update(episodes, gradient, Report.from_numbers(row))
            for (episodes, gradient), row in zip(computed, reports.tolist(), strict=True)
        ]

    def _weigh(self, weights: Sequence[float] | None) -> None:
        """Set the weights of the query losses; with them and without are different work."""
        if (weights is None) != (self._weights is None):
            like = next(iter(self.outers[0].params.values()))
            self._weights = None if weights is None else like.new_empty(len(weights))
            self._compute = Captured(self._computed, self.outers[0].capture)
        if weights is not None and self._weights is not None:
            for kept, weight in zip(self._weights, weights, strict=True):
                kept.fill_(weight)

    def _computed(self) -> tuple[list[tuple[Episode, MetaGradient]], Tensor]:
        numbers = self._first_episode + torch.arange(self._n_episodes, device=self._first_episode.device)
        episodes = [sampler.draw(numbers) for sampler in self._samplers]
        gradients = meta_gradients(self.outers, episodes, self._weights)
        reports = [outer.stage(gradient) for outer, gradient in zip(self.outers, gradients, strict=True)]
        return list(zip(episodes, gradients, strict=True)), torch.stack(reports)
