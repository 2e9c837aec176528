"""The convolutions of a layer, and their gradients: by torch, as matrix products, and by Winograd's algorithm in C.

Planes are (n, C, H, W) in the memory format of the passes; weights are (Co, Ci, k, k) with padding k // 2. A pair
(x, x_t) is a value and its tangent; the tangent of a product is x_t w + x w_t.
"""

import abc
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from nilr.meta.engine.native import CHANNELS, call, sizes
from nilr.meta.engine.passes import positions

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

    def backward_tangent(
        self, dy: tuple[Tensor | None, Tensor], x: Tangent, weight: tuple[Tensor, Tensor]
    ) -> tuple[Tensor | None, Tensor]:
        """Return the tangents of both gradients; the first is None if dy or the tangent of x is."""
        (gradient, dy_t), (value, x_t), (w, w_t) = dy, x, weight
        if gradient is None or x_t is None:
            return self.backward(dy_t, value, w, input_gradient=False)
        dx_t, dweight_t = self.backward(dy_t, value, w, input_gradient=True)
        dx_more, dweight_more = self.backward(gradient, x_t, w_t, input_gradient=True)
        dx_t = dx_more if dx_t is None or dx_more is None else dx_t.add_(dx_more)
        return dx_t, dweight_t.add_(dweight_more)


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

    def _rounded(self, x: Tensor) -> Tensor:
        return x if self.precision is None else x.to(self.precision)


class MatrixConvolution(Convolution):
    """Any convolution as one matrix product of unfolded windows, in channels-last memory.

    Fast if there are few positions and many channels: torch's convolutions spend their time on reordering the weight.
    """

    @override
    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return _as_planes(_windows(x, weight.shape[-1]) @ _as_matrix(weight).T, x)

    @override
    def forward_tangent(self, x: Tangent, weight: tuple[Tensor, Tensor]) -> Tensor:
        (value, x_t), (w, w_t) = x, weight
        y_t = self.forward(value, w_t)
        return y_t if x_t is None else y_t.add_(self.forward(x_t, w))

    @override
    def backward(self, dy: Tensor, x: Tensor, weight: Tensor, *, input_gradient: bool) -> tuple[Tensor | None, Tensor]:
        kernel, rows = weight.shape[-1], _windows(dy, 1)
        dweight = (rows.T @ _windows(x, kernel)).view(len(weight), kernel, kernel, -1).permute(0, 3, 1, 2)
        return _sum_of_windows(rows @ _as_matrix(weight), x, kernel) if input_gradient else None, dweight


@dataclass(frozen=True)
class WinogradConvolution(Convolution):
    """3x3 convolutions with a quarter of the multiplications (winograd.c), in channels-last memory.

    Others are left to `direct`, and those of few positions and many channels to a matrix product. float32 results
    differ from exact ones about twice as much as those of a direct convolution.
    """

    direct: Convolution

    @override
    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        if not _fits(x, weight):
            return self._other(x, weight).forward(x, weight)
        return _convolve((x, weight), None)

    @override
    def forward_tangent(self, x: Tangent, weight: tuple[Tensor, Tensor]) -> Tensor:
        (value, x_t), (w, w_t) = x, weight
        if not _fits(value, w):
            return self._other(value, w).forward_tangent(x, weight)
        return _convolve((value, w_t), None if x_t is None else (x_t, w))

    @override
    def backward(self, dy: Tensor, x: Tensor, weight: Tensor, *, input_gradient: bool) -> tuple[Tensor | None, Tensor]:
        if not _fits(x, weight):
            return self._other(x, weight).backward(dy, x, weight, input_gradient=input_gradient)
        dx = _convolve((dy, weight), None, flipped=True) if input_gradient else None
        return dx, _weight_gradient((x, dy), None, weight)

    @override
    def backward_tangent(
        self, dy: tuple[Tensor | None, Tensor], x: Tangent, weight: tuple[Tensor, Tensor]
    ) -> tuple[Tensor | None, Tensor]:
        (gradient, dy_t), (value, x_t), (w, w_t) = dy, x, weight
        if not _fits(value, w):
            return self._other(value, w).backward_tangent(dy, x, weight)
        if gradient is None or x_t is None:
            return None, _weight_gradient((value, dy_t), None, w)
        dx_t = _convolve((dy_t, w), (gradient, w_t), flipped=True)
        return dx_t, _weight_gradient((value, dy_t), (x_t, gradient), w)

    def _other(self, x: Tensor, weight: Tensor) -> Convolution:
        few = weight.shape[-1] == 3 and x.shape[1] == weight.shape[1] and positions(x) <= min(weight.shape[:2])
        return MatrixConvolution() if few else self.direct


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


def _windows(x: Tensor, kernel: int) -> Tensor:
    """Return the kernel x kernel window around each position of x, zero outside, as a row: (n H W, kernel kernel C)."""
    rows, around = x.permute(0, 2, 3, 1), kernel // 2
    if kernel > 1:
        padded = torch.nn.functional.pad(rows, (0, 0, around, around, around, around))
        rows = padded.unfold(1, kernel, 1).unfold(2, kernel, 1).permute(0, 1, 2, 4, 5, 3)
    return rows.reshape(rows.shape[:3].numel(), -1)


def _sum_of_windows(windows: Tensor, like: Tensor, kernel: int) -> Tensor:
    """Return planes (n, C, H, W) where each position has the sum of its elements in all windows."""
    n, c, h, w = like.shape
    taps, around = windows.view(n, h, w, kernel, kernel, c), kernel // 2
    padded = windows.new_zeros(n, h + 2 * around, w + 2 * around, c)
    for i in range(kernel):
        for j in range(kernel):
            padded[:, i : i + h, j : j + w] += taps[:, :, :, i, j]
    return (
        padded[:, around : around + h, around : around + w]
        .permute(0, 3, 1, 2)
        .contiguous(memory_format=torch.channels_last)
    )


def _as_matrix(weight: Tensor) -> Tensor:
    """View a weight in channels-last memory as (Co, k k Ci)."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def _as_planes(rows: Tensor, like: Tensor) -> Tensor:
    """View rows (n H W, C) as planes (n, C, H, W)."""
    n, _, h, w = like.shape
    return rows.view(n, h, w, -1).permute(0, 3, 1, 2)
