"""The explicit engines: convolutional bodies without an autograd graph, one episode per core; in torch, or in C."""

from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from typing_extensions import override

from nilr.episodes import Episode
from nilr.meta.engine.contract import Engine, ImageBytes, MetaGradient, Objective
from nilr.meta.engine.convolution import Convolution, TorchConvolution, WinogradConvolution
from nilr.meta.engine.image_block import image_block
from nilr.meta.engine.layer import ConvLayer
from nilr.meta.engine.native import library
from nilr.meta.engine.native_layer import NativeLayer
from nilr.meta.engine.network import Images, activations, as_images, flatten, loss_pass, moves_body, outputs
from nilr.meta.engine.passes import AtenPasses, NativePasses, Passes
from nilr.meta.engine.structure import Row, kept_numbers, rows_of
from nilr.meta.engine.trajectory import Task, TaskGradient, adapt, task_gradient
from nilr.meta.engine.workers import CoreSharing, Share, in_order, workers
from nilr.meta.inner_lr import rate_at
from nilr.metrics import accuracy
from nilr.models.conv_body import ConvBody
from nilr.models.learner import Learner, Params, Statistics, Tensors


class ExplicitEngine(Engine):
    """Forward, backward and Hessian-vector product of every `ConvBody` as plain tensor functions."""

    name = "explicit"
    has_precision = True
    passes: ClassVar[Passes] = AtenPasses()

    @override
    @classmethod
    def supports(cls, learner: Learner, device: torch.device) -> bool:
        return learner.inputs is None and isinstance(learner.body, ConvBody)

    @override
    def image_bytes(self, image_shape: tuple[int, int, int]) -> ImageBytes:
        kept = kept_numbers(self._rows(), *image_shape[1:])
        # a pass works with two planes beside those that it keeps: the gradients in a convolution's input and output
        product, loss = kept.tangent + 2 * kept.largest, kept.forward - kept.made_again + 2 * kept.largest
        return ImageBytes(4 * (kept.forward + kept.backward), 4 * product, 4 * loss)

    @override
    def meta_gradient(self, params: Tensors, inner_lr: Tensors, batch: Episode, objective: Objective) -> MetaGradient:
        return self.meta_gradients([params], [inner_lr], [batch], objective)[0]

    @override
    @torch.no_grad()
    def meta_gradients(
        self, params: Sequence[Tensors], inner_lr: Sequence[Tensors], episodes: Sequence[Episode], objective: Objective
    ) -> list[MetaGradient]:
        """Return the meta-gradients of several models; the episodes of all models share the cores."""
        algorithm, steps, weights, inductive = objective
        learned = algorithm.learns_rates
        rates = [_rates_by_step(start, lr, range(steps)) for start, lr in zip(params, inner_lr, strict=True)]
        totals: list[Params] = [{} for _ in params]
        totals_lr = [{name: torch.zeros_like(value) for name, value in lr.items() if learned} for lr in inner_lr]
        losses, accuracies = [list[Tensor]() for _ in params], [list[Tensor]() for _ in params]

        def gradient_of(item: tuple[int, int]) -> TaskGradient:
            model, i = item
            task = self._task(episodes[model][i], inductive=inductive)
            how = {"exact": algorithm.order == 2, "recompute": self.recompute, "learned": learned}
            return task_gradient(params[model], rates[model], task, weights=weights, **how)

        items = [(model, i) for model, batch in enumerate(episodes) for i in range(len(batch))]
        device, at_most = episodes[0].query_x.device, self.episode_chunk
        with self._share(len(items), workers(device, at_most)) as (at_once, cores):
            found = in_order(gradient_of, items, device=device, at_most=at_once, cores=cores)
            for (model, i), gradient in zip(items, found, strict=True):
                total = totals[model]
                for name, value in gradient.params.items():
                    total[name] = total[name].add_(value) if name in total else value.contiguous()
                for step, change in enumerate(gradient.rates):
                    for name, value in totals_lr[model].items():
                        of_step = rate_at(value, change[name], step)
                        of_step += change[name].sum_to_size(of_step.shape)
                losses[model].append(gradient.loss)
                accuracies[model].append(accuracy(gradient.logits, episodes[model].query_y[i]))
        gradients = []
        for model, batch in enumerate(episodes):
            for value in (*totals[model].values(), *totals_lr[model].values()):
                value /= len(batch)
            loss, right = torch.stack(losses[model]), torch.stack(accuracies[model])
            ordered = {name: totals[model][name] for name in params[model]}
            gradients.append(MetaGradient(loss, right, ordered, totals_lr[model]))
        return gradients

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
        gradient = loss_pass(params, self._images(x), y, body=moves_body(names)).gradient
        return {name: gradient[name] for name in names}

    @override
    @torch.no_grad()
    def statistics(self, params: Tensors, x: Tensor) -> dict[str, Tensor]:
        return {
            unit.name: torch.stack(moments)
            for row, _, kept in outputs(self._as_images(x), params)
            for unit, moments in zip(row.branches, kept.moments, strict=True)
        }

    @override
    @torch.no_grad()
    def activations(self, params: Tensors, x: Tensor, statistics: Statistics | None = None) -> dict[str, Tensor]:
        return dict(activations(self._images(x, statistics), params))

    @override
    @torch.no_grad()
    def features(self, params: Tensors, x: Tensor, statistics: Statistics | None = None) -> Tensor:
        images = self._images(x, statistics)
        ((_, last),) = deque(activations(images, params), maxlen=1)
        return flatten(last, images.groups)

    def _share(self, n_items: int, at_once: int) -> AbstractContextManager[Share]:
        """Return how the episodes of an update share the cores."""
        return nullcontext(Share(at_once, 1))

    def _task(self, episode: Episode, *, inductive: bool) -> Task:
        """Return an episode (or several side by side), its query with the support before it if `inductive`."""
        support = self._images(episode.support_x)
        query = self._joined(episode, support) if inductive else self._images(episode.query_x)
        return Task(support, episode.support_y, query, episode.query_y)

    def _joined(self, episode: Episode, support: Images) -> Images:
        """Return support and query as one batch with the support's statistics."""
        x = torch.cat([episode.support_x, episode.query_x], -4)
        return self._as_images(x, first=episode.support_x.shape[-4])

    def _images(self, x: Tensor, statistics: Statistics | None = None) -> Images:
        """Return images (n, C, H, W), or (G, n, C, H, W), with the layers that compute on them."""
        return self._as_images(x, statistics)

    def _as_images(self, x: Tensor, statistics: Statistics | None = None, *, first: int | None = None) -> Images:
        rows = self._rows()
        layers = [self._layer(row, statistics, first) for row in rows]
        return as_images(x, rows, layers, self.passes.memory_format, mean=self._body.mean, first=first or 0)

    @property
    def _body(self) -> ConvBody:
        return cast(ConvBody, self.learner.body)  # `supports` checks it

    def _rows(self) -> tuple[Row, ...]:
        return rows_of(self._body.stages)

    def _layer(self, row: Row, statistics: Statistics | None, first: int | None) -> ConvLayer | NativeLayer:
        given = None if statistics is None else [statistics[unit.name] for unit in row.branches]
        return ConvLayer(self.passes, self._convolution(), row.slope, row.pool, given, first)

    def _convolution(self) -> Convolution:
        return TorchConvolution(self.passes.memory_format, self.precision)


class CompiledEngine(ExplicitEngine):
    """The explicit engine with its passes over memory, and Conv4's whole first block, in C on the CPU."""

    name = "compiled"
    passes = NativePasses()

    def __init__(self, learner: Learner, **options: Any) -> None:  # noqa: ANN401 - those of `Engine`
        super().__init__(learner, **options)
        self._sharing = CoreSharing()

    @override
    @classmethod
    def supports(cls, learner: Learner, device: torch.device) -> bool:
        return super().supports(learner, device) and device.type == "cpu" and library() is not None

    @property
    @override
    def settled(self) -> bool:
        return self._sharing.settled

    @override
    def _share(self, n_items: int, at_once: int) -> AbstractContextManager[Share]:
        return self._sharing.choose(n_items, at_once)

    @override
    def _layer(self, row: Row, statistics: Statistics | None, first: int | None) -> ConvLayer | NativeLayer:
        if len(row.branches) == 1 and statistics is None:
            return NativeLayer(self._convolution(), row.slope, row.pool, first)
        return super()._layer(row, statistics, first)

    @override
    def _joined(self, episode: Episode, support: Images) -> Images:
        return _with_image_block(super()._joined(episode, support), support.x)

    @override
    def _images(self, x: Tensor, statistics: Statistics | None = None) -> Images:
        images = super()._images(x, statistics)
        return images if statistics is not None else _with_image_block(images, images.x)


class WinogradEngine(CompiledEngine):
    """The compiled engine with Winograd's algorithm for 3x3 convolutions of 16, 32, 48, ... channels."""

    name = "winograd"

    @override
    def _convolution(self) -> Convolution:
        direct = super()._convolution()
        return WinogradConvolution(direct) if self.precision is None else direct


def _with_image_block(images: Images, support: Tensor) -> Images:
    """Return the images with the faster first block, if it fits, and the statistics of `support`."""
    row = images.rows[0]
    fits = len(row.branches) == 1 and row.branches[0].kernel == 3 and row.slope == 0 and row.pool
    fits = fits and all(0 not in other.inputs for other in images.rows[1:])
    block = image_block(images.x, support, row.branches[0].out_channels) if fits else None
    return images if block is None else images._replace(layers=(block, *images.layers[1:]))


def _rates_by_step(params: Tensors, inner_lr: Tensors, steps: Iterable[int]) -> list[Params]:
    return [{name: rate_at(rate, params[name], step) for name, rate in inner_lr.items()} for step in steps]
