"""The outer loop: query loss through the inner loop -> meta-gradient -> Adam step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nilr.episodes import Episode
from nilr.errors import CheckpointError, DivergedError
from nilr.meta.algorithms import Algorithm
from nilr.meta.engine.contract import Engine, MetaGradient
from nilr.meta.rates import inner_rates, keep_within, learned_gradient
from nilr.meta.schedules import OuterLRSchedule, cosine, multi_step_weights
from nilr.models.learner import Learner, Params

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
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


class OuterLoop:
    """The state of a training: meta-initialisation, learned (or fixed) rates, Adam's moments.

    Args:
        learner: body and head.
        algorithm: the row.
        params: the meta-initialisation to start from, by name; not modified.
        rates: the learned numbers or fixed rates to start from, as `initial_rates` gives them; not modified.
        engine: what computes meta-gradients.
        settings: how a step is taken.
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
    ) -> None:
        self.learner, self.algorithm, self.engine, self.settings = learner, algorithm, engine, settings
        self.params: Params = {name: value.detach().clone() for name, value in params.items()}
        self._rates: Params = {name: value.detach().clone() for name, value in rates.items()}
        self._optimiser = torch.optim.Adam(self._learned().values(), lr=settings.outer_lr)

    @property
    def inner_lr(self) -> Params:
        """The rates that the inner loop takes, by parameter name."""
        return inner_rates(self.algorithm, self._rates, self.params)

    def step(self, episodes: Episode, *, outer_step: int, first_episode: int) -> MetaGradient:
        """Take one outer step on a batch of episodes.

        Args:
            episodes: the batch, with a leading E.
            outer_step: number of updates completed so far.
            first_episode: number of the first episode of the batch; named in errors.

        Raises:
            DivergedError: a query loss or a meta-gradient is not finite. Nothing has been changed then.
        """
        gradient = meta_gradients([self], [episodes], outer_step=outer_step)[0]
        self.take(gradient, outer_step=outer_step, first_episode=first_episode)
        return gradient

    def take(self, gradient: MetaGradient, *, outer_step: int, first_episode: int) -> None:
        """Take one outer step along a meta-gradient that was computed here.

        Args:
            gradient: of the query losses in the parameters and in the inner rates.
            outer_step: number of updates completed so far.
            first_episode: number of the first episode of the batch; named in errors.

        Raises:
            DivergedError: a query loss or a meta-gradient is not finite. Nothing has been changed then.
        """
        settings = self.settings
        _require_finite(gradient, outer_step, first_episode, settings.grad_clip)
        given = {f"params/{name}": value for name, value in gradient.params.items()}
        given |= {f"inner_lr/{n}": g for n, g in learned_gradient(self.algorithm, gradient.inner_lr).items()}
        for name, value in self._learned().items():
            clip = settings.grad_clip
            value.grad = given[name] if clip is None else given[name].clamp(-clip, clip)
        if settings.outer_lr_schedule == "cosine":
            self._optimiser.param_groups[0]["lr"] = settings.outer_lr * cosine(outer_step, settings.outer_steps)
        self._optimiser.step()
        self._optimiser.zero_grad()
        if self.algorithm.learns_rates:
            keep_within(self.algorithm, self._rates)

    def state(self) -> dict[str, Tensor]:
        """Return all that resuming needs: parameters, rates and Adam's moments, by name."""
        state = {f"params/{name}": value for name, value in self.params.items()}
        state |= {f"inner_lr/{name}": value for name, value in self._rates.items()}
        for name, value in self._learned().items():
            for moment, tensor in self._optimiser.state.get(value, {}).items():
                state[f"adam/{moment}/{name}"] = tensor
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
        for name, value in self._learned().items():
            moments = {moment: state[f"adam/{moment}/{name}"].clone() for moment in _MOMENTS}
            for moment in ("exp_avg", "exp_avg_sq"):
                moments[moment] = _same_shape(moments[moment], value, name).to(value.device)
            _same_shape(moments["step"], value.new_empty(()), f"adam/step/{name}")
            if moments["step"] < 0 or (moments["exp_avg_sq"] < 0).any():
                raise CheckpointError(f"the state of Adam for `{name}` is none", hint="start afresh")
            self._optimiser.state[value] = moments

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


def meta_gradients(outers: Sequence[OuterLoop], batches: Sequence[Episode], *, outer_step: int) -> list[MetaGradient]:
    """Return each outer loop's meta-gradient on its own batch; but for seeds, they are all of one make.

    Args:
        outers: loops of one architecture, algorithm, engine and settings.
        batches: a batch for each, with a leading E.
        outer_step: number of updates that all have completed.
    """
    first = outers[0]
    return first.engine.meta_gradients(
        first.learner,
        [outer.params for outer in outers],
        [outer.inner_lr for outer in outers],
        batches,
        first.algorithm,
        steps=first.settings.inner_steps,
        loss_weights=first.loss_weights(outer_step),
    )


def _same_shape(tensor: Tensor, like: Tensor, name: str) -> Tensor:
    if tensor.shape != like.shape:
        raise CheckpointError(f"`{name}` has shape {tuple(tensor.shape)} and not {tuple(like.shape)}")
    if not tensor.is_floating_point() or not tensor.isfinite().all():
        raise CheckpointError(f"`{name}` of the training state is not finite numbers", hint="start afresh")
    return tensor


def _require_finite(gradient: MetaGradient, outer_step: int, first_episode: int, clip: float | None) -> None:
    broken = (~gradient.query_loss.isfinite()).nonzero()
    if len(broken):
        i = int(broken[0])
        raise DivergedError(
            f"the query loss is {gradient.query_loss[i]} at outer step {outer_step}, episode {first_episode + i}",
            hint=_DIVERGED_HINT,
        )
    for name, value in (gradient.params | gradient.inner_lr).items():
        taken = value if clip is None else value.clamp(-clip, clip)
        # an infinite square would stay in Adam's second moment, and its number never move again
        if not bool((value.isfinite() & taken.square().isfinite()).all()):
            what = "is too large for Adam" if bool(value.isfinite().all()) else "is not finite"
            raise DivergedError(
                f"the meta-gradient in `{name}` {what} at outer step {outer_step}, "
                f"episodes {first_episode} to {first_episode + len(gradient.query_loss) - 1}",
                hint=_DIVERGED_HINT,
            )
