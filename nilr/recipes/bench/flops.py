"""Floating-point operations that the work needs, and how fast this machine convolves.

Only convolutions are counted: everything else in these networks is memory traffic. torch counts a forward pass, F, and
a forward and backward pass without the gradient of the images, L; a convolution of the images spares one of its 3 F. A
Hessian-vector product on the kept values takes 2 F forward and 4 F backward along the tangent, of which a convolution
of the images spares 4 F. This makes 6 F - 4 (3 F - L) = 4 L - 6 F.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from nilr.meta.algorithms import Algorithm
from nilr.models.learner import Learner

_IMAGES = 2  # batch norm needs more than one
_LEAST_SECONDS = 0.05


@dataclass(frozen=True)
class Convolution:
    """One convolution of a network."""

    image: tuple[int, ...]  # shape of one input, (Ci, H, W)
    weight: tuple[int, ...]  # shape of its weight, (Co, Ci, H, W)
    options: tuple[Any, ...]  # stride, padding, dilation and groups, as `torch.conv2d` takes them
    flop: int  # operations per image, forward; a multiplication and an addition are two

    def __str__(self) -> str:
        """Return channels and size of the input, and the size of a kernel other than 3x3."""
        kernel = "" if self.weight[-1] == 3 else f"{self.weight[-1]}x{self.weight[-1]}, "
        return f"{kernel}{self.weight[1]} -> {self.weight[0]} channels at {self.image[1]} px"


@dataclass(frozen=True)
class NeededFlop:
    """Operations that a network needs per image."""

    convolutions: tuple[Convolution, ...]  # the network's convolutions, in order
    forward: int  # of a forward pass
    loss_pass: int  # of a forward and a backward pass

    @classmethod
    def of(cls, learner: Learner, image_size: int, channels: int = 3) -> "NeededFlop":
        """Count the operations of a learner's body, without computing anything."""
        found: list[Convolution] = []

        def convolution(x: Any, weight: Any, _: Any, *options: Any, out_shape: Any) -> int:  # noqa: ANN401 - shapes
            stride, padding, dilation, _transposed, _output_padding, groups = options
            flop: int = conv_flop_count(x, weight, out_shape)
            found.append(Convolution(tuple(x[1:]), tuple(weight), (stride, padding, dilation, groups), flop // x[0]))
            return flop

        params = {name: value.to("meta").requires_grad_() for name, value in learner.initial_params().items()}
        images = torch.empty(_IMAGES, channels, image_size, image_size, device="meta")
        aten = torch.ops.aten
        with FlopCounterMode(display=False, custom_mapping={aten.convolution: convolution}) as counter:
            learner.features(params, images).sum().backward()  # type: ignore[no-untyped-call]
        counts = counter.get_flop_counts()["Global"]
        forward, backward = counts[aten.convolution], counts[aten.convolution_backward]
        return cls(tuple(found), forward // _IMAGES, (forward + backward) // _IMAGES)

    @property
    def hessian(self) -> int:
        """Operations of a Hessian-vector product on the values that a loss pass has kept."""
        return 4 * self.loss_pass - 6 * self.forward

    def update(self, algorithm: Algorithm, *, support: int, query: int, episodes: int, steps: int) -> int:
        """Return the operations of one meta-gradient. If only the head moves, the body computes the support once."""
        if algorithm.moves == "head":
            inner = self.loss_pass if algorithm.order == 2 else self.forward
        else:
            inner = steps * (self.loss_pass + (self.hessian if algorithm.order == 2 else 0))
        return episodes * (support * inner + query * self.loss_pass)

    def evaluation(self, algorithm: Algorithm, *, support: int, query: int, episodes: int, steps: int) -> int:
        """Return the operations of adapting to episodes and classifying their queries; arguments as in `update`."""
        inner = min(steps, 1) * self.forward if algorithm.moves == "head" else steps * self.loss_pass
        return episodes * (support * inner + query * self.forward)


def convolution_rate(convolution: Convolution, batch: int, device: torch.device) -> float:
    """Return the operations per second of a forward convolution, in its faster memory layout."""
    return max(_rate(convolution, batch, device, layout) for layout in (torch.channels_last, torch.contiguous_format))


def _rate(convolution: Convolution, batch: int, device: torch.device, layout: torch.memory_format) -> float:
    x = torch.rand(batch, *convolution.image, device=device).contiguous(memory_format=layout)
    weight = torch.rand(convolution.weight, device=device).contiguous(memory_format=layout)

    def once() -> None:
        torch.nn.functional.conv2d(x, weight, None, *convolution.options)

    once()
    return batch * convolution.flop / seconds_each(once, device, at_least=_LEAST_SECONDS)


def seconds_each(work: Callable[[], object], device: torch.device, *, at_least: float) -> float:
    """Return the seconds that the work takes, repeated until `at_least` seconds are over."""
    _synchronise(device)
    start, times = time.perf_counter(), 0
    while True:
        work()
        times += 1
        _synchronise(device)
        elapsed = time.perf_counter() - start
        if elapsed >= at_least:
            return elapsed / times


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
