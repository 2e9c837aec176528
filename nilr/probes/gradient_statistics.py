"""What the support gradients of many episodes have in common, and the curvature of the loss along the first step."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nilr.inference import jackknife_half_width
from nilr.meta.inner_lr import rate_at
from nilr.models.learner import Learner, Tensors

BLOCKS = 10  # at most; one is left out at a time


class JackknifeEstimate(NamedTuple):
    """A number, and half the width of its 95 % interval by a jackknife; None if there are too few episodes."""

    mean: float
    ci95: float | None


class GradientSums:
    """Sums over episodes of the first support gradient of every element, in blocks of episodes.

    Args:
        n_episodes: episodes that will be added; n_episodes blocks, but at most `BLOCKS`.
    """

    def __init__(self, n_episodes: int) -> None:
        self._blocks = min(BLOCKS, n_episodes)
        self._counts = [0] * self._blocks
        self._first, self._second = dict[str, Tensor](), dict[str, Tensor]()  # sums of g and of g^2, (blocks, elements)

    def add(self, gradient: Tensors) -> None:
        """Add the gradient of an episode."""
        block = sum(self._counts) % self._blocks
        self._counts[block] += 1
        for name, value in gradient.items():
            g = value.double().flatten().cpu()
            for sums, term in ((self._first, g), (self._second, g.square())):
                sums.setdefault(name, g.new_zeros(self._blocks, len(g)))[block] += term

    def consistency(self, rates: Tensors, params: Tensors, names: Sequence[str]) -> dict[str, JackknifeEstimate]:
        """Return the figures of `rate_consistency` for the named tensors, those that are defined in all episodes.

        Their intervals are by a jackknife that leaves out one block of episodes at a time.
        """
        first, second = (torch.cat([sums[name] for name in names], 1) for sums in (self._first, self._second))
        rate = torch.cat([rate_at(rates[n], params[n], 0).expand_as(params[n]).flatten().cpu() for n in names])
        counts = torch.tensor(self._counts)

        def figures(kept: Tensor) -> dict[str, float]:
            sums = first[kept].sum(0), second[kept].sum(0)
            return rate_consistency(*sums, int(counts[kept].sum()), rate.double())

        whole = figures(torch.ones(self._blocks, dtype=torch.bool))
        parts = [figures(torch.arange(self._blocks) != left_out) for left_out in range(self._blocks)]
        return {
            key: JackknifeEstimate(value, jackknife_half_width([part.get(key, math.nan) for part in parts]))
            for key, value in whole.items()
        }


def rate_consistency(first: Tensor, second: Tensor, n: int, rate: Tensor) -> dict[str, float]:
    """Return how consistent the gradients g of elements are over n episodes, against the elements' rates.

    The consistency of an element is c = |mean g| / sqrt(mean g^2). Without any, c is not zero (`chance`), so its square
    is also given without that bias: (n c^2 - 1) / (n - 1), the mean product of two different episodes' g over mean g^2.

    Args:
        first: sum of g over episodes, (elements,).
        second: sum of g^2; elements where it is zero do not count.
        n: episodes; the result is empty for fewer than two.
        rate: the rates.

    Returns:
        `consistency_positive`, `shared_positive` and `..._negative`: means over the elements with rates of that sign of
        c and of the unbiased square; `difference`: `shared_negative` minus `shared_positive`; `rank_size` and
        `rank_rate`: Spearman's correlation of c with |rate| and with the rate. Undefined ones are missing.
    """
    if n < 2:
        return {}
    used = second > 0
    c, rate = first[used].abs() / (n * second[used]).sqrt(), rate[used]
    shared = (n * c.square() - 1) / (n - 1)
    found = {}
    for sign, chosen in (("positive", rate > 0), ("negative", rate < 0)):
        if chosen.any():
            found[f"consistency_{sign}"] = c[chosen].mean().item()
            found[f"shared_{sign}"] = shared[chosen].mean().item()
    if "shared_positive" in found and "shared_negative" in found:
        found["difference"] = found["shared_negative"] - found["shared_positive"]
    for key, other in (("rank_size", rate.abs()), ("rank_rate", rate)):
        if len(c) > 1 and (correlation := _spearman(c, other)) is not None:
            found[key] = correlation
    return found


def _spearman(a: Tensor, b: Tensor) -> float | None:
    """Return the rank correlation of two tensors (n,), ties with their mean rank; None if one is constant."""
    from scipy.stats import rankdata

    ranks = torch.from_numpy(rankdata(torch.stack([a, b]).numpy(), axis=1))
    constant = bool((ranks.amin(1) == ranks.amax(1)).any())
    return None if constant else torch.corrcoef(ranks)[0, 1].item()


def chance(n: int) -> float:
    """Return the mean of c over Gaussian g of mean zero in n episodes, about sqrt(2 / (pi n)).

    c is then the size of a coordinate of a random point of the unit sphere in n dimensions.
    """
    return math.exp(math.lgamma(n / 2) - math.lgamma((n + 1) / 2)) / math.sqrt(math.pi)


class Curvature(NamedTuple):
    """The support loss along the first inner step d: it changes by `linear` + `curvature` / 2 to second order."""

    linear: float  # g . d, with the gradient g
    curvature: float  # d . H d, with the Hessian H


def first_step_curvature(
    learner: Learner, params: Tensors, inner_lr: Tensors, support: tuple[Tensor, Tensor]
) -> Curvature:
    """Return the slope and the curvature of the support loss along the first step, with an exact Hessian product.

    Args:
        learner: body and head.
        params: the meta-initialisation.
        inner_lr: the rates, which name the parameters that move.
        support: images (N*K, C, H, W) and labels (N*K,).
    """
    learner.body.check_order(2)
    x, y = support
    with torch.enable_grad():
        moved = {name: params[name].detach().requires_grad_() for name in inner_lr}
        loss = cross_entropy(learner.logits({**params, **moved}, x.contiguous()), y)
        gradient = torch.autograd.grad(loss, list(moved.values()), create_graph=True)
        named = list(zip(moved, gradient, strict=True))
        step = [-rate_at(inner_lr[name], params[name], 0) * g.detach() for name, g in named]
        slope = torch.stack([(g * d).sum() for g, d in zip(gradient, step, strict=True)]).sum()
        product = torch.autograd.grad(slope, list(moved.values()), materialize_grads=True)
    curvature = sum((d.double() * h.double()).sum().item() for d, h in zip(step, product, strict=True))
    return Curvature(slope.item(), curvature)


def effective_step(measured: Sequence[Curvature]) -> JackknifeEstimate | None:
    """Return -sum d'Hd / sum g'd over episodes; its interval is by a jackknife over them. None if the sum is zero.

    In a quadratic model of the loss the minimum along the mean step is at 1, and at 2 nothing is gained.
    """
    linear, curvature = torch.tensor(measured, dtype=torch.float64).T
    if linear.sum() == 0:
        return None
    parts = (-(curvature.sum() - curvature) / (linear.sum() - linear)).tolist()
    return JackknifeEstimate(-(curvature.sum() / linear.sum()).item(), jackknife_half_width(parts))
