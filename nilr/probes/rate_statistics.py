"""Statistics of the inner rates: their distribution, and their effect on the gradients of real episodes."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nilr.meta.engine.contract import Engine
from nilr.meta.inner_lr import rate_at
from nilr.models.learner import Params

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
BINS = 40

# A gradient below this share of the largest one is zero, except for rounding.
NOISE = 1e-6


def spread(rates: Iterable[Tensor]) -> dict[str, Any]:
    """Return the exact distribution of all rates in the tensors.

    Returns:
        `count`, `mean`, `std` (with `count` as its divisor), `quantiles` by level (with linear interpolation),
        `share_negative`, and `histogram`: equally spaced `edges`, and `counts` of rates per bin, which includes its
        lower edge and excludes its upper one.
    """
    values = torch.cat([rate.detach().reshape(-1).double().cpu() for rate in rates]).sort().values
    return {
        "count": len(values),
        "mean": values.mean().item(),
        "std": values.std(correction=0).item(),
        "quantiles": {str(level): _quantile(values, level) for level in QUANTILES},
        "share_negative": (values < 0).double().mean().item(),
        "histogram": _histogram(values),
    }


def _quantile(ascending: Tensor, level: float) -> float:
    place = level * (len(ascending) - 1)
    low, high = ascending[math.floor(place)].item(), ascending[math.ceil(place)].item()
    return low + (high - low) * (place - math.floor(place))


def _histogram(ascending: Tensor) -> dict[str, list[float] | list[int]]:
    low, high = ascending[0].item(), ascending[-1].item()
    width = (high - low) / BINS or abs(low) or 1.0
    bins = (ascending / width).floor().long()
    first, last = int(bins[0]), int(bins[-1])
    # The edges are multiples of the width, so that no bin has rates of both signs.
    edges = [width * i for i in range(first, last + 2)]
    return {"edges": edges, "counts": (bins - first).bincount(minlength=last - first + 1).tolist()}


@dataclass(frozen=True)
class Walk:
    """Sums over the elements of each of T tensors at every step of an inner loop, for rates a and gradients g."""

    names: Sequence[str]  # of the tensors
    ascent: Tensor  # sum of |a| g^2 where a is negative, (steps, T) float64
    total: Tensor  # sum of |a| g^2, (steps, T)
    step: Tensor  # sum of (a g)^2, (steps, T)
    gradient: Tensor  # sum of g^2, (steps, T)


@torch.no_grad()
def walk(
    engine: Engine,
    params: Mapping[str, Tensor],
    inner_lr: Mapping[str, Tensor],
    support: tuple[Tensor, Tensor],
    *,
    steps: int,
) -> tuple[Walk, Params, Params]:
    """Run the inner loop on a support set, images (N*K, C, H, W) and labels (N*K,).

    Returns:
        Its sums, the largest |g| of every element, and the gradient of the first step; empty without a step.
    """
    at, names = dict(params), sorted(inner_lr)
    sums = torch.zeros(4, steps, len(names), dtype=torch.float64)
    largest, first = {name: torch.zeros_like(params[name]) for name in names}, Params()
    for k in range(steps):
        gradient = engine.support_gradient(at, *support, names)
        first = first or gradient
        for t, name in enumerate(names):
            rate, g = rate_at(inner_lr[name], params[name], k).double(), gradient[name].double()
            weighted = rate.abs() * g.square()
            parts = (weighted * (rate < 0), weighted, (rate * g).square(), g.square())
            sums[:, k, t] = torch.stack([part.sum() for part in parts]).cpu()
            largest[name] = torch.maximum(largest[name], gradient[name].abs())
            at[name] = at[name] - rate_at(inner_lr[name], params[name], k) * gradient[name]
    return Walk(names, *sums), largest, first


def signal(walks: Sequence[Walk], names: Iterable[str]) -> dict[str, Tensor]:
    """Return the effect of the rates a of the named tensors, taken together, on their gradients g.

    Returns:
        One value per walk, NaN where undefined. `ascent`: the share of sum |a| g^2 with negative a, which is the part
        of the first-order change of the loss that is uphill; `step_norm`: the norm of the step a*g, mean over the inner
        steps; `cosine`: of the angle between a*g and g, mean over the inner steps.
    """
    wanted = set(names)
    chosen = [i for i, name in enumerate(walks[0].names) if name in wanted]

    def together(part: str) -> Tensor:
        return torch.stack([getattr(walk, part)[:, chosen].sum(1) for walk in walks])

    ascent, total, step, gradient = (together(part) for part in ("ascent", "total", "step", "gradient"))
    # The inner product of a*g and g is the descent minus the ascent.
    cosine = (total - 2 * ascent) / (step * gradient).sqrt()
    return {
        "ascent": ascent.sum(1) / total.sum(1),
        "step_norm": step.sqrt().mean(1),
        "cosine": cosine.nanmean(1),
    }


def larger(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Params:
    """Return the larger value of every element, by tensor; `b` if `a` is empty."""
    return {name: torch.maximum(a.get(name, value), value) for name, value in b.items()}


def without_signal(largest: Mapping[str, Tensor]) -> list[str]:
    """Return the tensors whose gradient is zero in every episode, except for rounding.

    Args:
        largest: the largest |g| of every element over all episodes and steps, by tensor.
    """
    most = {name: value.max().item() for name, value in largest.items()}
    bound = NOISE * max(most.values(), default=0.0)
    return [name for name, value in most.items() if value <= bound]
