"""First-order transfer: how the steps of an inner loop change the loss of another set of images.

With the query loss L of the evaluated episode, the meta-initialisation theta, the gradient g of L at theta and the
displacement d of an inner loop, L changes by g . d to first order (Guiroy, Verma, Pal: Towards Understanding
Generalization in Gradient-Based Meta-Learning, 2019, for inner products of the gradients of tasks). The sum runs over
elements, so its part of any elements, and of steps with rates of one sign, is exact.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nilr.episodes import Episode
from nilr.meta.engine.contract import Engine
from nilr.meta.inner_lr import rate_at
from nilr.models.learner import Params, Tensors
from nilr.probes.edits import adapt
from nilr.probes.features import BatchStats

Sign = Literal["positive", "negative"]


@dataclass(frozen=True)
class Adaptation:
    """An inner loop that has run, from the parameters `start` to the parameters `end`."""

    engine: Engine
    start: Tensors
    end: Tensors
    inner_lr: Tensors  # the rates that it used, which name what it moved
    support: tuple[Tensor, Tensor]  # images and labels
    steps: int
    norm_matched: bool = False  # as in `nilr.probes.edits.adapt`

    @cached_property
    def displacement(self) -> Params:
        """The whole displacement, float64."""
        return {name: self.end[name].double() - self.start[name].double() for name in self.inner_lr}

    @cached_property
    def displacement_by_sign(self) -> Mapping[Sign, Params]:
        """The sum of the steps in which an element's rate is positive, and of those in which it is negative, float64.

        Rates per step may change their sign, so the loop then runs again, step by step.
        """
        zero = {name: torch.zeros_like(self.start[name], dtype=torch.float64) for name in self.inner_lr}
        positive, negative, at = zero, dict(zero), self.start
        per_step = any(rate.dim() > self.start[name].dim() for name, rate in self.inner_lr.items())
        for step in range(self.steps) if per_step else (0,):
            to = self._step(at, step) if per_step else self.end
            for name, rate in self.inner_lr.items():
                moved = to[name].double() - at[name].double()
                # a norm-matched step goes along the gradient, whatever the rate's sign
                of_step = torch.ones_like(moved) if self.norm_matched else rate_at(rate, moved, step)
                positive[name] = positive[name] + torch.where(of_step > 0, moved, 0.0)
                negative[name] = negative[name] + torch.where(of_step < 0, moved, 0.0)
            at = to
        return {"positive": positive, "negative": negative}

    def _step(self, params: Tensors, step: int) -> Tensors:
        matched = self.norm_matched
        return adapt(self.engine, params, self.inner_lr, self.support, steps=1, norm_matched=matched, first_step=step)


def query_gradient(engine: Engine, params: Tensors, episode: Episode, batch_stats: BatchStats) -> Params:
    """Return the gradient of an episode's mean query loss in all parameters.

    Batch statistics count as functions of the parameters: those of the queries, of support and queries together, or of
    the support (`inductive`).
    """
    if batch_stats == "apart":
        return engine.support_gradient(params, episode.query_x, episode.query_y, params)
    learner, support_x, query_x = engine.learner, episode.support_x.contiguous(), episode.query_x.contiguous()
    with torch.enable_grad():
        at = {name: value.detach().requires_grad_() for name, value in params.items()}
        if batch_stats == "together":
            logits = learner.logits(at, torch.cat([support_x, query_x]))[len(support_x) :]
        else:
            logits = learner.logits(at, query_x, learner.statistics(at, support_x))
        gradient = torch.autograd.grad(cross_entropy(logits, episode.query_y), list(at.values()))
    return dict(zip(at, gradient, strict=True))
