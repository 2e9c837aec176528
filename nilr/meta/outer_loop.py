"""The outer loop: query loss through the inner loop -> meta-gradient -> Adam step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nilr.episodes import Episode
from nilr.errors import CheckpointError, DivergedError
from nilr.meta.algorithms import Algorithm
from nilr.meta.engine.contract import Engine, MetaGradient
from nilr.models.learner import Learner, Params, layer

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
_DIVERGED_HINT = "lower --inner-lr or --outer-lr, or set --grad-clip; the last good checkpoint is kept"


@dataclass(frozen=True)
class OuterSettings:
    """How an outer step is taken.

    Attributes:
        outer_lr: Adam's rate.
        grad_clip: bound on every element of the meta-gradient, or None.
        inner_steps: steps of the inner loop.
    """

    outer_lr: float
    grad_clip: float | None
    inner_steps: int


class OuterLoop:
    """The state of a training: meta-initialisation, inner rates, Adam's moments.

    Args:
        learner: body and head.
        algorithm: the row.
        params: the meta-initialisation to start from, by name; not modified.
        inner_lr: the rates to start from, by name; not modified.
        engine: what computes meta-gradients.
        settings: how a step is taken.
    """

    def __init__(
        self,
        learner: Learner,
        algorithm: Algorithm,
        params: Mapping[str, Tensor],
        inner_lr: Mapping[str, Tensor],
        *,
        engine: Engine,
        settings: OuterSettings,
    ) -> None:
        self.learner, self.algorithm, self.engine, self.settings = learner, algorithm, engine, settings
        self.params: Params = {name: value.detach().clone() for name, value in params.items()}
        self.inner_lr: Params = {name: value.detach().clone() for name, value in inner_lr.items()}
        self._optimiser = torch.optim.Adam(self._learned().values(), lr=settings.outer_lr)

    def step(self, episodes: Episode, *, outer_step: int, first_episode: int) -> MetaGradient:
        """Take one outer step on a batch of episodes.

        Args:
            episodes: the batch, with a leading E.
            outer_step: number of updates completed so far; named in errors.
            first_episode: number of the first episode of the batch; named in errors.

        Raises:
            DivergedError: a query loss or a meta-gradient is not finite. Nothing has been changed then.
        """
        gradient = self.engine.meta_gradient(
            self.learner, self.params, self.inner_lr, self.algorithm, episodes, steps=self.settings.inner_steps
        )
        _require_finite(gradient, outer_step, first_episode)
        for name, value in self._learned().items():
            section, _, key = name.partition("/")
            given = gradient.params[key] if section == "params" else gradient.inner_lr[key]
            clip = self.settings.grad_clip
            value.grad = given if clip is None else given.clamp(-clip, clip)
        self._optimiser.step()
        self._optimiser.zero_grad()
        return gradient

    def state(self) -> dict[str, Tensor]:
        """Return all that resuming needs: parameters, rates and Adam's moments, by name."""
        state = {f"params/{name}": value for name, value in self.params.items()}
        state |= {f"inner_lr/{name}": value for name, value in self.inner_lr.items()}
        for name, value in self._learned().items():
            for moment, tensor in self._optimiser.state.get(value, {}).items():
                state[f"adam/{moment}/{name}"] = tensor
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned, bit for bit.

        Raises:
            CheckpointError: a tensor is missing or has another shape.
        """
        try:
            for section, own in (("params", self.params), ("inner_lr", self.inner_lr)):
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
            self._optimiser.state[value] = moments

    def _learned(self) -> dict[str, Tensor]:
        learned = {f"params/{name}": value for name, value in self.params.items()}
        if self.algorithm.learns_rates:
            learned |= {f"inner_lr/{name}": value for name, value in self.inner_lr.items()}
        return learned


def share_negative(inner_lr: Mapping[str, Tensor]) -> float:
    """Return the share of negative elements among all inner rates."""
    negative = sum(int((rate < 0).sum()) for rate in inner_lr.values())
    return negative / sum(rate.numel() for rate in inner_lr.values())


def share_negative_by_layer(inner_lr: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the same for the rates of each layer, by the layer's name."""
    layers = sorted({layer(name) for name in inner_lr})
    return {
        wanted: share_negative({name: rate for name, rate in inner_lr.items() if layer(name) == wanted})
        for wanted in layers
    }


def _same_shape(tensor: Tensor, like: Tensor, name: str) -> Tensor:
    if tensor.shape != like.shape:
        raise CheckpointError(f"`{name}` has shape {tuple(tensor.shape)} and not {tuple(like.shape)}")
    return tensor


def _require_finite(gradient: MetaGradient, outer_step: int, first_episode: int) -> None:
    broken = (~gradient.query_loss.isfinite()).nonzero()
    if len(broken):
        i = int(broken[0])
        raise DivergedError(
            f"the query loss is {gradient.query_loss[i]} at outer step {outer_step}, episode {first_episode + i}",
            hint=_DIVERGED_HINT,
        )
    for name, value in (gradient.params | gradient.inner_lr).items():
        if not bool(value.isfinite().all()):
            raise DivergedError(
                f"the meta-gradient in `{name}` is not finite at outer step {outer_step}, "
                f"episodes {first_episode} to {first_episode + len(gradient.query_loss) - 1}",
                hint=_DIVERGED_HINT,
            )
