"""A layer with one branch in C (layer.c), in channels-last memory on the CPU: after a convolution one call per pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nilr.meta.engine.convolution import Convolution
from nilr.meta.engine.layer import BranchParams, Ends
from nilr.meta.engine.native import call, empty_pooled, sizes
from nilr.meta.engine.passes import NativePasses, Term
from nilr.models.conv_body import EPS


class Kept(NamedTuple):
    """What the forward pass keeps: planes, the positions of the pooled values (if any), and mean, rstd, k (3, C)."""

    y: Tensor
    p: Tensor
    where: Tensor | None
    channels: Tensor

    @property
    def moments(self) -> list[tuple[Tensor, Tensor]]:
        """The mean and 1/standard deviation of its one branch."""
        return [(self.channels[0], self.channels[1])]


class Gradient(NamedTuple):
    """What the backward pass keeps for its tangent: u, dy if x has a gradient, and dshift, dscale, k r, c (4, C)."""

    u: Tensor
    dy: Tensor | None
    channels: Tensor


class Tangent(NamedTuple):
    """What the tangent's forward pass keeps: tangents of x, y and p, and mean_t, q (2, C)."""

    x_t: Tensor | None
    y_t: Tensor
    p_t: Tensor
    channels: Tensor


@dataclass(frozen=True)
class NativeLayer:
    """A layer with the methods, the formulas and the names of `ConvLayer`."""

    convolution: Convolution
    slope: float
    pool: bool
    first: int | None

    def forward(
        self, xs: Sequence[Tensor], params: Sequence[BranchParams], *, last: bool = False
    ) -> tuple[Tensor, Kept]:
        """Return a, and what the other passes need."""
        (x,), (of,) = xs, params
        y = self.convolution.forward(x, of.weight)
        n, c = y.shape[:2]
        a = empty_pooled(y, c, y.dtype) if self.pool else torch.empty_like(y)
        p, where = (torch.empty_like(a), torch.empty_like(a, dtype=torch.uint8)) if self.pool else (y, None)
        channels = y.new_empty(3, c)
        first = n if self.first is None else self.first
        planes = *sizes(y), c, p, where, channels, a
        call("layer_forward", y, of.scale, of.shift, self.slope, EPS, first, *planes, dtype=y.dtype)
        return a, Kept(y, p, where, channels)

    def output(self, kept: Kept, params: Sequence[BranchParams]) -> Tensor:
        """Return a again, to the same bits, of a layer without pooling."""
        mean, _, k = kept.channels
        return NativePasses().normalise([Term(kept.p, mean, k)], params[0].shift, self.slope)

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
        """Return the gradients in x and in the parameters, and what the tangent needs."""
        ((x,), a), (y, p, where, channels) = ends, kept
        u = da.contiguous(memory_format=torch.channels_last)
        dy = y if last else torch.empty_like(y)
        gradients = y.new_empty(4, y.shape[1])
        first = len(y) if self.first is None else self.first
        planes = y, p, where, channels, first, *sizes(y), y.shape[1], dy, gradients
        call("layer_backward", u, a, self.slope, *planes, dtype=y.dtype)
        dx, dweight = self.convolution.backward(dy, x, params[0].weight, input_gradient=needed[0])
        outcome = BranchParams(dweight, gradients[1], gradients[0])
        return [dx], [outcome], None if last else Gradient(u, dy if needed[0] else None, gradients)

    def forward_tangent(
        self,
        x_ts: Sequence[Tensor | None],
        ends: Ends,
        kept: Kept,
        params: Sequence[BranchParams],
        params_t: Sequence[BranchParams],
    ) -> tuple[Tensor, Tangent]:
        """Return the tangent of a, and what the backward pass's tangent needs."""
        (x_t,), (of,), (of_t,) = x_ts, params, params_t
        ((x,), a), (y, p, where, channels) = ends, kept
        y_t = self.convolution.forward_tangent((x, x_t), (of.weight, of_t.weight))
        p_t = y_t if where is None else torch.empty_like(p)
        tangents, a_t = y.new_empty(2, y.shape[1]), torch.empty_like(a)
        given = y, y_t, p, where, channels, of_t.scale, of_t.shift, a, self.slope
        call("layer_tangent", *given, *sizes(y), y.shape[1], p_t, tangents, a_t, dtype=y.dtype)
        return a_t, Tangent(x_t, y_t, p_t, tangents)

    def backward_tangent(
        self,
        da_t: Tensor,
        ends: Ends,
        kept: Kept,
        gradient: Gradient,
        tangent: Tangent,
        params: Sequence[BranchParams],
        params_t: Sequence[BranchParams],
    ) -> tuple[list[Tensor | None], list[BranchParams]]:
        """Return the tangents of the gradients in x and in the parameters."""
        (of,), (of_t,) = params, params_t
        ((x,), a), (y, p, where, channels) = ends, kept
        u_t = da_t.contiguous(memory_format=torch.channels_last)
        dy_t, gradients_t = torch.empty_like(y), y.new_empty(2, y.shape[1])
        planes = u_t, gradient.u, a, self.slope, y, tangent.y_t, p, tangent.p_t, where
        of_channels = channels, gradient.channels, tangent.channels, of.scale, of_t.scale
        outcome = *sizes(y), y.shape[1], dy_t, gradients_t
        call("layer_backward_tangent", *planes, *of_channels, *outcome, dtype=y.dtype)
        dx_t, dweight_t = self.convolution.backward_tangent(
            (gradient.dy, dy_t), (x, tangent.x_t), (of.weight, of_t.weight)
        )
        return [dx_t], [BranchParams(dweight_t, gradients_t[1], gradients_t[0])]
