"""The outer loop: query loss through the inner loop -> meta-gradient -> Adam step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim.adam import adam

from nilr.episodes import Episode
from nilr.errors import CheckpointError, DivergedError
from nilr.meta.algorithms import Algorithm
from nilr.meta.captured import Capture, Captured
from nilr.meta.engine.contract import Engine, LossWeights, MetaGradient
from nilr.meta.inner_lr import inner_rates, keep_within, learned_gradient
from nilr.meta.schedules import OuterLRSchedule, cosine, multi_step_weights
from nilr.models.learner import Learner, Params

_DIVERGED_HINT = "lower --inner-lr or --outer-lr, or set --grad-clip; or leave such updates out with --on-nan skip"


@dataclass(frozen=True)
class OuterSettings:
    """How an outer step is taken.

    Attributes:
        outer_lr: Adam's rate.
        grad_clip: bound on every element of the meta-gradient, or None.
        inner_steps: steps of the inner loop.
        outer_steps: updates of the whole run, over which the two below run.
        outer_lr_schedule: whether Adam's rate stays or falls (`nilr.meta.schedules.cosine`).
        multi_step_loss: whether the query losses after earlier steps count at first
            (`nilr.meta.schedules.multi_step_weights`).
    """

    outer_lr: float
    grad_clip: float | None
    inner_steps: int
    outer_steps: int
    outer_lr_schedule: OuterLRSchedule = "constant"
    multi_step_loss: bool = False


class Report(NamedTuple):
    """What is known of a meta-gradient: mean query loss and accuracy, and whether Adam may step along it."""

    query_loss: float
    accuracy: float
    sound: float


class OuterLoop:
    """The state of a training: meta-initialisation, learned (or fixed) rates, Adam's moments.

    Args:
        learner: body and head.
        algorithm: the row.
        params: the meta-initialisation to start from, by name; not modified.
        rates: the learned numbers or fixed rates to start from, as `initial_rates` gives them; not modified.
        engine: what computes meta-gradients.
        settings: how a step is taken.
        capture: whether and how the work of a step is captured; None: it is not. Captured, Adam is torch's fused
            one, whose steps and rate are on the device; else it is the plain one. They round differently.
    """

    def __init__(
        self,
        learner: Learner,
        algorithm: Algorithm,
        params: Mapping[str, Tensor],
        rates: Mapping[str, Tensor],
        *,
        engine: Engine,
        settings: OuterSettings,
        capture: Capture | None = None,
    ) -> None:
        self.learner, self.algorithm, self.engine, self.settings = learner, algorithm, engine, settings
        self.capture = capture
        self.params: Params = {name: value.detach().clone() for name, value in params.items()}
        self._rates: Params = {name: value.detach().clone() for name, value in rates.items()}
        self._gradient = {name: torch.zeros_like(value) for name, value in self._learned().items()}
        self._moments = {name: self._no_moments(value) for name, value in self._learned().items()}
        rate = settings.outer_lr
        self._rate = rate if capture is None else torch.tensor(rate, device=next(iter(params.values())).device)
        self._adam = Captured(self._follow, capture, changes=lambda: self.state().values())

    @property
    def inner_lr(self) -> Params:
        """The rates that the inner loop takes, by parameter name."""
        return inner_rates(self.algorithm, self._rates, self.params)

    @property
    def captured(self) -> bool | None:
        """Whether its work is captured; None where that was not tried."""
        return None if self.capture is None else self.capture.works

    def step(self, episodes: Episode, *, outer_step: int, first_episode: int) -> MetaGradient:
        """Take one outer step on a batch of episodes.

        Args:
            episodes: the batch, with a leading E.
            outer_step: number of updates completed so far.
            first_episode: number of the first episode of the batch; named in errors.

        Raises:
            DivergedError: a query loss or a meta-gradient is not finite. Nothing has been changed then.
        """
        gradient = meta_gradients([self], [episodes], self.loss_weights(outer_step))[0]
        report = Report(*self.receive(gradient).tolist())
        self.take(gradient, report, outer_step=outer_step, first_episode=first_episode)
        return gradient

    def receive(self, gradient: MetaGradient) -> Tensor:
        """Keep a meta-gradient for `take`, and return the numbers of its `Report` (3,); nothing waits for the device.

        Args:
            gradient: of the query losses in the parameters and in the inner rates.
        """
        clip = self.settings.grad_clip
        for name, value in self._given(gradient).items():
            self._gradient[name].copy_(value if clip is None else value.clamp(-clip, clip))
        # an infinite square would stay in Adam's second moment, and its number never move again
        largest = get_total_norm(self._gradient.values(), math.inf).square()
        sound = largest.isfinite() & gradient.query_loss.isfinite().all()
        return torch.stack([n.double() for n in (gradient.query_loss.mean(), gradient.accuracy.mean(), sound)])

    def take(self, gradient: MetaGradient, report: Report, *, outer_step: int, first_episode: int) -> None:
        """Take one outer step along the meta-gradient that was received last.

        Args:
            gradient: that one.
            report: what `receive` returned.
            outer_step: number of updates completed so far.
            first_episode: number of the first episode of the batch; named in errors.

        Raises:
            DivergedError: a query loss or a meta-gradient is not finite. Nothing has been changed then.
        """
        if not report.sound:
            raise self._diverged(gradient, outer_step, first_episode)
        settings = self.settings
        if settings.outer_lr_schedule == "cosine":
            rate = settings.outer_lr * cosine(outer_step, settings.outer_steps)
            self._rate = self._rate.fill_(rate) if isinstance(self._rate, Tensor) else rate
        self._adam()

    @torch.no_grad()
    def _follow(self) -> None:
        """Take a step of Adam (Kingma, Ba: Adam: A Method for Stochastic Optimization, 2015)."""
        captured, moments = self.capture is not None, self._moments.values()
        adam(
            list(self._learned().values()),
            list(self._gradient.values()),
            [own["exp_avg"] for own in moments],
            [own["exp_avg_sq"] for own in moments],
            max_exp_avg_sqs=[],
            state_steps=[own["step"] for own in moments],
            fused=captured or None,
            capturable=captured,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self._rate,
            weight_decay=0,
            eps=1e-8,
            maximize=False,
        )
        if self.algorithm.learns_rates:
            keep_within(self.algorithm, self._rates)

    def state(self) -> dict[str, Tensor]:
        """Return all that resuming needs: parameters, rates and Adam's moments, by name."""
        state = {f"params/{name}": value for name, value in self.params.items()}
        state |= {f"inner_lr/{name}": value for name, value in self._rates.items()}
        for name, moments in self._moments.items():
            state |= {f"adam/{moment}/{name}": value for moment, value in moments.items()}
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned, bit for bit.

        Raises:
            CheckpointError: a tensor is missing, has another shape, or holds what no training leaves.
        """
        try:
            for section, own in (("params", self.params), ("inner_lr", self._rates)):
                for name, value in own.items():
                    value.copy_(_same_shape(state[f"{section}/{name}"], value, name))
            if any(name.startswith("adam/") for name in state):
                self._load_moments(state)
        except KeyError as error:
            raise CheckpointError(f"the training state lacks the tensor {error}", hint="start afresh") from None

    def _load_moments(self, state: Mapping[str, Tensor]) -> None:
        for name, own in self._moments.items():
            moments = {m: _same_shape(state[f"adam/{m}/{name}"], value, f"adam/{m}/{name}") for m, value in own.items()}
            if moments["step"] < 0 or (moments["exp_avg_sq"] < 0).any():
                raise CheckpointError(f"the state of Adam for `{name}` is none", hint="start afresh")
            for moment, value in moments.items():
                own[moment].copy_(value)

    def _no_moments(self, value: Tensor) -> Params:
        """Return Adam's state before the first step; uncaptured, its count of steps is the host's."""
        step = torch.zeros((), device="cpu" if self.capture is None else value.device)
        return {"step": step, "exp_avg": torch.zeros_like(value), "exp_avg_sq": torch.zeros_like(value)}

    def _given(self, gradient: MetaGradient) -> Params:
        """Return a meta-gradient by the names of what is learned."""
        given = {f"params/{name}": value for name, value in gradient.params.items()}
        return given | {f"inner_lr/{n}": g for n, g in learned_gradient(self.algorithm, gradient.inner_lr).items()}

    def _diverged(self, gradient: MetaGradient, outer_step: int, first_episode: int) -> DivergedError:
        """Return the error that names what is not finite."""
        losses = gradient.query_loss
        broken = (~losses.isfinite()).nonzero()
        if len(broken):
            i = int(broken[0])
            said = f"the query loss is {losses[i]} at outer step {outer_step}, episode {first_episode + i}"
            return DivergedError(said, hint=_DIVERGED_HINT)
        largest = {name: value.abs().max() for name, value in self._gradient.items()}
        name = next(name for name, value in largest.items() if not value.square().isfinite())
        of = name.removeprefix("params/").replace("inner_lr/", "the rate of ", 1)
        return DivergedError(
            f"the meta-gradient in `{of}` {'is too large for Adam' if largest[name].isfinite() else 'is not finite'} "
            f"at outer step {outer_step}, episodes {first_episode} to {first_episode + len(losses) - 1}",
            hint=_DIVERGED_HINT,
        )

    def _learned(self) -> dict[str, Tensor]:
        learned = {f"params/{name}": value for name, value in self.params.items()}
        if self.algorithm.learns_rates:
            learned |= {f"inner_lr/{name}": value for name, value in self._rates.items()}
        return learned

    def loss_weights(self, outer_step: int) -> tuple[float, ...] | None:
        """Return the weights of the query losses after each inner step, or None where the last alone counts."""
        settings = self.settings
        if not settings.multi_step_loss:
            return None
        return multi_step_weights(outer_step, settings.outer_steps, settings.inner_steps)


def meta_gradients(
    outers: Sequence[OuterLoop], batches: Sequence[Episode], loss_weights: LossWeights | None
) -> list[MetaGradient]:
    """Return each outer loop's meta-gradient on its own batch; but for seeds, they are all of one make.

    Args:
        outers: loops of one architecture, algorithm, engine and settings.
        batches: a batch for each, with a leading E.
        loss_weights: of the query losses after each inner step; None: the last alone.
    """
    first = outers[0]
    return first.engine.meta_gradients(
        first.learner,
        [outer.params for outer in outers],
        [outer.inner_lr for outer in outers],
        batches,
        first.algorithm,
        steps=first.settings.inner_steps,
        loss_weights=loss_weights,
    )


def _same_shape(tensor: Tensor, like: Tensor, name: str) -> Tensor:
    if tensor.shape != like.shape:
        raise CheckpointError(f"`{name}` has shape {tuple(tensor.shape)} and not {tuple(like.shape)}")
    if not tensor.is_floating_point() or not tensor.isfinite().all():
        raise CheckpointError(f"`{name}` of the training state is not finite numbers", hint="start afresh")
    return tensor
