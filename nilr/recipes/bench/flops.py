"""What the work costs at least, counted from shapes, and how fast this machine convolves.

Only convolutions are counted: all else in these networks is memory traffic. Per image a convolution takes F operations
forward, and F more for each of the gradients in its weight and in its input. Along a tangent a Hessian-vector product
takes 2 F forward and 4 F backward. The gradient in the images and their tangent are not needed, which spares the
convolutions that see them 1 of 3 F, and 4 of 6 F.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nilr.meta.algorithms import Algorithm
from nilr.models.learner import Learner

_CHANNELS = 3
_LEAST_SECONDS = 0.05


@dataclass(frozen=True)
class Convolution:
    """One convolution of a network.

    Attributes:
        weight: shape of its weight, (Co, Ci, H, W).
        image: shape of one input, (Ci, H, W).
        positions: height times width of its output.
        stride: in both directions.
        padding: in both directions.
        first: whether it sees the images themselves.
    """

    weight: tuple[int, ...]
    image: tuple[int, ...]
    positions: int
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    first: bool

    @property
    def flop(self) -> int:
        """Floating-point operations, forward, per image: a multiplication and an addition per weight and position."""
        return 2 * torch.Size(self.weight).numel() * self.positions

    def __str__(self) -> str:
        """Return channels and size of the input."""
        return f"{self.weight[1]} -> {self.weight[0]} channels at {self.image[1]} px"


def convolutions(learner: Learner, image_size: int) -> list[Convolution]:
    """Return the convolutions that the learner's body does, in order."""
    images = torch.empty(2, _CHANNELS, image_size, image_size, device="meta")
    params = {name: value.to("meta") for name, value in learner.initial_params().items()}
    recorder = _Recorder(images)
    with torch.no_grad(), recorder:
        learner.features(params, images)
    return recorder.seen


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every convolution."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[Convolution] = []
        self._images = images

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401 - torch's own signature
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            x, weight, _, stride, padding, *_ = args
            positions = out.shape[2] * out.shape[3]
            shapes = (tuple(weight.shape), tuple(x.shape[1:]), positions, tuple(stride), tuple(padding))
            self.seen.append(Convolution(*shapes, first=x is self._images))
        return out


@dataclass(frozen=True)
class Floor:
    """Operations per image.

    Attributes:
        forward: of a forward pass.
        loss_pass: of a forward and a backward pass.
        hessian: of a Hessian-vector product on a loss pass's kept values.
    """

    forward: int
    loss_pass: int
    hessian: int

    @classmethod
    def of(cls, network: list[Convolution]) -> Floor:
        """Count a network's."""
        forward, first = sum(c.flop for c in network), sum(c.flop for c in network if c.first)
        return cls(forward, 3 * forward - first, 6 * forward - 4 * first)

    def update(self, row: Algorithm, *, support: int, query: int, episodes: int, steps: int) -> int:
        """Return the operations of one meta-gradient.

        Args:
            row: the algorithm; where only the head moves, the body sees the support images once.
            support: support images of an episode.
            query: query images of an episode.
            episodes: how many.
            steps: steps of the inner loop.
        """
        if row.moves == "head":
            inner = self.loss_pass if row.order == 2 else self.forward
        else:
            inner = steps * (self.loss_pass + (self.hessian if row.order == 2 else 0))
        return episodes * (support * inner + query * self.loss_pass)

    def evaluation(self, row: Algorithm, *, support: int, query: int, episodes: int, steps: int) -> int:
        """Return the operations of adapting to episodes and judging them; the arguments are those of `update`."""
        inner = min(steps, 1) * self.forward if row.moves == "head" else steps * self.loss_pass
        return episodes * (support * inner + query * self.forward)


def convolution_rates(network: list[Convolution], batch: int, device: torch.device) -> list[float]:
    """Return operations per second of each of a network's convolutions, forward, in the memory layout that suits it.

    Args:
        network: the convolutions.
        batch: images at once.
        device: where to compute.
    """
    formats = (torch.channels_last, torch.contiguous_format)
    return [max(_rate(c, batch, device, memory_format) for memory_format in formats) for c in network]


def _rate(convolution: Convolution, batch: int, device: torch.device, memory_format: torch.memory_format) -> float:
    x = torch.rand(batch, *convolution.image, device=device).contiguous(memory_format=memory_format)
    weight = torch.rand(convolution.weight, device=device).contiguous(memory_format=memory_format)
    stride, padding = convolution.stride, convolution.padding

    def once() -> None:
        torch.nn.functional.conv2d(x, weight, stride=stride, padding=padding)

    once()
    return batch * convolution.flop / seconds_each(once, device, at_least=_LEAST_SECONDS)


def seconds_each(work: Callable[[], object], device: torch.device, *, at_least: float) -> float:
    """Return the seconds that the work takes, done until `at_least` seconds are over."""
    _wait(device)
    began, times = time.perf_counter(), 0
    while True:
        work()
        times += 1
        _wait(device)
        elapsed = time.perf_counter() - began
        if elapsed >= at_least:
            return elapsed / times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
