"""The explicit engines: Conv4 without an autograd graph, one episode per core; in torch, or in C (`compiled`)."""

from collections import deque
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from nilr.episodes import Episode
from nilr.meta.engine.block import ConvBlock
from nilr.meta.engine.contract import Engine, MetaGradient, Objective
from nilr.meta.engine.image_block import image_block
from nilr.meta.engine.native import library
from nilr.meta.engine.network import (
    BLOCKS,
    N_BLOCKS,
    Images,
    activations,
    as_images,
    embed,
    first_needed,
    flatten,
    loss_pass,
)
from nilr.meta.engine.passes import AtenPasses, NativePasses, Passes
from nilr.meta.engine.trajectory import Task, TaskGradient, adapt, task_gradient
from nilr.meta.engine.workers import in_order
from nilr.meta.inner_lr import rate_at
from nilr.metrics import accuracy
from nilr.models.conv_body import ConvBody
from nilr.models.learner import Learner, Params, Statistics, Tensors
from nilr.models.stages import Unit


class ExplicitEngine(Engine):
    """Forward, backward and Hessian-vector product of Conv4 as plain tensor functions."""

    name = "explicit"
    has_precision = True
    passes: ClassVar[Passes] = AtenPasses()

    @override
    @classmethod
    def supports(cls, learner: Learner, device: torch.device) -> bool:
        body = learner.body
        if not isinstance(body, ConvBody) or body.mean or len(body.stages) != N_BLOCKS:
            return False
        return all(
            isinstance(stage, Unit) and stage.kernel == 3 and stage.slope == 0 and stage.pool for stage in body.stages
        )

    @override
    @torch.no_grad()
    def meta_gradient(self, params: Tensors, inner_lr: Tensors, batch: Episode, objective: Objective) -> MetaGradient:
        algorithm, steps, weights, inductive = objective
        total = {name: torch.zeros_like(value) for name, value in params.items()}
        total_lr = {name: torch.zeros_like(value) for name, value in inner_lr.items() if algorithm.learns_rates}
        rates = _rates_by_step(params, inner_lr, range(steps))
        losses, accuracies = list[Tensor](), list[Tensor]()

        def gradient_of(i: int) -> TaskGradient:
            episode = batch[i]
            task = self._task(episode, inductive=inductive)
            return task_gradient(params, rates, task, exact=algorithm.order == 2, weights=weights)

        device, at_most = batch.query_x.device, self.episode_chunk
        for i, gradient in enumerate(in_order(gradient_of, range(len(batch)), device=device, at_most=at_most)):
            for name, value in gradient.params.items():
                total[name] += value
            for step, change in enumerate(gradient.rates):
                for name, value in total_lr.items():
                    of_step = rate_at(value, change[name], step)
                    of_step += change[name].sum_to_size(of_step.shape)
            losses.append(gradient.loss)
            accuracies.append(accuracy(gradient.logits, batch.query_y[i]))
        for value in (*total.values(), *total_lr.values()):
            value /= len(batch)
        return MetaGradient(torch.stack(losses), torch.stack(accuracies), total, total_lr)

    @override
    @torch.no_grad()
    def adapt(
        self, params: Tensors, inner_lr: Tensors, x: Tensor, y: Tensor, *, steps: int, first_step: int = 0
    ) -> Params:
        rates = _rates_by_step(params, inner_lr, range(first_step, first_step + steps))
        return adapt(params, rates, self._images(x), y)

    @override
    @torch.no_grad()
    def support_gradient(self, params: Tensors, x: Tensor, y: Tensor, names: Iterable[str]) -> Params:
        names = list(names)
        gradient = loss_pass(params, self._images(x), y, first_block=first_needed(names)).gradient
        return {name: gradient[name] for name in names}

    @override
    @torch.no_grad()
    def statistics(self, params: Tensors, x: Tensor) -> dict[str, Tensor]:
        kept = embed(params, as_images(x, self._blocks())).kept
        return {name: torch.stack([block.mean, block.rstd]) for name, block in zip(BLOCKS, kept, strict=True)}

    @override
    @torch.no_grad()
    def activations(self, params: Tensors, x: Tensor, statistics: Statistics | None = None) -> dict[str, Tensor]:
        return dict(zip(BLOCKS, activations(self._images(x, statistics), params), strict=True))

    @override
    @torch.no_grad()
    def features(self, params: Tensors, x: Tensor, statistics: Statistics | None = None) -> Tensor:
        images = self._images(x, statistics)
        return flatten(deque(activations(images, params), maxlen=1).pop(), images.groups)

    def _task(self, episode: Episode, *, inductive: bool) -> Task:
        """Return an episode (or several side by side), its query with the support before it if `inductive`."""
        support = self._images(episode.support_x)
        query = self._joined(episode, support) if inductive else self._images(episode.query_x)
        return Task(support, episode.support_y, query, episode.query_y)

    def _joined(self, episode: Episode, support: Images) -> Images:
        """Return support and query as one batch with the support's statistics."""
        x = torch.cat([episode.support_x, episode.query_x], -4)
        return as_images(x, self._blocks(first=episode.support_x.shape[-4]))

    def _images(self, x: Tensor, statistics: Statistics | None = None) -> Images:
        """Return images (n, C, H, W), or (G, n, C, H, W), with the blocks that compute on them."""
        if statistics is None:
            return as_images(x, self._blocks())
        return as_images(x, [ConvBlock(self.passes, self.precision, statistics[name]) for name in BLOCKS])

    def _blocks(self, *, first: int | None = None) -> list[ConvBlock]:
        return [ConvBlock(self.passes, self.precision, first=first)] * N_BLOCKS


class CompiledEngine(ExplicitEngine):
    """The explicit engine with its passes over memory, and the whole first block, in C on the CPU."""

    name = "compiled"
    passes = NativePasses()

    @override
    @classmethod
    def supports(cls, learner: Learner, device: torch.device) -> bool:
        return super().supports(learner, device) and device.type == "cpu" and library() is not None

    @override
    def _joined(self, episode: Episode, support: Images) -> Images:
        return _with_image_block(super()._joined(episode, support), support.x)

    @override
    def _images(self, x: Tensor, statistics: Statistics | None = None) -> Images:
        images = super()._images(x, statistics)
        return images if statistics is not None else _with_image_block(images, images.x)


def _with_image_block(images: Images, support: Tensor) -> Images:
    """Return the images with the faster first block, if it fits, and the statistics of `support`."""
    block = image_block(images.x, support)
    return images if block is None else images._replace(blocks=(block, *images.blocks[1:]))


def _rates_by_step(params: Tensors, inner_lr: Tensors, steps: Iterable[int]) -> list[Params]:
    return [{name: rate_at(rate, params[name], step) for name, rate in inner_lr.items()} for step in steps]
