"""Inner rates: from the numbers that an algorithm learns to the rates that its inner loop uses, and back.

Learned numbers have the names of the parameters that they move; a single "scalar" for all has the name `SHARED`. The
outer loop steps on learned numbers and keeps them within the row's constraint. Engines, checkpoints and probes use
inner rates.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from nilr.errors import UsageError
from nilr.meta.algorithms import Algorithm
from nilr.models.learner import Params, Tensors
from nilr.models.parameters import Kind, layer
from nilr.numbers import is_float32

SHARED = "all"
FIXED_SIGNS = "fixed-signs"
TENSOR_MEAN = "tensor-mean"  # as `inner_lr_init`: fixed rates that come from another model (`tensor_means`)


def initial_rates(algorithm: Algorithm, params: Tensors, kinds: Mapping[str, Kind], seed: int) -> Params:
    """Return the learned numbers (or the fixed rates) that a run starts from, within the row's constraint.

    `inner_lr_init` is a number; `uniform:LOW,HIGH`, one draw for all rates; `uniform-each:LOW,HIGH`, one draw each; or
    `random-sign:SIZE`, SIZE or -SIZE with equal probability, one draw each. Fixed rates of `tensor-mean` are zeros,
    which the caller replaces.

    Returns:
        For every parameter that moves, a tensor of shape () (fixed, tensor) or of the parameter's shape (element). For
        scalar, one tensor of shape (). With a rate per step, a leading dimension K: (K, 1, ...), (K, ...) and (K,).

    Raises:
        UsageError: `inner_lr_init` or `constraint` is invalid.
    """
    form, low, high = _parse_init(algorithm)
    if low == high == 0 and algorithm.constraint == FIXED_SIGNS:
        raise UsageError(
            "with `fixed-signs`, rates that start at 0 stay 0",
            hint="choose another --inner-lr-init, or another constraint",
        )
    if form in ("uniform-each", "random-sign") and not algorithm.learns_rates:
        raise UsageError(f"`{algorithm.name}` has one fixed rate, but `{algorithm.inner_lr_init}` draws many")
    generator = torch.Generator().manual_seed(seed)
    shared = low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()
    like = next(iter(params.values()))
    rates = {}
    for name, shape in _shapes(algorithm, params, kinds).items():
        rate = torch.full(shape, shared, dtype=like.dtype)
        if form == "uniform-each":
            rate.uniform_(low, high, generator=generator)
        if form == "random-sign":
            rate.fill_(high).masked_fill_(torch.rand(shape, generator=generator) < 0.5, low)
        rates[name] = rate.to(like.device)
    keep_within(algorithm, rates)
    return rates


def inner_rates(algorithm: Algorithm, learned: Tensors, params: Tensors, kinds: Mapping[str, Kind]) -> Params:
    """Return the rates that the inner loop uses (see `rate_at`), from learned numbers with `initial_rates`' shapes."""
    rates = dict(learned)
    if algorithm.grain == "scalar":
        number = learned[SHARED]
        rates = {
            name: number.reshape(-1, *(1,) * params[name].dim()) if algorithm.per_step else number
            for name in algorithm.moved(kinds)
        }
    return {name: rate.clamp(min=0) for name, rate in rates.items()} if algorithm.rectified else rates


def rate_at(rate: Tensor, parameter: Tensor, step: int) -> Tensor:
    """Return the rate of a step, counted from 0; steps after the last one with a rate use that rate.

    `rate` broadcasts to `parameter`, or has exactly one dimension more: one rate per step, (K, ...).
    """
    return rate[min(step, len(rate) - 1)] if rate.dim() == parameter.dim() + 1 else rate


def learned_gradient(algorithm: Algorithm, inner_lr: Tensors) -> Params:
    """Return the gradient with respect to the learned numbers, from that with respect to the inner rates.

    For a rectified row the derivative of max(0, r) counts as 1 everywhere (straight through; Bengio, Leonard,
    Courville: Estimating or Propagating Gradients Through Stochastic Neurons, 2013), as in the code of von Oswald et
    al. With the true derivative a number below zero would never move again.
    """
    if algorithm.grain != "scalar":
        return dict(inner_lr)
    gradients = [value.reshape(-1) if algorithm.per_step else value for value in inner_lr.values()]
    return {SHARED: torch.stack(gradients).sum(0)}


@torch.no_grad()
def keep_within(algorithm: Algorithm, learned: Tensors) -> None:
    """Move each learned number, in place, to the nearest number that the row's constraint allows.

    Raises:
        UsageError: the constraint is invalid.
    """
    low, high = bounds(algorithm.constraint)
    if (low, high) != (-math.inf, math.inf):
        for value in learned.values():
            value.clamp_(low, high)


@torch.no_grad()
def keep_signs(learned: Tensors, signs: Tensors) -> None:
    """Set the learned numbers, in place, to zero whose sign differs from the one in `signs` (-1, 0 or 1)."""
    for name, sign in signs.items():
        learned[name].masked_fill_(learned[name].sign() != sign, 0)


@torch.no_grad()
def scale_to_norms(learned: Tensors, norms: Tensors) -> None:
    """Scale each tensor of learned numbers, in place, to its Euclidean norm in `norms`; a tensor of zeros stays."""
    for name, norm in norms.items():
        before = torch.linalg.vector_norm(learned[name])
        learned[name].mul_(torch.where(before > 0, norm / before, 1.0))


def tensor_means(rates: Tensors) -> Params:
    """Return the mean of each tensor's rates, of shape ()."""
    return {name: rate.mean() for name, rate in rates.items()}


def tensor_norms(rates: Tensors) -> Params:
    """Return the Euclidean norm of each tensor's rates, of shape ()."""
    return {name: torch.linalg.vector_norm(rate) for name, rate in rates.items()}


def bounds(constraint: str) -> tuple[float, float]:
    """Return the smallest and the largest rate that a constraint allows; UsageError if the constraint is invalid."""
    unbounded = (-math.inf, math.inf)
    named = {"free": unbounded, FIXED_SIGNS: unbounded, "non-negative": (0.0, math.inf)}
    if constraint in named:
        return named[constraint]
    form, _, numbers = constraint.partition(":")
    try:
        if form != "bounded":
            raise ValueError
        return _interval(numbers)
    except ValueError:
        raise UsageError(
            f"the constraint on rates `{constraint}` is invalid",
            hint="use free, non-negative, fixed-signs or bounded:LOW,HIGH",
        ) from None


def share_negative(inner_lr: Tensors) -> float:
    """Return the share of negative elements among all inner rates."""
    negative = sum(int((rate < 0).sum()) for rate in inner_lr.values())
    return negative / sum(rate.numel() for rate in inner_lr.values())


def share_negative_by_layer(inner_lr: Tensors) -> dict[str, float]:
    """Return the share of negative elements among the inner rates of each layer."""
    layers: dict[str, Params] = {}
    for name, rate in inner_lr.items():
        layers.setdefault(layer(name), {})[name] = rate
    return {name: share_negative(rates) for name, rates in layers.items()}


def _shapes(algorithm: Algorithm, params: Tensors, kinds: Mapping[str, Kind]) -> dict[str, tuple[int, ...]]:
    steps = (algorithm.inner_steps,) if algorithm.per_step else ()
    if algorithm.grain == "scalar":
        return {SHARED: steps}
    shapes = {name: params[name].shape for name in algorithm.moved(kinds)}
    if algorithm.grain != "element":
        shapes = {name: torch.Size((1,) * len(shape) if steps else ()) for name, shape in shapes.items()}
    return {name: (*steps, *shape) for name, shape in shapes.items()}


def _parse_init(algorithm: Algorithm) -> tuple[str, float, float]:
    text = algorithm.inner_lr_init
    if text == TENSOR_MEAN and not algorithm.learns_rates:
        return text, 0.0, 0.0
    form, _, numbers = text.rpartition(":")
    try:
        if form in ("uniform", "uniform-each"):
            return form, *_interval(numbers)
        value = float(numbers if form == "random-sign" else text)
        if not is_float32(value) or (form and value <= 0):
            raise ValueError
    except ValueError:
        raise UsageError(
            f"the initial inner rate `{text}` is invalid",
            hint="use a number, uniform:LOW,HIGH, uniform-each:LOW,HIGH or random-sign:SIZE with SIZE above 0",
        ) from None
    return ("random-sign", -value, value) if form else ("number", value, value)


def _interval(text: str) -> tuple[float, float]:
    low, high = (float(number) for number in text.split(","))
    if not (is_float32(low) and is_float32(high) and low <= high):
        raise ValueError
    return low, high
