"""What a Conv4 block does, however it is done: forward, backward, and the tangents of both.

Notation: a block maps x (n, Ci, H, W) to a (n, Co, H/2, W/2). y is the convolution's output, m and r its channels'
mean and 1/standard deviation over M = n*H*W positions, h = (y - m) r, z = s h + t with scale s and shift t, and a is
relu(z), pooled. A suffix `_t` marks a tangent, a prefix `d` the gradient of the loss.

A block pools the raw y and applies the rest to the pooled values, a quarter of the work: z grows with y where s > 0 and
falls with it where s < 0, so the block pools sign(s) y. This is exact; where s is exactly 0, the gradient in s is that
of s -> 0 from above.

Everything is in channels-last memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from torch import Tensor

Kept = Any  # what a pass keeps for later ones is the block's own affair


class BlockParams(NamedTuple):
    """Convolution weight (Co, Ci, 3, 3), norm scale (Co,), norm shift (Co,)."""

    weight: Tensor
    scale: Tensor
    shift: Tensor


class Block(Protocol):
    """One way to do it."""

    def forward(self, x: Tensor, params: BlockParams, *, last: bool = False) -> tuple[Tensor, Kept]:
        """Return a, and what the other passes need; nothing comes after the `last` pass."""

    def backward(
        self, da: Tensor, kept: Kept, params: BlockParams, *, input_gradient: bool, last: bool = False
    ) -> tuple[Tensor | None, BlockParams, Kept]:
        """Return the gradients in x (if asked for) and in the parameters, and what the tangent needs.

        Nothing comes after the `last` pass: `kept` may be overwritten, and the tangent's need is not met.
        """

    def forward_tangent(
        self, x_t: Tensor | None, kept: Kept, params: BlockParams, params_t: BlockParams
    ) -> tuple[Tensor, Kept]:
        """Return the tangent of a, and what the backward pass's tangent needs; the first block's x has no tangent."""

    def backward_tangent(
        self, da_t: Tensor, kept: Kept, gradient: Kept, tangent: Kept, params: BlockParams, params_t: BlockParams
    ) -> tuple[Tensor | None, BlockParams]:
        """Return the tangents of the gradients in x (where x has one) and in the parameters."""
