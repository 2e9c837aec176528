"""A layer of a convolutional body: forward, backward, and the tangents of both.

Notation: a layer has one branch, or two that are added. A branch maps x (n, Ci, H, W) to y = conv(x, w) with Co
channels. m and r are the channels' mean and 1/standard deviation over the M = n*H*W positions of y, h = (y - m) r, and
z = s h + t with scale s and shift t; k = s r. The output a is act(sum of z), pooled, where act multiplies negative
values by the slope. p is y at the pooled positions, or all of y without pooling. A suffix `_t` marks a tangent, and a
prefix `d` the gradient of the loss.

The layer pools before it activates, since act never falls. One branch even pools the raw y and applies the rest to the
pooled values, a quarter of the work: z rises with y if s > 0 and falls with it if s < 0, so it pools sign(s) y. This is
exact; if s is exactly 0, the gradient in s is the limit s -> 0 from above.

A layer may normalise by given statistics, or all images by the statistics of the first ones alone (`ConvLayer`). In the
second case M counts the positions of the first images, and b + c y is added there only.

Channels may be those of G episodes side by side, each with its own parameters: planes (n, G*C, H, W) and weights
(G*Co, Ci, k, k).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nilr.meta.engine.convolution import Convolution
from nilr.meta.engine.passes import Channels, Pair, Passes, Term, positions


class BranchParams(NamedTuple):
    """Convolution weight (Co, Ci, k, k), norm scale (Co,), norm shift (Co,)."""

    weight: Tensor
    scale: Tensor
    shift: Tensor


class Ends(NamedTuple):
    """What a layer reads and what it returns: the x of every branch, and a."""

    xs: Sequence[Tensor]
    a: Tensor


class Branch(NamedTuple):
    """What the forward pass keeps of a branch: y, p, m, r and k. Without pooling p is y."""

    y: Tensor
    p: Tensor
    mean: Tensor
    rstd: Tensor
    k: Tensor


class Kept(NamedTuple):
    """What the forward pass keeps: its branches, and the positions of the pooled values (if any)."""

    branches: list[Branch]
    where: Tensor | None

    @property
    def moments(self) -> list[Pair]:
        """Each branch's m and r."""
        return [(branch.mean, branch.rstd) for branch in self.branches]


class Gradient(NamedTuple):
    """What the backward pass keeps for its tangent: u, the gradients in every y, scale, and in the shift, k r and c.

    No dy is kept for images: only the tangent of the input's gradient needs it.
    """

    u: Tensor
    dy: list[Tensor | None]
    dscale: list[Tensor]
    dshift: Tensor
    kr: list[Tensor]
    c: list[Tensor]


class BranchTangent(NamedTuple):
    """What the tangent's forward pass keeps of a branch: tangents of x, y, p and m, and q = mean(h y_t)."""

    x_t: Tensor | None
    y_t: Tensor
    p_t: Tensor
    mean_t: Tensor
    q: Tensor


@dataclass(frozen=True)
class ConvLayer:
    """A layer for any input.

    With given statistics, a layer has a forward pass only; with `first`, it has no tangents.
    """

    passes: Passes
    convolution: Convolution
    slope: float = 0.0  # of the activation below zero; 1: no activation
    pool: bool = True
    statistics: Sequence[Tensor] | None = None  # m and r of each branch, (2, Co); None: those of y
    first: int | None = None  # m and r are those of the first images; None: those of all images

    def forward(
        self, xs: Sequence[Tensor], params: Sequence[BranchParams], *, last: bool = False
    ) -> tuple[Tensor, Kept]:
        """Return a, and what the other passes need; no pass may follow a `last` one."""
        ys = [self.convolution.forward(x, branch.weight) for x, branch in zip(xs, params, strict=True)]
        where: Tensor | None = None
        if self.pool and len(ys) == 1:
            pooled, where, *of_y = self.passes.pool_statistics(ys[0], params[0].scale, first=self.first)
            ps, moments = [pooled], self._given() or [(of_y[0], of_y[1])]
            terms = _terms(ps, moments, params)
            a = self.passes.normalise(terms, _shift(params), self.slope)
        else:
            ps, moments = ys, self._given() or [self.passes.statistics(y[: self.first]) for y in ys]
            terms = _terms(ys, moments, params)
            if self.pool:
                a, where, ps = self.passes.pool_sum(terms, _shift(params), self.slope)
            else:
                a = self.passes.normalise(terms, _shift(params), self.slope)
        each = zip(ys, ps, moments, terms, strict=True)
        return a, Kept([Branch(y, p, *mr, term.k) for y, p, mr, term in each], where)

    def output(self, kept: Kept, params: Sequence[BranchParams]) -> Tensor:
        """Return a again, to the same bits, of a layer without pooling."""
        terms = [Term(branch.p, branch.mean, branch.k) for branch in kept.branches]
        return self.passes.normalise(terms, _shift(params), self.slope)

    def backward(
        self,
        da: Tensor,
        ends: Ends,
        kept: Kept,
        params: Sequence[BranchParams],
        *,
        needed: Sequence[bool],
        last: bool = False,
    ) -> tuple[list[Tensor | None], list[BranchParams], Gradient | None]:
        """Return the gradients in every x that is `needed` and in the parameters, and what the tangent needs.

        u = da act'; dt = sum u; ds = sum u h; dy = scatter(k u) + b + c y, with per channel
        c = -k r ds / M and b = -k dt / M - c m. da is overwritten. A `last` pass overwrites y, and keeps nothing for
        the tangent.
        """
        of_p = [(branch.p, branch.mean) for branch in kept.branches]
        u, dshift, sums = self.passes.masked_sums(da, ends.a, self.slope, of_p)
        dxs, gradients, dys = list[Tensor | None](), list[BranchParams](), list[Tensor | None]()
        dscales, krs, cs = list[Tensor](), list[Tensor](), list[Tensor]()
        for x, branch, of, total, need in zip(ends.xs, kept.branches, params, sums, needed, strict=True):
            m, k = positions(branch.y[: self.first]), branch.k
            dscale, kr = branch.rstd * total, k * branch.rstd
            c = -kr * dscale / m
            b = -k * dshift / m - c * branch.mean
            dy = self._spread(branch, kept.where, u, (b, c, k), reuse=last)
            dx, dweight = self.convolution.backward(dy, x, of.weight, input_gradient=need)
            dxs.append(dx)
            gradients.append(BranchParams(dweight, dscale, dshift))
            dys.append(dy if need else None)
            dscales.append(dscale)
            krs.append(kr)
            cs.append(c)
        return dxs, gradients, None if last else Gradient(u, dys, dscales, dshift, krs, cs)

    def forward_tangent(
        self,
        x_ts: Sequence[Tensor | None],
        ends: Ends,
        kept: Kept,
        params: Sequence[BranchParams],
        params_t: Sequence[BranchParams],
    ) -> tuple[Tensor, list[BranchTangent]]:
        """Return the tangent of a, and what the backward pass's tangent needs. Images have no tangent.

        y_t = conv(x_t, w) + conv(x, w_t); with q = mean(h y_t), h_t = r (p_t - m_t - h q); the pooled positions and the
        signs of a stay; a_t = act' times the sum of s_t h + s h_t + t_t.
        """
        tangents, terms = [], []
        for x_t, x, branch, of, of_t in zip(x_ts, ends.xs, kept.branches, params, params_t, strict=True):
            y_t = self.convolution.forward_tangent((x, x_t), (of.weight, of_t.weight))
            p_t, mean_t, crossed = self.passes.tangent_statistics(branch.y, y_t, kept.where, branch.mean)
            r, k, q = branch.rstd, branch.k, crossed * branch.rstd
            tangents.append(BranchTangent(x_t, y_t, p_t, mean_t, q))
            terms += [Term(p_t, mean_t, k), Term(branch.p, branch.mean, (of_t.scale - k * q) * r)]
        return self.passes.normalise_tangent(terms, _shift(params_t), ends.a, self.slope), tangents

    def backward_tangent(
        self,
        da_t: Tensor,
        ends: Ends,
        kept: Kept,
        gradient: Gradient,
        tangents: Sequence[BranchTangent],
        params: Sequence[BranchParams],
        params_t: Sequence[BranchParams],
    ) -> tuple[list[Tensor | None], list[BranchParams]]:
        """Return the tangents of the gradients in every x and in the parameters, by differentiating `backward`.

        r_t = -r^2 q; k_t = s_t r + s r_t; dy_t = scatter(k_t u + k u_t) + b_t + c_t y + c y_t. da_t is overwritten.
        """
        m, dshift, u = positions(kept.branches[0].y), gradient.dshift, gradient.u
        of_p = [(branch.p, branch.mean) for branch in kept.branches]
        of_p_t = [(tangent.p_t, tangent.mean_t) for tangent in tangents]
        u_t, dshift_t, sums = self.passes.masked_sums(da_t, ends.a, self.slope, of_p, (u, of_p_t))
        dx_ts, gradients = list[Tensor | None](), list[BranchParams]()
        of_gradient = zip(gradient.dscale, gradient.dy, gradient.kr, gradient.c, strict=True)
        each = zip(ends.xs, kept.branches, tangents, params, params_t, of_gradient, sums, strict=True)
        for x, branch, tangent, of, of_t, (dscale, dy, kr, c), total in each:
            r, r_t = branch.rstd, -branch.rstd.square() * tangent.q
            dscale_t = r * (total - tangent.q * dscale)
            k, k_t = branch.k, of_t.scale * r + of.scale * r_t
            c_t = -(k_t * r * dscale + k * r_t * dscale + kr * dscale_t) / m
            b_t = -(k_t * dshift + k * dshift_t) / m - c_t * branch.mean - c * tangent.mean_t
            dy_t = self.passes.spread_tangent((branch.y, tangent.y_t), (u, u_t), kept.where, (b_t, c_t, c, k_t, k))
            weights = of.weight, of_t.weight
            dx_t, dweight_t = self.convolution.backward_tangent((dy, dy_t), (x, tangent.x_t), weights)
            dx_ts.append(dx_t)
            gradients.append(BranchParams(dweight_t, dscale_t, dshift_t))
        return dx_ts, gradients

    def _given(self) -> list[Pair] | None:
        return None if self.statistics is None else [(mean, rstd) for mean, rstd in self.statistics]

    def _spread(self, branch: Branch, where: Tensor | None, u: Tensor, channels: Channels, *, reuse: bool) -> Tensor:
        if self.first is None:
            return self.passes.spread(branch.y, u, where, channels, reuse=reuse)
        zero = torch.zeros_like(channels[0])
        first, others = slice(self.first), slice(self.first, None)
        for part, b_c in ((first, channels[:2]), (others, (zero, zero))):
            at = None if where is None else where[part]
            self.passes.spread(branch.y[part], u[part], at, (*b_c, channels[2]), reuse=True)
        return branch.y


def _terms(ps: Sequence[Tensor], moments: Sequence[Pair], params: Sequence[BranchParams]) -> list[Term]:
    return [Term(p, mean, of.scale * rstd) for p, (mean, rstd), of in zip(ps, moments, params, strict=True)]


def _shift(params: Sequence[BranchParams]) -> Tensor:
    """Return the sum of the branches' shifts."""
    return params[0].shift if len(params) == 1 else params[0].shift + params[1].shift
