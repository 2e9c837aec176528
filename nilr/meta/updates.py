"""Outer steps of several loops at once, from drawing episodes to Adam, without waiting for the device.

An update has two parts, each captured if the device supports it: from drawing to staged meta-gradients, and Adam.
Between them the host reads, once for all loops, whether they may step, so that no invalid number reaches a model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nilr.episodes import Episode, EpisodeSampler
from nilr.meta.cuda_graphs import Captured
from nilr.meta.engine.contract import MetaGradient
from nilr.meta.outer_loop import OuterLoop, Report, meta_gradients


@dataclass(frozen=True)
class Update:
    """A staged update of one loop: its episodes, their meta-gradient, and the report on it."""

    episodes: Episode
    gradient: MetaGradient
    report: Report


class Updates:
    """Computes the updates of loops that differ only in their seed.

    The samplers draw the loops' episodes on one device, `n_episodes` per update and loop.
    """

    def __init__(self, outers: Sequence[OuterLoop], samplers: Sequence[EpisodeSampler], n_episodes: int) -> None:
        self.outers, self._samplers, self._n_episodes = list(outers), list(samplers), n_episodes
        device = samplers[0].images.device
        # What changes between updates keeps its memory.
        self._first_episode = torch.zeros((), dtype=torch.int64, device=device)
        self._weights: Tensor | None = None
        self._stage = Captured(self._stage_updates, outers[0].capture)

    def compute(self, outer_step: int) -> list[Update]:
        """Return each loop's update after `outer_step` completed ones, for `OuterLoop.apply`, until the next call."""
        self._first_episode.fill_(outer_step * self._n_episodes)
        self._set_weights(self.outers[0].loss_weights(outer_step))
        computed, reports = self._stage()
        return [
            Update(episodes, gradient, Report(query_loss, accuracy, bool(finite)))
            for (episodes, gradient), (query_loss, accuracy, finite) in zip(computed, reports.tolist(), strict=True)
        ]

    def _set_weights(self, weights: Sequence[float] | None) -> None:
        """Set the weights of the query losses; work with weights and without is captured separately."""
        if (weights is None) != (self._weights is None):
            like = next(iter(self.outers[0].params.values()))
            self._weights = None if weights is None else like.new_empty(len(weights))
            self._stage = Captured(self._stage_updates, self.outers[0].capture)
        if weights is not None and self._weights is not None:
            for element, weight in zip(self._weights, weights, strict=True):
                element.fill_(weight)

    def _stage_updates(self) -> tuple[list[tuple[Episode, MetaGradient]], Tensor]:
        numbers = self._first_episode + torch.arange(self._n_episodes, device=self._first_episode.device)
        episodes = [sampler.draw(numbers) for sampler in self._samplers]
        gradients = meta_gradients(self.outers, episodes, self._weights)
        reports = [outer.stage(gradient) for outer, gradient in zip(self.outers, gradients, strict=True)]
        return list(zip(episodes, gradients, strict=True)), torch.stack(reports)
