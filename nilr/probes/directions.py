"""Displacements from the meta-initialisation: the one that adaptation takes, and others of its size.

With the meta-initialisation theta and the adapted parameters theta', the displacement of the whole inner loop is
d = theta' - theta. An effect that is due to its direction differs from that of another direction of the same size.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from nilr.episodes import stream_seed
from nilr.models.learner import Params
from nilr.models.parameters import layer, part

LEARNED, NEGATIVE, TWICE, RANDOM_SIGNS, GAUSSIAN = "learned", "negative", "twice", "random-signs", "gaussian"


class Displacement(NamedTuple):
    """A displacement in place of the learned one, and what it moves."""

    direction: str  # a name in `DIRECTIONS`
    part: str  # "body" or one of its layers; the rest stays at the meta-initialisation


Direction = Callable[[Tensor, torch.Generator], Tensor]
"""Maps the learned displacement of one tensor to another of its shape."""


def _random_signs(d: Tensor, generator: torch.Generator) -> Tensor:
    return torch.where(torch.randint(2, d.shape, generator=generator).to(d.device) > 0, d, -d)


def _gaussian(d: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(d.shape, generator=generator, dtype=torch.float64).to(d.device)
    scaled: Tensor = noise * (d.double().norm() / noise.norm())
    return scaled.to(d.dtype)


DIRECTIONS: dict[str, Direction] = {
    LEARNED: lambda d, _: d,
    NEGATIVE: lambda d, _: -d,
    TWICE: lambda d, _: 2 * d,
    RANDOM_SIGNS: _random_signs,  # the same size of each element
    GAUSSIAN: _gaussian,  # the same Euclidean norm of the tensor
}


def displace(
    params: Mapping[str, Tensor], adapted: Mapping[str, Tensor], displacement: Displacement, *, seed: int, stream: str
) -> Params:
    """Return the parameters after a displacement from `params`, derived from that to `adapted`.

    Each tensor has its own random stream, from `seed`, the name `stream`, the direction and the tensor's name. So a
    layer moves alike whether or not the rest of the body moves too.
    """
    moved = dict(params)
    for name, start in params.items():
        if displacement.part in (part(name), layer(name)):
            drawn = stream_seed(seed, f"directions/{displacement.direction}/{stream}/{name}")
            direction = DIRECTIONS[displacement.direction]
            moved[name] = start + direction(adapted[name] - start, torch.Generator().manual_seed(drawn))
    return moved
