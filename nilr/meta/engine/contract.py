"""What every engine does, given parameters, inner rates, an algorithm's row and a batch of episodes.

An inner rate has any shape that broadcasts to its parameter. With exactly one dimension more than its parameter it
holds a rate per step, (K, ...), and steps after the K-th take the last one (`nilr.meta.inner_loop.rate_at`).
"""

from __future__ import annotations

import abc
import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor
from torch.nn.functional import linear

from nilr.episodes import Episode
from nilr.meta.algorithms import Algorithm
from nilr.models.learner import Learner, Params

LossWeights = Sequence[float] | Tensor  # a number for each inner step


@dataclass(frozen=True)
class MetaGradient:
    """The outcome of one batch of E episodes.

    Attributes:
        query_loss: mean query loss after adaptation, per episode, (E,).
        accuracy: query accuracy after adaptation, per episode, (E,).
        params: gradient of the mean of `query_loss` in every parameter, by name.
        inner_lr: the same in every inner rate, in the rate's own shape; empty where rates are not learned.
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

    @property
    def episodes_at_once(self) -> int:
        """How many episodes it does in each operation."""

    @property
    def episode_chunk(self) -> int | None:
        """The most episodes that it computes at the same time; None: as many as it wishes."""

    @property
    def capturable(self) -> bool:
        """Whether its meta-gradients never wait for the device, so that `nilr.meta.captured` can capture them."""

    def in_chunks(self, episode_chunk: int) -> Self:
        """Return the same engine with another `episode_chunk`; what it computes is the same but for rounding."""

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
        loss_weights: LossWeights | None = None,
    ) -> MetaGradient:
        """Return losses, accuracies and the meta-gradient of a batch of episodes; reductions run in episode order.

        Args:
            learner: body and head.
            params: the meta-initialisation, by name.
            inner_lr: the inner rates, by name; only what they name moves.
            algorithm: the row.
            episodes: E episodes.
            steps: K, gradient steps of the inner loop.
            loss_weights: weights of the query losses after steps 1 to K, whose sum is what the gradient is taken of
                (Antoniou, Edwards, Storkey: How to train your MAML, 2019); None: the last loss alone. Losses and
                accuracies that are returned are those after the last step.
        """

    def meta_gradients(
        self,
        learner: Learner,
        params: Sequence[Mapping[str, Tensor]],
        inner_lr: Sequence[Mapping[str, Tensor]],
        episodes: Sequence[Episode],
        algorithm: Algorithm,
        *,
        steps: int,
        loss_weights: LossWeights | None = None,
    ) -> list[MetaGradient]:
        """Return the same for several models of one shape, each on a batch of its own."""

    def adapted_logits(
        self,
        learner: Learner,
        params: Mapping[str, Tensor],
        inner_lr: Mapping[str, Tensor],
        episodes: Episode,
        *,
        steps: int,
    ) -> Tensor:
        """Return the logits (E, N*Q, N) of the queries after adapting to each episode's support."""

    def adapt(
        self,
        learner: Learner,
        params: Mapping[str, Tensor],
        inner_lr: Mapping[str, Tensor],
        support_x: Tensor,
        support_y: Tensor,
        *,
        steps: int,
        first_step: int = 0,
    ) -> Params:
        """Return the parameters adapted to one support set; nothing is kept for differentiation.

        `first_step` numbers the first of the steps, where there is a rate per step.
        """

    def support_gradient(
        self,
        learner: Learner,
        params: Mapping[str, Tensor],
        support_x: Tensor,
        support_y: Tensor,
        names: Iterable[str],
    ) -> Params:
        """Return the gradient of the mean support loss in the named parameters."""

    def activations(self, learner: Learner, params: Mapping[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        """Return the outputs (n, C, H, W) of the body's layers by name, for images (n, C, H, W)."""

    def features(self, learner: Learner, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Return the body's features (n, D) of images (n, C, H, W)."""


class OneByOne(abc.ABC):
    """What an engine that does one model, and one episode, after another makes of several."""

    episode_chunk: int | None = None
    capturable = False

    @property
    def episodes_at_once(self) -> int:
        """See `Engine`."""
        return 1

    def in_chunks(self, episode_chunk: int) -> Self:
        """See `Engine`."""
        engine = copy.copy(self)
        engine.episode_chunk = episode_chunk
        return engine

    @abc.abstractmethod
    def meta_gradient(
        self,
        learner: Learner,
        params: Mapping[str, Tensor],
        inner_lr: Mapping[str, Tensor],
        algorithm: Algorithm,
        episodes: Episode,
        *,
        steps: int,
        loss_weights: LossWeights | None = None,
    ) -> MetaGradient:
        """See `Engine`."""

    @abc.abstractmethod
    def adapt(
        self,
        learner: Learner,
        params: Mapping[str, Tensor],
        inner_lr: Mapping[str, Tensor],
        support_x: Tensor,
        support_y: Tensor,
        *,
        steps: int,
        first_step: int = 0,
    ) -> Params:
        """See `Engine`."""

    @abc.abstractmethod
    def features(self, learner: Learner, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """See `Engine`."""

    def meta_gradients(
        self,
        learner: Learner,
        params: Sequence[Mapping[str, Tensor]],
        inner_lr: Sequence[Mapping[str, Tensor]],
        episodes: Sequence[Episode],
        algorithm: Algorithm,
        *,
        steps: int,
        loss_weights: LossWeights | None = None,
    ) -> list[MetaGradient]:
        """See `Engine`."""
        return [
            self.meta_gradient(learner, start, rates, algorithm, batch, steps=steps, loss_weights=loss_weights)
            for start, rates, batch in zip(params, inner_lr, episodes, strict=True)
        ]

    def adapted_logits(
        self,
        learner: Learner,
        params: Mapping[str, Tensor],
        inner_lr: Mapping[str, Tensor],
        episodes: Episode,
        *,
        steps: int,
    ) -> Tensor:
        """See `Engine`."""
        logits = []
        for episode in (episodes[i] for i in range(len(episodes))):
            adapted = self.adapt(learner, params, inner_lr, episode.support_x, episode.support_y, steps=steps)
            features = self.features(learner, adapted, episode.query_x)
            logits.append(linear(features, adapted["head.weight"], adapted["head.bias"]))
        return torch.stack(logits)
