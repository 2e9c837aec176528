"""The first block in C (images.c), which never writes y. The notation is that of `layer`.

Its input is images, which do not change, so the sums over y follow from moments computed once. P is the (27,) patch of
pixels under a convolution's weight (rows of W, (Co, 27)) at one of the M positions, p its mean and V its covariance:

    m = W p;   variance of y = diag(W V W')

and dy = scatter(k u) + b + c y, with k = s r, gives a weight gradient whose dense part needs V alone:

    dW = k (S - dt p - r ds W V),   S = sum of u P over the pooled positions

So the kernels read full planes only to pool, and their tangents not at all. Sums, moments and the formulas over
channels are in float64.
"""

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from nilr.meta.engine.layer import BranchParams, Ends
from nilr.meta.engine.native import CHANNELS, PARTS, call, cores, empty_pooled, sizes
from nilr.models.conv_body import EPS

TAPS = 27  # 3 pixel channels of 3 x 3
POINTS = 48  # 3 pixel channels of 4 x 4


class Kept(NamedTuple):
    """What the forward pass keeps: r (float64), W V, pooled h, and the positions of the pooled values."""

    rstd: Tensor
    weight_v: Tensor
    h: Tensor
    where: Tensor


class Gradient(NamedTuple):
    """What the backward pass keeps for its tangent: u, ds (float64), and dW / k."""

    u: Tensor
    dscale: Tensor
    core: Tensor


class Tangent(NamedTuple):
    """What the tangent's forward pass keeps: the tangents of r, W V and pooled h."""

    rstd_t: Tensor
    weight_v_t: Tensor
    h_t: Tensor


class Moments(NamedTuple):
    """Of the images' patches: p, their mean, (1, 27), and V, their covariance, (27, 27)."""

    mean: Tensor
    covariance: Tensor


@dataclass(frozen=True)
class ImageBlock:
    """The first block for images x, (n, 3, H, W) in channels-last memory, with the methods of `ConvLayer`.

    It has one branch. The moments may be those of the first images alone, as in a `ConvLayer` with `first`: the
    formulas are the same.
    """

    x: Tensor
    moments: Moments

    def forward(
        self, xs: Sequence[Tensor], branches: Sequence[BranchParams], *, last: bool = False
    ) -> tuple[Tensor, Kept | None]:
        """Return a, and what the other passes need; `xs` are the block's images."""
        (params,) = branches
        c = len(params.scale)
        mean, rstd, points, exact, weight_v = self._channels(c)
        given = params.weight.flatten(1), *self.moments, c, EPS
        self._call("image_statistics", *given, mean, rstd, exact, weight_v, points)
        a = empty_pooled(self.x, c, self.x.dtype)
        h, where = (None, None) if last else (torch.empty_like(a), torch.empty_like(a, dtype=torch.uint8))
        planes = *sizes(self.x), c, self._scratch(), h, a, where
        self._call("image_forward", self.x, points, mean, rstd, params.scale, params.shift, *planes)
        return a, None if h is None or where is None else Kept(exact, weight_v, h, where)

    def output(self, kept: Kept, branches: Sequence[BranchParams]) -> Tensor:
        """Not for this layer, which pools."""
        raise NotImplementedError

    def backward(
        self,
        da: Tensor,
        ends: Ends,
        kept: Kept,
        branches: Sequence[BranchParams],
        *,
        needed: Sequence[bool],
        last: bool = False,
    ) -> tuple[list[Tensor | None], list[BranchParams], Gradient | None]:
        """Return the gradients in the parameters, and what the tangent needs; images have no gradient."""
        (params,) = branches
        u = None if last else torch.empty_like(kept.h)
        taps, dshift, dscale = self._sums(da, kept, params, None, u)
        c = len(params.scale)
        gradient, core = self._empty(c), torch.empty(c, TAPS, dtype=torch.float64)
        given = taps, dshift, dscale, kept.rstd, kept.weight_v, self.moments.mean, params.scale, c
        self._call("image_gradient", *given, core, gradient.weight.flatten(1), *gradient[1:])
        return [None], [gradient], None if u is None else Gradient(u, dscale, core)

    def forward_tangent(
        self,
        x_ts: Sequence[Tensor | None],
        ends: Ends,
        kept: Kept,
        branches: Sequence[BranchParams],
        branches_t: Sequence[BranchParams],
    ) -> tuple[Tensor, Tangent]:
        """Return the tangent of a, and what the backward pass's tangent needs.

        m_t = W_t p; q = mean(h y_t) = r diag(W V W_t'); r_t = -r^2 q.
        """
        (params,), (params_t,) = branches, branches_t
        c = len(params.scale)
        mean_t, q, points, rstd_t, weight_v_t = self._channels(c)
        given = params_t.weight.flatten(1), *self.moments, kept.rstd, kept.weight_v, c
        self._call("image_statistics_tangent", *given, mean_t, q, rstd_t, weight_v_t, points)
        rstd = kept.rstd.to(self.x.dtype)
        channels = rstd, mean_t, q, params.scale, params.shift, params_t.scale, params_t.shift
        h_t, a_t = torch.empty_like(kept.h), torch.empty_like(kept.h)
        planes = *sizes(self.x), c, self._scratch(), h_t, a_t
        self._call("image_tangent", self.x, points, kept.h, kept.where, *channels, *planes)
        return a_t, Tangent(rstd_t, weight_v_t, h_t)

    def backward_tangent(
        self,
        da_t: Tensor,
        ends: Ends,
        kept: Kept,
        gradient: Gradient,
        tangent: Tangent,
        branches: Sequence[BranchParams],
        branches_t: Sequence[BranchParams],
    ) -> tuple[list[Tensor | None], list[BranchParams]]:
        """Return the tangents of the gradients in the parameters: the formulas of `backward`, differentiated."""
        (params,), (params_t,) = branches, branches_t
        sums_t = self._sums(da_t, kept, params, (gradient.u, tangent.h_t), None)
        v = kept.rstd, tangent.rstd_t, kept.weight_v, tangent.weight_v_t
        given = *v, gradient.core, gradient.dscale, self.moments.mean
        c = len(params.scale)
        outcome = self._empty(c)
        self._call(
            "image_gradient_tangent",
            *sums_t,
            *given,
            params.scale,
            params_t.scale,
            c,
            outcome.weight.flatten(1),
            *outcome[1:],
        )
        return [None], [outcome]

    def _sums(
        self, da: Tensor, kept: Kept, params: BranchParams, more: tuple[Tensor, Tensor] | None, u: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return S (27, Co), dt and ds (1, Co) of a gradient, plus the sum of the product of `more` in ds; fill u."""
        c = len(params.scale)
        sums = torch.empty(PARTS * (2 + TAPS), c, dtype=torch.float64)
        given = self.x, da.contiguous(memory_format=torch.channels_last), kept.h, kept.where, params.scale, params.shift
        outcome = *sizes(self.x), c, self._scratch(), u, sums
        self._call("image_backward", *given, *(more or (None, None)), *outcome)
        return sums[2 : 2 + TAPS], sums[:1], sums[1:2]

    def _call(self, kernel: str, *arguments: Tensor | float | None) -> None:
        call(kernel, *arguments, dtype=self.x.dtype)

    def _channels(self, c: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Allocate per channel two numbers and the points of a weight, and in float64 a number and a patch."""
        exact = torch.empty(1, c, dtype=torch.float64), torch.empty(c, TAPS, dtype=torch.float64)
        return self.x.new_empty(c), self.x.new_empty(c), self.x.new_empty(POINTS, c), *exact

    def _empty(self, c: int) -> BranchParams:
        return BranchParams(self.x.new_empty(c, 3, 3, 3), self.x.new_empty(c), self.x.new_empty(c))

    def _scratch(self) -> Tensor:
        _, c, h, w = self.x.shape
        return self.x.new_empty(cores() * c * (h + 2), 2 * (-(-(w // 2) // 16) * 16 + 16))


# Moments by images, with the version of the images that they belong to. Values must not refer to the images.
_MOMENTS: MutableMapping[Tensor, tuple[int, Moments]] = WeakIdKeyDictionary()


def image_block(x: Tensor, first: Tensor, channels: int) -> ImageBlock | None:
    """Return a first block for images x with the statistics of their first images, or None if the kernels do not fit.

    The kernels need three pixel channels, and a multiple of 16 channels of the block. The moments of `first` are cached
    as long as these images exist and do not change.
    """
    if x.shape[1] != 3 or channels % CHANNELS:
        return None
    version, moments = _MOMENTS.get(first, (-1, None))
    if moments is None or version != first._version:
        moments = moments_of(first)
        _MOMENTS[first] = first._version, moments
    return ImageBlock(x, moments)


def moments_of(x: Tensor) -> Moments:
    """Return the moments of images (n, 3, H, W) in channels-last memory."""
    n, c, h, w = x.shape
    total, gram = torch.empty(1, TAPS, dtype=torch.float64), torch.empty(TAPS, TAPS, dtype=torch.float64)
    scratch = torch.empty(cores() * c * (h + 2), -(-w // 8) * 8 + 8, dtype=torch.float64)
    call("image_moments", x, n, h, w, scratch, total, gram, dtype=x.dtype)
    mean = total / (n * h * w)
    return Moments(mean, gram / (n * h * w) - mean.T @ mean)
