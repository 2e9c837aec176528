"""The reference engine: a plain loop of `torch.autograd.grad` for any architecture. All other engines must agree."""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from typing_extensions import override

from nilr.episodes import Episode
from nilr.meta.engine.contract import Engine, ImageBytes, MetaGradient, Objective
from nilr.meta.inner_lr import rate_at
from nilr.metrics import accuracy
from nilr.models.learner import Learner, Params, Statistics, Tensors

Loss = Callable[[Tensors], Tensor]  # of parameters, by name
Order = Literal[0, 1, 2]

_COUNTED = 2  # images; batch norm needs more than one


class ReferenceEngine(Engine):
    """Autograd, one episode after another."""

    name = "reference"

    @override
    @classmethod
    def supports(cls, learner: Learner, device: torch.device) -> bool:
        return True

    @override
    def image_bytes(self, image_shape: tuple[int, int, int]) -> ImageBytes:
        """Count what autograd keeps on the CPU for two images of noise."""
        params = {name: value.requires_grad_() for name, value in self.learner.initial_params().items()}
        own = {value.untyped_storage().data_ptr() for value in params.values()}
        kept: dict[int, int] = {}

        def count(x: Tensor) -> Tensor:
            storage = x.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return x

        x = torch.rand(_COUNTED, *image_shape)
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            loss = self._loss(x.to(params["head.weight"].dtype), torch.arange(_COUNTED))(params)
            forward = sum(kept.values()) // _COUNTED
            gradient = torch.autograd.grad(loss, list(params.values()), create_graph=True, materialize_grads=True)
        step = sum(kept.values()) // _COUNTED
        del loss, gradient
        return ImageBytes(step, step, forward)

    @override
    def meta_gradient(self, params: Tensors, inner_lr: Tensors, batch: Episode, objective: Objective) -> MetaGradient:
        start = {name: value.detach().requires_grad_() for name, value in params.items()}
        learned = objective.algorithm.learns_rates
        rates = {name: value.detach().requires_grad_(learned) for name, value in inner_lr.items()}
        leaves = [*start.values(), *(rates.values() if learned else ())]
        total = [torch.zeros_like(leaf) for leaf in leaves]
        by_step = self.recompute and objective.algorithm.order == 2
        losses, accuracies = [], []
        for episode in (batch[i] for i in range(len(batch))):
            differentiate = self._by_step if by_step else self._at_once
            gradients, loss, logits = differentiate(start, rates, leaves, episode, objective)
            total = [a + b for a, b in zip(total, gradients, strict=True)]
            losses.append(loss.detach())
            accuracies.append(accuracy(logits.detach(), episode.query_y))
        mean = [value / len(batch) for value in total]
        return MetaGradient(
            query_loss=torch.stack(losses),
            accuracy=torch.stack(accuracies),
            params=dict(zip(start, mean[: len(start)], strict=True)),
            inner_lr=dict(zip(rates, mean[len(start) :], strict=True)) if learned else {},
        )

    def _at_once(
        self, start: Params, rates: Params, leaves: list[Tensor], episode: Episode, objective: Objective
    ) -> tuple[Sequence[Tensor], Tensor, Tensor]:
        """Return an episode's gradient in the leaves, its last query loss and its logits, by one backward pass."""
        algorithm, steps, loss_weights, inductive = objective
        support_loss = self._loss(episode.support_x, episode.support_y)
        adapted, query_losses = start, []
        for step in range(steps):
            adapted = adapt(support_loss, adapted, rates, steps=1, order=algorithm.order, first_step=step)
            if loss_weights is not None or step == steps - 1:
                loss, logits = self._query_loss(adapted, episode, inductive=inductive)
                query_losses.append(loss)
        weights = (1.0,) if loss_weights is None else loss_weights
        weighted = torch.stack([w * loss for w, loss in zip(weights, query_losses, strict=True)]).sum()
        return torch.autograd.grad(weighted, leaves, materialize_grads=True), loss, logits

    def _by_step(
        self, start: Params, rates: Params, leaves: list[Tensor], episode: Episode, objective: Objective
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return the same from the parameters of each step alone: differentiate one step at a time, last to first."""
        _, steps, loss_weights, inductive = objective
        support_loss = self._loss(episode.support_x, episode.support_y)
        trace = [start]
        for step in range(steps):
            trace.append(adapt(support_loss, trace[-1], rates, steps=1, first_step=step))
        v = [torch.zeros_like(value) for value in start.values()]
        of_rates = [torch.zeros_like(leaf) for leaf in leaves[len(start) :]]
        outcome: tuple[Tensor, Tensor] | None = None
        for step in reversed(range(steps)):
            after, before = (_leaves(trace[i]) for i in (step + 1, step))
            if loss_weights is not None or step == steps - 1:
                loss, logits = self._query_loss(after, episode, inductive=inductive)
                of_query = torch.autograd.grad(loss, list(after.values()), materialize_grads=True)
                weight = 1.0 if loss_weights is None else loss_weights[step]
                v = [a + weight * b for a, b in zip(v, of_query, strict=True)]
                outcome = outcome or (loss.detach(), logits.detach())
                del loss, logits
            moved = adapt(support_loss, before, rates, steps=1, order=2, first_step=step)
            inputs = [*before.values(), *leaves[len(start) :]]
            v = list(torch.autograd.grad(list(moved.values()), inputs, v, materialize_grads=True))
            of_rates = [a + b for a, b in zip(of_rates, v[len(start) :], strict=True)]
            v = v[: len(start)]
        if outcome is None:
            raise ValueError("a meta-gradient needs at least one inner step")
        return [*v, *of_rates], *outcome

    def _query_loss(self, params: Tensors, episode: Episode, *, inductive: bool) -> tuple[Tensor, Tensor]:
        statistics = self.learner.statistics(params, _plain(episode.support_x)) if inductive else None
        logits = self.learner.logits(params, _plain(episode.query_x), statistics)
        return cross_entropy(logits, episode.query_y), logits

    @override
    def adapt(
        self, params: Tensors, inner_lr: Tensors, x: Tensor, y: Tensor, *, steps: int, first_step: int = 0
    ) -> Params:
        return adapt(self._loss(x, y), params, inner_lr, steps=steps, first_step=first_step)

    @override
    def support_gradient(self, params: Tensors, x: Tensor, y: Tensor, names: Iterable[str]) -> Params:
        return _gradient(self._loss(x, y), params, names, order=0)

    @override
    @torch.no_grad()
    def statistics(self, params: Tensors, x: Tensor) -> dict[str, Tensor]:
        return self.learner.statistics(params, _plain(x))

    @override
    @torch.no_grad()
    def activations(self, params: Tensors, x: Tensor, statistics: Statistics | None = None) -> dict[str, Tensor]:
        return self.learner.activations(params, _plain(x), statistics)

    @override
    @torch.no_grad()
    def features(self, params: Tensors, x: Tensor, statistics: Statistics | None = None) -> Tensor:
        return self.learner.features(params, _plain(x), statistics)

    def _loss(self, x: Tensor, y: Tensor) -> Loss:
        """Return the mean cross-entropy of images (n, C, H, W) with labels (n,), as a function of parameters."""
        x = _plain(x)
        return lambda params: cross_entropy(self.learner.logits(params, x), y)


def adapt(
    loss: Loss, params: Tensors, inner_lr: Tensors, *, steps: int, order: Order = 0, first_step: int = 0
) -> Params:
    """Return the parameters after gradient steps on a loss; those without a rate are the tensors of `params`.

    Negative rates ascend; rates per step are those from `first_step` (see `rate_at`). The order 2 keeps the graph
    through the inner gradients (exact), 1 takes inner gradients as constants, 0 keeps no graph.
    """
    adapted = dict(params)
    for step in range(first_step, first_step + steps):
        gradients = _gradient(loss, adapted, inner_lr, order=order)
        with torch.set_grad_enabled(order > 0):
            for name, gradient in gradients.items():
                adapted[name] = adapted[name] - rate_at(inner_lr[name], gradient, step) * gradient
    return adapted


def _gradient(loss: Loss, params: Tensors, names: Iterable[str], *, order: Order) -> Params:
    """Return a loss's gradient with respect to the named parameters, differentiable if the order is 2."""
    with torch.enable_grad():
        moved = {name: params[name] for name in names}
        if order < 2:
            moved = {name: value.detach().requires_grad_() for name, value in moved.items()}
        gradients = torch.autograd.grad(loss({**params, **moved}), list(moved.values()), create_graph=order == 2)
    return dict(zip(moved, gradients, strict=True))


def _leaves(params: Tensors) -> Params:
    return {name: value.detach().requires_grad_() for name, value in params.items()}


def _plain(x: Tensor) -> Tensor:
    """Return images in (n, C, H, W) memory: torch's batch norm of channels-last tensors errs by 1e-4 on a CPU."""
    return x.contiguous()
