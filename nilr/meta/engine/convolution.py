"""The convolutions of a layer, and their gradients: by torch, and by Winograd's algorithm in C.

Planes are (n, C, H, W) in the memory format of the passes; weights are (Co, Ci, k, k) with padding k // 2. A pair
(x, x_t) is a value and its tangent; the tangent of a product is x_t w + x w_t.
"""

import abc
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from nilr.meta.engine.native import CHANNELS, call, sizes

Tangent = tuple[Tensor, Tensor | None]  # a value and its tangent; None: it has none


class Convolution(abc.ABC):
    """One implementation of the convolutions."""

    @abc.abstractmethod
    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return y."""

    @abc.abstractmethod
    def forward_tangent(self, x: Tangent, weight: tuple[Tensor, Tensor]) -> Tensor:
        """Return the tangent of y."""

    @abc.abstractmethod
    def backward(self, dy: Tensor, x: Tensor, weight: Tensor, *, input_gradient: bool) -> tuple[Tensor | None, Tensor]:
        """Return the gradients in x (if wanted) and in the weight."""

    @abc.abstractmethod
    def backward_tangent(
        self, dy: tuple[Tensor | None, Tensor], x: Tangent, weight: tuple[Tensor, Tensor]
    ) -> tuple[Tensor | None, Tensor]:
        """Return the tangents of both gradients; the first is None if dy or the tangent of x is."""


@dataclass(frozen=True)
class TorchConvolution(Convolution):
    """Any convolution, on any device.

    Channels may be those of G episodes side by side, (n, G*C, H, W), with weights (G*Co, Ci, k, k). Inputs are rounded
    to a precision if there is one.
    """

    memory_format: torch.memory_format
    precision: torch.dtype | None = None

    @override
    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        groups = x.shape[1] // weight.shape[1]
        padding = weight.shape[-1] // 2
        y = torch.nn.functional.conv2d(self._rounded(x), self._rounded(weight), padding=padding, groups=groups)
        return y.to(x.dtype).contiguous(memory_format=self.memory_format)

    @override
    def forward_tangent(self, x: Tangent, weight: tuple[Tensor, Tensor]) -> Tensor:
        (value, x_t), (w, w_t) = x, weight
        if x_t is None:
            return self.forward(value, w_t)
        both = _beside(value, x_t, w.shape[1]).contiguous(memory_format=self.memory_format)
        return self.forward(both, torch.cat([w_t, w], 1))

    @override
    def backward(self, dy: Tensor, x: Tensor, weight: Tensor, *, input_gradient: bool) -> tuple[Tensor | None, Tensor]:
        inputs = (self._rounded(value) for value in (dy, x, weight))
        groups, padding = x.shape[1] // weight.shape[1], [weight.shape[-1] // 2] * 2
        dx, dweight, _ = torch.ops.aten.convolution_backward(
            *inputs, None, [1, 1], padding, [1, 1], False, [0, 0], groups, [input_gradient, True, False]
        )
        if not input_gradient:
            return None, dweight.to(weight.dtype)
        return dx.to(x.dtype).contiguous(memory_format=self.memory_format), dweight.to(weight.dtype)

    @override
    def backward_tangent(
        self, dy: tuple[Tensor | None, Tensor], x: Tangent, weight: tuple[Tensor, Tensor]
    ) -> tuple[Tensor | None, Tensor]:
        (gradient, dy_t), (value, x_t), (w, w_t) = dy, x, weight
        if gradient is None or x_t is None:
            return self.backward(dy_t, value, w, input_gradient=False)
        dx_t, dweight_t = self.backward(dy_t, value, w, input_gradient=True)
        dx_more, dweight_more = self.backward(gradient, x_t, w_t, input_gradient=True)
        dx_t = dx_more if dx_t is None or dx_more is None else dx_t.add_(dx_more)
        return dx_t, dweight_t.add_(dweight_more)

    def _rounded(self, x: Tensor) -> Tensor:
        return x if self.precision is None else x.to(self.precision)


@dataclass(frozen=True)
class WinogradConvolution(Convolution):
    """3x3 convolutions with a quarter of the multiplications (winograd.c), in channels-last memory; others by `direct`.

    float32 results differ from exact ones about twice as much as those of a direct convolution.
    """

    direct: Convolution

    @override
    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        if not _fits(x, weight):
            return self.direct.forward(x, weight)
        return _convolve((x, weight), None)

    @override
    def forward_tangent(self, x: Tangent, weight: tuple[Tensor, Tensor]) -> Tensor:
        (value, x_t), (w, w_t) = x, weight
        if not _fits(value, w):
            return self.direct.forward_tangent(x, weight)
        return _convolve((value, w_t), None if x_t is None else (x_t, w))

    @override
    def backward(self, dy: Tensor, x: Tensor, weight: Tensor, *, input_gradient: bool) -> tuple[Tensor | None, Tensor]:
        if not _fits(x, weight):
            return self.direct.backward(dy, x, weight, input_gradient=input_gradient)
        dx = _convolve((dy, weight), None, flipped=True) if input_gradient else None
        return dx, _weight_gradient((x, dy), None, weight)

    @override
    def backward_tangent(
        self, dy: tuple[Tensor | None, Tensor], x: Tangent, weight: tuple[Tensor, Tensor]
    ) -> tuple[Tensor | None, Tensor]:
        (gradient, dy_t), (value, x_t), (w, w_t) = dy, x, weight
        if not _fits(value, w):
            return self.direct.backward_tangent(dy, x, weight)
        if gradient is None or x_t is None:
            return None, _weight_gradient((value, dy_t), None, w)
        dx_t = _convolve((dy_t, w), (gradient, w_t), flipped=True)
        return dx_t, _weight_gradient((value, dy_t), (x_t, gradient), w)


def _fits(x: Tensor, weight: Tensor) -> bool:
    """Return whether the kernels support a convolution, and need less time for it than a direct one.

    In multiplications for each pair of channels: 36 per tile of 4x4 outputs, and the transform of the weight, which
    costs as much as some tiles do, against 9 per output.
    """
    (n, _, h, w), (co, ci, kernel, _) = x.shape, weight.shape
    if kernel != 3 or ci % CHANNELS or co % CHANNELS or x.shape[1] != ci:
        return False
    tiles, of_weight = n * -(-h // 4) * -(-w // 4), 8 + max(ci, co) // 16
    return 36 * (tiles + of_weight) < 9 * n * h * w


def _convolve(of: tuple[Tensor, Tensor], more: tuple[Tensor, Tensor] | None, *, flipped: bool = False) -> Tensor:
    """Return conv(x, w), or a sum of two; w may be in any memory format."""
    co, ci = of[1].shape[:2]
    x, *others = (value.contiguous(memory_format=torch.channels_last) for value in (*of, *(more or ())))
    y = torch.empty(len(x), ci if flipped else co, *x.shape[2:], dtype=x.dtype, memory_format=torch.channels_last)
    terms = x, *others, *(() if more else (None, None))
    call("convolve", *terms, *sizes(x), ci, co, int(flipped), y, dtype=x.dtype)
    return y


def _weight_gradient(of: tuple[Tensor, Tensor], more: tuple[Tensor, Tensor] | None, weight: Tensor) -> Tensor:
    co, ci = weight.shape[:2]
    dweight = torch.empty(weight.shape, dtype=weight.dtype, memory_format=torch.channels_last)
    call("convolve_weight", *of, *(more or (None, None)), *sizes(of[0]), ci, co, dweight, dtype=weight.dtype)
    return dweight


def _beside(x: Tensor, y: Tensor, channels: int) -> Tensor:
    """Return the channels of each episode's x and y side by side."""
    if x.shape[1] == channels:
        return torch.cat([x, y], 1)
    separate = [z.reshape(len(z), -1, channels, *z.shape[2:]) for z in (x, y)]
    return torch.cat(separate, 2).flatten(1, 2)
