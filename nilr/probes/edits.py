"""Edits of the inner rates at adaptation time: the same model, the same episodes, other rates.

A model whose rates were learned differs from one with fixed rates in everything that its training changed. An edit
changes the rates alone, so that the difference it makes is the rates' doing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from nilr.episodes import stream_seed
from nilr.errors import UnknownNameError
from nilr.meta.engine.contract import Engine
from nilr.meta.inner_loop import rate_at
from nilr.models.learner import Params, layer, part

LEARNED, NORM_MATCHED = "learned", "norm-matched"

Edit = Callable[[Tensor, torch.Generator], Tensor]
"""Maps the rates of one tensor (K, n), a row for each step that has rates of its own, to others of that shape."""


def _as_learned(rates: Tensor, _: torch.Generator) -> Tensor:
    return rates


def _zero_negative(rates: Tensor, _: torch.Generator) -> Tensor:
    return rates.clamp(min=0)


def _zero_positive(rates: Tensor, _: torch.Generator) -> Tensor:
    return rates.clamp(max=0)


def _absolute(rates: Tensor, _: torch.Generator) -> Tensor:
    return rates.abs()


def _negated(rates: Tensor, _: torch.Generator) -> Tensor:
    return -rates


def _shuffled(rates: Tensor, generator: torch.Generator) -> Tensor:
    return rates[:, _permutation(rates, generator)]


def _shuffled_signs(rates: Tensor, generator: torch.Generator) -> Tensor:
    negative = (rates < 0)[:, _permutation(rates, generator)]
    return torch.where(negative, -rates.abs(), rates.abs())


def _tensor_mean(rates: Tensor, _: torch.Generator) -> Tensor:
    return rates.mean(1, keepdim=True).expand_as(rates)


def _permutation(rates: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randperm(rates.shape[1], generator=generator).to(rates.device)


# norm-matched leaves the rates as they are: it changes how a step is taken (see `adapt`).
EDITS: dict[str, Edit] = {
    LEARNED: _as_learned,
    "zero-negative": _zero_negative,
    "zero-positive": _zero_positive,
    "absolute": _absolute,
    "negated": _negated,
    "shuffled-signs": _shuffled_signs,
    "shuffled": _shuffled,
    "tensor-mean": _tensor_mean,
    NORM_MATCHED: _as_learned,
}


def find_edit(name: str) -> Edit:
    """Return the edit of that name, or of a number: that rate for everything that moves.

    Raises:
        UnknownNameError: it is neither; the known ones are listed.
    """
    if name in EDITS:
        return EDITS[name]
    try:
        number = float(name)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UnknownNameError("rates", name, [*EDITS, "a number"])
    return lambda rates, _: torch.full_like(rates, number)


def edited(inner_lr: Mapping[str, Tensor], params: Mapping[str, Tensor], name: str, *, seed: int) -> Params:
    """Return the inner rates under an edit.

    An edit acts on the rates as they are held. A rate that stands for a whole tensor is one number: shuffles and means
    leave it as it is. Where there is a rate per step, all steps are shuffled alike, and each has its own mean.

    Args:
        inner_lr: the inner rates, by name.
        params: the parameters that they move, by name.
        name: name of the edit, or a number.
        seed: seed of the shuffles; each tensor has a stream of its own.

    Raises:
        UnknownNameError: there is no such edit.
    """
    edit = find_edit(name)
    outcome = {}
    for tensor, rates in inner_lr.items():
        generator = torch.Generator().manual_seed(stream_seed(seed, f"rates/{name}/{tensor}"))
        steps = len(rates) if rates.dim() > params[tensor].dim() else 1
        outcome[tensor] = edit(rates.reshape(steps, -1), generator).reshape(rates.shape)
    return outcome


def rates_of_part(inner_lr: Mapping[str, Tensor], params: Mapping[str, Tensor], parts: Sequence[str]) -> Params:
    """Return the rates of those parameters that stand in one of the parts, so that only they move.

    Args:
        inner_lr: the inner rates, by name.
        params: all parameters of the learner, by name.
        parts: `all`, `body`, `head` or names of layers.

    Raises:
        UnknownNameError: the learner has no such part; those that it has are listed.
    """
    known = list(dict.fromkeys(["all", "body", "head", *sorted(layer(name) for name in params)]))
    for asked in parts:
        if asked not in known:
            raise UnknownNameError("part to adapt", asked, known)
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
    """Return the parameters adapted to one support set.

    Args:
        engine: what executes the inner loop.
        params: where to start, by name.
        inner_lr: the inner rates, by name; where there are none, nothing moves.
        support: images (N*K, C, H, W) and labels (N*K,).
        steps: steps of the inner loop.
        norm_matched: replace the rates of a tensor, in every step, by the one positive number that gives a step of
            the same norm, ||a * g|| / ||g||: along the plain gradient, and as far.
        first_step: number of the first step, where there is a rate per step.
    """
    if not inner_lr:
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
    """Return ||a * g|| / ||g||, of shape (); 0 where the gradient is 0.

    Args:
        rate: a, of any shape that broadcasts to the gradient's.
        gradient: g.
    """
    step, plain = (value.double().norm() for value in (rate * gradient, gradient))
    return torch.where(plain > 0, step / plain, 0.0).to(gradient.dtype)
