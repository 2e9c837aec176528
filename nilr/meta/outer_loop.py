"""The outer loop: query loss through the inner loop -> meta-gradient -> Adam step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim.adam import adam

from nilr.episodes import Episode
from nilr.errors import CheckpointError, DivergedError
from nilr.meta.algorithms import Algorithm
from nilr.meta.cuda_graphs import Capture, Captured
from nilr.meta.engine.contract import Engine, LossWeights, MetaGradient, Objective
from nilr.meta.inner_lr import (
    FIXED_SIGNS,
    inner_rates,
    keep_signs,
    keep_within,
    learned_gradient,
    scale_to_norms,
)
from nilr.models.learner import Params, Tensors

OuterLRSchedule = Literal["constant", "cosine"]

# In the published code: 15 of 100 epochs of 500 updates, and at least 3 % of an even share until they end.
_MULTI_STEP_SHARE, _LEAST_SHARE = 0.15, 0.03

_DIVERGED_HINT = "lower --inner-lr or --outer-lr, or set --grad-clip; or skip such updates with --on-nan skip"
_RESTART = "restart the training with --force"


@dataclass(frozen=True)
class OuterSettings:
    """How an outer step is taken."""

    outer_lr: float  # Adam's rate
    grad_clip: float | None  # bound on every element of the meta-gradient, or None
    inner_steps: int  # gradient steps of the inner loop
    outer_steps: int  # updates of the whole run; the two schedules below depend on it
    outer_lr_schedule: OuterLRSchedule = "constant"  # whether Adam's rate is constant or falls (see `cosine`)
    # whether the query losses after earlier inner steps count at first (see `multi_step_weights`)
    multi_step_loss: bool = False
    inductive: bool = False  # of `Objective`


class Report(NamedTuple):
    """Mean query loss and accuracy of a batch, and whether Adam can use its losses and meta-gradient."""

    query_loss: float
    accuracy: float
    finite: bool


class OuterLoop:
    """The state of a training: meta-initialisation, learned (or fixed) rates, Adam's moments.

    An outer step has three parts: `meta_gradients` computes the meta-gradient of a batch, `stage` clips and checks it,
    and `apply` takes Adam's step along it.

    Args:
        algorithm: the row.
        params: the meta-initialisation at the start, by name; not modified.
        rates: the learned numbers or fixed rates at the start, from `initial_rates`; not modified.
        engine: computes meta-gradients.
        settings: how a step is taken.
        rate_norms: Euclidean norms, of shape (), to which the learned numbers are scaled after every step, by name.
        capture: how the work of a step is captured; None: it is not captured. Captured work uses torch's fused Adam,
            with its step counts and rate on the device; other work uses the plain one. They round differently.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        params: Tensors,
        rates: Tensors,
        *,
        engine: Engine,
        settings: OuterSettings,
        rate_norms: Tensors | None = None,
        capture: Capture | None = None,
    ) -> None:
        engine.learner.body.check_order(algorithm.order)
        self.algorithm, self.engine, self.settings, self.capture = algorithm, engine, settings, capture
        self.params: Params = {name: value.detach().clone() for name, value in params.items()}
        self._rates: Params = {name: value.detach().clone() for name, value in rates.items()}
        self._signs = {n: value.sign() for n, value in rates.items()} if algorithm.constraint == FIXED_SIGNS else {}
        self._norms: Params = {name: value.detach().clone() for name, value in (rate_norms or {}).items()}
        self._gradient = {name: torch.zeros_like(value) for name, value in self._learned().items()}
        self._moments = {name: self._no_moments(value) for name, value in self._learned().items()}
        rate = settings.outer_lr
        self._rate = rate if capture is None else torch.tensor(rate, device=next(iter(params.values())).device)
        self._adam = Captured(self._adam_step, capture, changes=lambda: self.state().values())

    @property
    def inner_lr(self) -> Params:
        """The rates that the inner loop uses, by parameter name."""
        return inner_rates(self.algorithm, self._rates, self.params, self.engine.learner.kinds)

    @property
    def captured(self) -> bool | None:
        """Whether its work is captured; None before the first attempt."""
        return None if self.capture is None else self.capture.works

    def stage(self, gradient: MetaGradient) -> Tensor:
        """Clip and keep a meta-gradient for `apply`, and return the numbers of its `Report`, (3,).

        Nothing in it waits for the device.
        """
        clip = self.settings.grad_clip
        for name, value in self._by_learned_name(gradient).items():
            self._gradient[name].copy_(value if clip is None else value.clamp(-clip, clip))
        # An infinite square would stay in Adam's second moment, and its number would never move again.
        largest = get_total_norm(self._gradient.values(), math.inf).square()
        finite = largest.isfinite() & gradient.query_loss.isfinite().all()
        return torch.stack([n.double() for n in (gradient.query_loss.mean(), gradient.accuracy.mean(), finite)])

    def apply(self, gradient: MetaGradient, report: Report, *, outer_step: int, first_episode: int) -> None:
        """Take Adam's step along the staged meta-gradient, after `outer_step` completed updates.

        Raises:
            DivergedError: a query loss or a meta-gradient is not finite. Nothing has changed then.
        """
        if not report.finite:
            raise self._diverged(gradient, outer_step, first_episode)
        if self.settings.outer_lr_schedule == "cosine":
            rate = self.settings.outer_lr * cosine(outer_step, self.settings.outer_steps)
            self._rate = self._rate.fill_(rate) if isinstance(self._rate, Tensor) else rate
        self._adam()

    @torch.no_grad()
    def _adam_step(self) -> None:
        """Take a step of Adam (Kingma, Ba: Adam: A Method for Stochastic Optimization, 2015)."""
        captured, moments = self.capture is not None, self._moments.values()
        adam(
            list(self._learned().values()),
            list(self._gradient.values()),
            [moment["exp_avg"] for moment in moments],
            [moment["exp_avg_sq"] for moment in moments],
            max_exp_avg_sqs=[],
            state_steps=[moment["step"] for moment in moments],
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
            keep_signs(self._rates, self._signs)
            scale_to_norms(self._rates, self._norms)

    def state(self) -> dict[str, Tensor]:
        """Return everything that resuming needs, by name: parameters, rates, their norms and Adam's moments."""
        state = {f"params/{name}": value for name, value in self.params.items()}
        state |= {f"inner_lr/{name}": value for name, value in self._rates.items()}
        state |= {f"rate_norm/{name}": value for name, value in self._norms.items()}
        for name, moments in self._moments.items():
            state |= {f"adam/{moment}/{name}": value for moment, value in moments.items()}
        return state

    def load_state(self, state: Tensors) -> None:
        """Restore what `state` returned, bit for bit.

        Raises:
            CheckpointError: a tensor is missing, has another shape, or holds invalid values.
        """
        with_moments = any(name.startswith("adam/") for name in state)
        for name, value in self.state().items():
            if with_moments or not name.startswith("adam/"):
                value.copy_(_checked(state, name, value))

    def _no_moments(self, value: Tensor) -> Params:
        """Return Adam's state before the first step; without capture, the step count is on the CPU."""
        step = torch.zeros((), device="cpu" if self.capture is None else value.device)
        return {"step": step, "exp_avg": torch.zeros_like(value), "exp_avg_sq": torch.zeros_like(value)}

    def _by_learned_name(self, gradient: MetaGradient) -> Params:
        """Return a meta-gradient by the names that `_learned` uses."""
        named = {f"params/{name}": value for name, value in gradient.params.items()}
        return named | {f"inner_lr/{n}": g for n, g in learned_gradient(self.algorithm, gradient.inner_lr).items()}

    def _diverged(self, gradient: MetaGradient, outer_step: int, first_episode: int) -> DivergedError:
        """Return the error that names what is not finite."""
        losses = gradient.query_loss
        broken = (~losses.isfinite()).nonzero()
        if len(broken):
            i = int(broken[0])
            message = f"the query loss is {losses[i]} at outer step {outer_step}, episode {first_episode + i}"
            return DivergedError(message, hint=_DIVERGED_HINT)
        largest = {name: value.abs().max() for name, value in self._gradient.items()}
        name = next(name for name, value in largest.items() if not value.square().isfinite())
        tensor = name.removeprefix("params/").replace("inner_lr/", "the rate of ", 1)
        problem = "is too large for Adam" if largest[name].isfinite() else "is not finite"
        return DivergedError(
            f"the meta-gradient in `{tensor}` {problem} at outer step {outer_step}, episodes {first_episode} to "
            f"{first_episode + len(losses) - 1}",
            hint=_DIVERGED_HINT,
        )

    def _learned(self) -> dict[str, Tensor]:
        learned = {f"params/{name}": value for name, value in self.params.items()}
        if self.algorithm.learns_rates:
            learned |= {f"inner_lr/{name}": value for name, value in self._rates.items()}
        return learned

    def loss_weights(self, outer_step: int) -> tuple[float, ...] | None:
        """Return the weights of the query losses after each inner step; None: only the last one counts."""
        s = self.settings
        return multi_step_weights(outer_step, s.outer_steps, s.inner_steps) if s.multi_step_loss else None


def meta_gradients(
    outers: Sequence[OuterLoop], batches: Sequence[Episode], loss_weights: LossWeights | None
) -> list[MetaGradient]:
    """Return the meta-gradient of each outer loop on its own batch; the loops differ only in their seed.

    No loop changes. `loss_weights` are those of `Objective`.
    """
    first = outers[0]
    return first.engine.meta_gradients(
        [outer.params for outer in outers],
        [outer.inner_lr for outer in outers],
        batches,
        Objective(first.algorithm, first.settings.inner_steps, loss_weights, first.settings.inductive),
    )


def cosine(outer_step: int, outer_steps: int) -> float:
    """Return the factor on Adam's rate: half a cosine, from 1 at the first update towards 0 after the last.

    Loshchilov, Hutter: SGDR: Stochastic Gradient Descent with Warm Restarts, 2017, without restarts; in MAML:
    Antoniou, Edwards, Storkey: How to train your MAML, 2019. `outer_step` counts completed updates.
    """
    return (1 + math.cos(math.pi * outer_step / outer_steps)) / 2


def multi_step_weights(outer_step: int, outer_steps: int, inner_steps: int) -> tuple[float, ...] | None:
    """Return the weights of the query losses after inner steps 1 to K; None: only the last one counts.

    All start at 1/K. Over the first 15 % of the run all but the last fall linearly, to no less than 0.03/K, and the
    last takes up the difference; after that only the last counts (Antoniou, Edwards, Storkey: How to train your MAML,
    2019; with the numbers of its code, which changes the weights once per epoch, not at every update).
    """
    progress = outer_step / (_MULTI_STEP_SHARE * outer_steps)
    if progress >= 1:
        return None
    earlier = max(1 - progress, _LEAST_SHARE) / inner_steps
    return (*(earlier,) * (inner_steps - 1), 1 - (inner_steps - 1) * earlier)


def _checked(state: Tensors, name: str, like: Tensor) -> Tensor:
    if name not in state:
        raise CheckpointError(f"the training state lacks the tensor `{name}`", hint=_RESTART)
    tensor, problem = state[name], None
    if tensor.shape != like.shape:
        problem = f"has shape {tuple(tensor.shape)}, expected {tuple(like.shape)}"
    elif not tensor.is_floating_point() or not tensor.isfinite().all():
        problem = "has values that are not finite"
    elif name.startswith(("adam/step/", "adam/exp_avg_sq/", "rate_norm/")) and (tensor < 0).any():
        problem = "has negative values"
    if problem is not None:
        raise CheckpointError(f"the tensor `{name}` of the training state {problem}", hint=_RESTART)
    return tensor
