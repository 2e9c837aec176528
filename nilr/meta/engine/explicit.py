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
from nilr.meta.engine.network import Images, activations, as_images, first_needed, flatten, loss_pass
from nilr.meta.engine.passes import AtenPasses, NativePasses, Passes
from nilr.meta.engine.trajectory import Task, TaskGradient, adapt, task_gradient
from nilr.meta.engine.workers import in_order
from nilr.meta.inner_lr import rate_at
from nilr.metrics import accuracy
from nilr.models.conv4 import BLOCKS, Conv4
from nilr.models.learner import Learner, Params, Tensors


class ExplicitEngine(Engine):
    """Forward, backward and Hessian-vector product of Conv4 as plain tensor functions."""

    name = "explicit"
    has_precision = True
    passes: ClassVar[Passes] = AtenPasses()

    @override
    @classmethod
    def supports(cls, learner: Learner, device: torch.device) -> bool:
        return isinstance(learner.body, Conv4)

    @override
    @torch.no_grad()
    def meta_gradient(self, params: Tensors, inner_lr: Tensors, batch: Episode, objective: Objective) -> MetaGradient:
        algorithm, steps, weights = objective
        total = {name: torch.zeros_like(value) for name, value in params.items()}
        total_lr = {name: torch.zeros_like(value) for name, value in inner_lr.items() if algorithm.learns_rates}
        rates = _rates_by_step(params, inner_lr, range(steps))
        losses, accuracies = list[Tensor](), list[Tensor]()

        def gradient_of(i: int) -> TaskGradient:
            episode = batch[i]
            support, query = self._images(episode.support_x), self._images(episode.query_x)
            task = Task(support, episode.support_y, query, episode.query_y)
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
    def activations(self, params: Tensors, x: Tensor) -> dict[str, Tensor]:
        return dict(zip(BLOCKS, activations(self._images(x), params), strict=True))

    @override
    @torch.no_grad()
    def features(self, params: Tensors, x: Tensor) -> Tensor:
        images = self._images(x)
        return flatten(deque(activations(images, params), maxlen=1).pop(), images.groups)

    def _images(self, x: Tensor) -> Images:
        """Return images (n, C, H, W), or (G, n, C, H, W), with the blocks that compute on them."""
        return as_images(x, ConvBlock(self.passes, self.precision))


class CompiledEngine(ExplicitEngine):
    """The explicit engine with its passes over memory, and the whole first block, in C on the CPU."""

    name = "compiled"
    passes = NativePasses()

    @override
    @classmethod
    def supports(cls, learner: Learner, device: torch.device) -> bool:
        return super().supports(learner, device) and device.type == "cpu" and library() is not None

    @override
    def _images(self, x: Tensor) -> Images:
        images = super()._images(x)
        first = image_block(images.x)
        return images if first is None else images._replace(blocks=(first, *images.blocks[1:]))


def _rates_by_step(params: Tensors, inner_lr: Tensors, steps: Iterable[int]) -> list[Params]:
    return [{name: rate_at(rate, params[name], step) for name, rate in inner_lr.items()} for step in steps]
