"""What a convolutional body is made of, as data: engines compute from it, and `nilr.models` builds modules from it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """A convolution without bias, batch normalisation, activation and 2x2 max-pool, (n, Ci, H, W) -> (n, Co, H', W').

    The convolution has stride 1 and keeps H and W. Its weight is `<name>.conv.weight` (Co, Ci, kernel, kernel); scale
    and shift of the normalisation are `<name>.norm.weight` and `<name>.norm.bias` (Co,).
    """

    name: str  # `block1`, `block1.unit2`, `block1.shortcut`
    in_channels: int  # Ci
    out_channels: int  # Co
    kernel: int = 3  # 1 or 3
    slope: float | None = 0.0  # of the activation below zero: 0 is ReLU; None: no activation
    pool: bool = True  # whether H' and W' are H // 2 and W // 2


@dataclass(frozen=True)
class Residual:
    """Units in a row beside a shortcut; their sum, then activation and 2x2 max-pool (He et al., 2016)."""

    name: str  # `block1`
    units: tuple[Unit, ...]  # the last one has no activation; none pools
    shortcut: Unit  # kernel 1, no activation, no pooling
    slope: float = 0.1  # of the leaky ReLU after the sum
    pool: bool = True


Stage = Unit | Residual
