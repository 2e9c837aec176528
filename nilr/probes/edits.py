"""Edits of the inner rates at adaptation time: same model, same episodes, other rates.

A model with learned rates differs from one with fixed rates in all that its training changed. An edit changes only the
rates, so its effect is due to them.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from nilr.episodes import stream_seed
from nilr.errors import UnknownNameError
from nilr.meta.engine.contract import Engine
from nilr.meta.inner_lr import rate_at
from nilr.models.learner import Params
from nilr.models.parameters import layer, part
from nilr.numbers import is_float32

LEARNED, NORM_MATCHED = "learned", "norm-matched"

Edit = Callable[[Tensor, torch.Generator], Tensor]
"""Maps the rates of one tensor (K, n), one row per step, to new rates of that shape."""


def _permutation(rates: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randperm(rates.shape[1], generator=generator).to(rates.device)


def _shuffle_signs(rates: Tensor, generator: torch.Generator) -> Tensor:
    negative = (rates < 0)[:, _permutation(rates, generator)]
    return torch.where(negative, -rates.abs(), rates.abs())


EDITS: dict[str, Edit] = {
    LEARNED: lambda rates, _: rates,
    "zero-negative": lambda rates, _: rates.clamp(min=0),
    "zero-positive": lambda rates, _: rates.clamp(max=0),
    "absolute": lambda rates, _: rates.abs(),
    "negated": lambda rates, _: -rates,
    "shuffled-signs": _shuffle_signs,
    "shuffled": lambda rates, generator: rates[:, _permutation(rates, generator)],
    "tensor-mean": lambda rates, _: rates.mean(1, keepdim=True).expand_as(rates),
    # The rates stay; `adapt` takes other steps.
    NORM_MATCHED: lambda rates, _: rates,
}


def find_edit(name: str) -> Edit:
    """Return the edit with that name; a float32 number sets every rate to it. UnknownNameError if it is neither."""
    if name in EDITS:
        return EDITS[name]
    try:
        number = float(name)
    except ValueError:
        number = math.nan
    if not is_float32(number):
        raise UnknownNameError("rates", name, [*EDITS, "a number"])
    return lambda rates, _: torch.full_like(rates, number)


def edited(inner_lr: Mapping[str, Tensor], params: Mapping[str, Tensor], name: str, *, seed: int) -> Params:
    """Return the inner rates under an edit.

    Edits act on the rates at their grain: shuffles and means do not change a tensor with a single rate. Rates per step
    are shuffled in the same order at every step; each step has its own mean. For the shuffles, each tensor has its own
    random stream, derived from `seed`. An unknown edit raises UnknownNameError.
    """
    edit = find_edit(name)
    outcome = {}
    for tensor, rates in inner_lr.items():
        generator = torch.Generator().manual_seed(stream_seed(seed, f"rates/{name}/{tensor}"))
        steps = len(rates) if rates.dim() > params[tensor].dim() else 1
        outcome[tensor] = edit(rates.reshape(steps, -1), generator).reshape(rates.shape)
    return outcome


def rates_of_part(inner_lr: Mapping[str, Tensor], params: Mapping[str, Tensor], parts: Sequence[str]) -> Params:
    """Return only the rates of the given parts (`all`, `body`, `head` or layers), so that nothing else moves.

    Raises:
        UnknownNameError: the learner does not have such a part.
    """
    known = list(dict.fromkeys(["all", "body", "head", *sorted(layer(name) for name in params)]))
    for name in parts:
        if name not in known:
            raise UnknownNameError("part to adapt", name, known)
    return {name: rate for name, rate in inner_lr.items() if {"all", part(name), layer(name)} & set(parts)}


def adapt(
    engine: Engine,
    params: Mapping[str, Tensor],
    inner_lr: Mapping[str, Tensor],
    support: tuple[Tensor, Tensor],
    *,
    steps: int,
    norm_matched: bool = False,
    first_step: int = 0,
) -> Mapping[str, Tensor]:
    """Return the parameters adapted to one support set: images (N*K, C, H, W) and labels (N*K,).

    With `norm_matched`, `matched_rate` replaces the rates of each tensor in every step: a step of the same norm along
    the plain gradient. `first_step` is the number of the first step, for rates per step.
    """
    if not inner_lr or not steps:
        return params
    if not norm_matched:
        return engine.adapt(params, inner_lr, *support, steps=steps, first_step=first_step)
    at = dict(params)
    for step in range(first_step, first_step + steps):
        gradient = engine.support_gradient(at, *support, inner_lr)
        for name, g in gradient.items():
            at[name] = at[name] - matched_rate(rate_at(inner_lr[name], g, step), g) * g
    return at


def matched_rate(rate: Tensor, gradient: Tensor) -> Tensor:
    """Return ||rate * gradient|| / ||gradient||, of shape (); 0 if the gradient is 0."""
    step, plain = (value.double().norm() for value in (rate * gradient, gradient))
    return torch.where(plain > 0, step / plain, 0.0).to(gradient.dtype)
