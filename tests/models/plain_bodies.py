"""The bodies as their papers describe them: modules of torch, written apart from the product's."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.func import functional_call

# arguments of small bodies, by architecture
SMALL: dict[str, dict[str, object]] = {
    "conv4": {"filters": 4},
    "conv4-leaky": {"filters": 4},
    "conv6": {"filters": 4},
    "resnet12": {"widths": (4, 3, 5, 4)},
}


class Unit(nn.Sequential):
    """Convolution and batch norm."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3) -> None:
        super().__init__()
        self.add_module("conv", nn.Conv2d(c_in, c_out, kernel, padding="same", bias=False))
        self.add_module("norm", nn.BatchNorm2d(c_out, track_running_stats=False))


class Plain(Unit):
    """A block of conv4, conv4-leaky and conv6."""

    def __init__(self, c_in: int, c_out: int, *, pool: bool, slope: float) -> None:
        super().__init__(c_in, c_out)
        self.add_module("relu", nn.LeakyReLU(slope))
        if pool:
            self.add_module("pool", nn.MaxPool2d(2))


class Block(nn.Module):
    """A block of ResNet-12."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.unit1, self.unit2, self.unit3 = Unit(c_in, c_out), Unit(c_out, c_out), Unit(c_out, c_out)
        self.shortcut = Unit(c_in, c_out, 1)
        self.act, self.pool = nn.LeakyReLU(0.1), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        z = self.unit3(self.act(self.unit2(self.act(self.unit1(x)))))
        pooled: Tensor = self.pool(self.act(z + self.shortcut(x)))
        return pooled


class Body(nn.Module):
    """Blocks named block1, block2..., then the features."""

    def __init__(self, blocks: Sequence[nn.Module], *, mean: bool) -> None:
        super().__init__()
        self.blocks = [f"block{i}" for i in range(1, len(blocks) + 1)]
        for name, block in zip(self.blocks, blocks, strict=True):
            self.add_module(name, block)
        self.mean = mean

    def forward(self, x: Tensor) -> Tensor:
        for name in self.blocks:
            x = getattr(self, name)(x)
        return nn.functional.adaptive_avg_pool2d(x, 1).flatten(1) if self.mean else x.flatten(1)


def plain_body(arch: str) -> Body:
    if arch == "resnet12":
        widths = (3, 4, 3, 5, 4)
        return Body([Block(*pair) for pair in itertools.pairwise(widths)], mean=True)
    n_blocks, slope = {"conv4": (4, 0.0), "conv4-leaky": (4, 0.01), "conv6": (6, 0.0)}[arch]
    return Body([Plain(4 if i else 3, 4, pool=i < 4, slope=slope) for i in range(n_blocks)], mean=False)


def plain_features(arch: str, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Return the features of the small body."""
    body = {name.removeprefix("body."): value for name, value in params.items() if name.startswith("body.")}
    features: Tensor = functional_call(plain_body(arch), body, (x,), strict=True)
    return features


def plain_logits(arch: str, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    return plain_features(arch, params, x) @ params["head.weight"].T + params["head.bias"]
