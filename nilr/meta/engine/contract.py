"""The contract of all engines: the inner loop of one learner, and its derivative, on batches of episodes.

An inner rate has any shape that broadcasts to its parameter. A rate with exactly one dimension more than its parameter
holds one rate per step, (K, ...); steps after the K-th use the last one (`nilr.meta.inner_lr.rate_at`). Only the
parameters that `inner_lr` names move.
"""

import abc
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from nilr.episodes import Episode
from nilr.meta.algorithms import Algorithm
from nilr.models.learner import Learner, Params, Statistics, Tensors

LossWeights = Sequence[float] | Tensor  # one weight per inner step


_COPIES = 6  # of all parameters that a meta-gradient works with


class Objective(NamedTuple):
    """What a meta-gradient is the gradient of."""

    algorithm: Algorithm  # the row; it decides the order of the gradient, and whether the rates have one
    steps: int  # K, gradient steps of the inner loop
    # weights of the query losses after steps 1 to K, for the gradient of their weighted sum (Antoniou, Edwards,
    # Storkey: How to train your MAML, 2019). None: only the last loss counts.
    loss_weights: LossWeights | None = None
    # whether batch normalisation of the queries uses the support's statistics, not their own
    inductive: bool = False


@dataclass(frozen=True)
class MetaGradient:
    """The outcome of one batch of E episodes."""

    query_loss: Tensor  # query loss after adaptation, per episode, (E,)
    accuracy: Tensor  # query accuracy after adaptation, per episode, (E,)
    params: Params  # gradient of the mean query loss with respect to every parameter, by name, in their order
    inner_lr: Params  # gradient with respect to every inner rate, in the rate's shape; empty if rates are not learned


class ImageBytes(NamedTuple):
    """Memory for one image in bytes, estimated."""

    step: int  # what an inner step keeps for its Hessian-vector product
    product: int  # what that product takes in addition
    loss: int  # what a forward pass keeps for its backward pass


class EpisodeBytes(NamedTuple):
    """Memory for the meta-gradient of one episode in bytes, estimated."""

    keeping: int  # if the activations of all inner steps are kept
    recomputing: int  # if they are computed again on the way back, one step at a time


class Engine(abc.ABC):
    """Executes the inner loop of one learner, and its derivative.

    Args:
        learner: body and head. The engine uses its structure, not its parameters.
        precision: dtype of the inputs of convolutions; None: the dtype of the parameters.
        episode_chunk: the largest number of episodes computed at the same time; None: the engine decides.
        recompute: whether second-order meta-gradients keep only the parameters of each inner step, and compute its
            activations again on the way back. Memory then does not grow with the number of steps.
    """

    name: ClassVar[str]  # the name that checkpoints and results record
    has_precision: ClassVar[bool] = False  # whether the engine supports a `precision`
    # whether its meta-gradients never wait for the device, so that `nilr.meta.cuda_graphs` can capture them.
    capturable: ClassVar[bool] = False

    def __init__(
        self,
        learner: Learner,
        *,
        precision: torch.dtype | None = None,
        episode_chunk: int | None = None,
        recompute: bool = False,
    ) -> None:
        self.learner, self.precision = learner, precision
        self.episode_chunk, self.recompute = episode_chunk, recompute

    @classmethod
    @abc.abstractmethod
    def supports(cls, learner: Learner, device: torch.device) -> bool:
        """Return whether the engine can execute the learner on the device."""

    @property
    def episodes_at_once(self) -> int:
        """The number of episodes in each operation."""
        return 1

    @property
    def settled(self) -> bool:
        """Whether further updates take as long as the last one; otherwise the engine still tries what is fastest."""
        return True

    @abc.abstractmethod
    def image_bytes(self, image_shape: tuple[int, int, int]) -> ImageBytes:
        """Return the memory for one float32 image of shape (C, H, W), in the training's inner loop."""

    def episode_bytes(
        self, algorithm: Algorithm, *, image_shape: tuple[int, int, int], n_support: int, n_query: int, steps: int
    ) -> EpisodeBytes:
        """Return the memory for a meta-gradient of one episode with so many images of shape (C, H, W)."""
        each = self.image_bytes(image_shape)
        # the meta-gradient's sum, and of the last step parameters, gradients, directions and products
        params = 4 * sum(value.numel() for value in self.learner.parameters())
        query, several = n_query * each.loss, _COPIES * params
        if algorithm.order == 1:
            alone = several + max(n_support * each.loss, query)
            return EpisodeBytes(alone, alone)
        step, product = n_support * each.step, n_support * each.product
        if algorithm.moves == "head":  # all steps share the support's activations
            alone = several + step + max(query, product)
            return EpisodeBytes(alone, alone)
        keeping = several + steps * (step + 2 * params) + max(query, product)
        return EpisodeBytes(keeping, several + steps * params + max(query, step + product))

    @abc.abstractmethod
    def meta_gradient(self, params: Tensors, inner_lr: Tensors, batch: Episode, objective: Objective) -> MetaGradient:
        """Return losses, accuracies and the meta-gradient of a batch of E episodes, reduced in episode order.

        Losses and accuracies are those after the last inner step.
        """

    def meta_gradients(
        self, params: Sequence[Tensors], inner_lr: Sequence[Tensors], episodes: Sequence[Episode], objective: Objective
    ) -> list[MetaGradient]:
        """Return the meta-gradients of several models of one shape, each on its own batch."""
        return [
            self.meta_gradient(start, rates, batch, objective)
            for start, rates, batch in zip(params, inner_lr, episodes, strict=True)
        ]

    def adapted_logits(
        self, params: Tensors, inner_lr: Tensors, episodes: Episode, *, steps: int, inductive: bool = False
    ) -> Tensor:
        """Return the logits (E, N*Q, N) of the queries after adaptation; `inductive` is that of `Objective`."""
        logits = []
        for episode in (episodes[i] for i in range(len(episodes))):
            adapted = self.adapt(params, inner_lr, episode.support_x, episode.support_y, steps=steps)
            statistics = self.statistics(adapted, episode.support_x) if inductive else None
            features = self.features(adapted, episode.query_x, statistics)
            logits.append(linear(features, adapted["head.weight"], adapted["head.bias"]))
        return torch.stack(logits)

    @abc.abstractmethod
    def adapt(
        self, params: Tensors, inner_lr: Tensors, x: Tensor, y: Tensor, *, steps: int, first_step: int = 0
    ) -> Params:
        """Return the parameters adapted to one support set; keep nothing for differentiation.

        `x` (N*K, C, H, W) and `y` (N*K,) are the support's images and labels. Rates per step start at `first_step`.
        """

    @abc.abstractmethod
    def support_gradient(self, params: Tensors, x: Tensor, y: Tensor, names: Iterable[str]) -> Params:
        """Return the gradient of the mean support loss with respect to the named parameters."""

    @abc.abstractmethod
    def statistics(self, params: Tensors, x: Tensor) -> dict[str, Tensor]:
        """Return the statistics of batch normalisation for images (n, C, H, W), by layer."""

    @abc.abstractmethod
    def activations(self, params: Tensors, x: Tensor, statistics: Statistics | None = None) -> dict[str, Tensor]:
        """Return the outputs (n, C, H, W) of the body's layers, by name, for images (n, C, H, W).

        Batch normalisation uses `statistics`, by default those of the images.
        """

    @abc.abstractmethod
    def features(self, params: Tensors, x: Tensor, statistics: Statistics | None = None) -> Tensor:
        """Return the body's features (n, D) of images (n, C, H, W); `statistics` as in `activations`."""
