"""What every engine does, given parameters, inner rates, an algorithm's row and a batch of episodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nilr.episodes import Episode
from nilr.meta.algorithms import Algorithm
from nilr.models.learner import Learner, Params


@dataclass(frozen=True)
class MetaGradient:
    """The outcome of one batch of E episodes.

    Attributes:
        query_loss: mean query loss after adaptation, per episode, (E,).
        accuracy: query accuracy after adaptation, per episode, (E,).
        params: gradient of the mean of `query_loss` in every parameter, by name.
        inner_lr: the same in every inner rate; empty where rates are not learned.
    """

    query_loss: Tensor
    accuracy: Tensor
    params: Params
    inner_lr: Params


class Engine(Protocol):
    """Executes the inner loop and its derivative."""

    @property
    def name(self) -> str:
        """The name that stands in checkpoints and results."""

    def supports(self, learner: Learner, device: torch.device) -> bool:
        """Tell whether this engine can execute the learner on the device."""

    def meta_gradient(
        self,
        learner: Learner,
        params: Mapping[str, Tensor],
        inner_lr: Mapping[str, Tensor],
        algorithm: Algorithm,
        episodes: Episode,
        *,
        steps: int,
    ) -> MetaGradient:
        """Return losses, accuracies and the meta-gradient of a batch of episodes; reductions run in episode order."""

    def adapt(
        self,
        learner: Learner,
        params: Mapping[str, Tensor],
        inner_lr: Mapping[str, Tensor],
        support_x: Tensor,
        support_y: Tensor,
        *,
        steps: int,
    ) -> Params:
        """Return the parameters adapted to one support set; nothing is kept for differentiation."""

    def features(self, learner: Learner, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Return the body's features (n, D) of images (n, C, H, W)."""
