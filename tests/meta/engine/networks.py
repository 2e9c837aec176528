"""Small bodies, and the same networks written apart from the product: the truth for all engines.

Images of 18 px have an odd side after the first pooling.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nilr.models.conv_body import ConvBody
from nilr.models.learner import Learner
from nilr.models.stages import Residual, Stage, Unit

Tensors = dict[str, Tensor]
SIZE, N_WAY = 18, 3


class Batch:
    """Images on their way through a network, normalised by the statistics of the last `n` ones; 0: of all."""

    def __init__(self, params: Tensors, x: Tensor, n: int) -> None:
        self.params, self.x, self.n = params, x, n

    def normed(self, name: str, x: Tensor | None = None) -> Tensor:
        """Return a unit's convolution and batch normalisation of x."""
        weight = self.params[f"body.{name}.conv.weight"]
        y = F.conv2d(self.x if x is None else x, weight, padding=weight.shape[-1] // 2)
        mean = y[-self.n :].mean((0, 2, 3), keepdim=True)
        variance = ((y[-self.n :] - mean) ** 2).mean((0, 2, 3), keepdim=True)
        scale, shift = (self.params[f"body.{name}.norm.{end}"][:, None, None] for end in ("weight", "bias"))
        return (y - mean) / (variance + 1e-5).sqrt() * scale + shift


def plain_blocks(batch: Batch, n_blocks: int) -> Tensor:
    for i in range(1, n_blocks + 1):
        z = F.relu(batch.normed(f"block{i}"))
        batch.x = F.max_pool2d(z, 2) if i <= 4 else z
    return batch.x


def residual_blocks(batch: Batch, n_blocks: int) -> Tensor:
    for i in range(1, n_blocks + 1):
        z = F.leaky_relu(batch.normed(f"block{i}.unit1"), 0.1)
        z = F.leaky_relu(batch.normed(f"block{i}.unit2", z), 0.1)
        z = batch.normed(f"block{i}.unit3", z) + batch.normed(f"block{i}.shortcut")
        batch.x = F.max_pool2d(F.leaky_relu(z, 0.1), 2)
    return batch.x.mean((2, 3))


def mixed_blocks(batch: Batch) -> Tensor:
    """A leaky block that pools, a 1x1 unit without activation, a residual block that does not pool."""
    batch.x = F.max_pool2d(F.leaky_relu(batch.normed("block1"), 0.1), 2)
    batch.x = batch.normed("block2")
    z = batch.normed("block3.unit2", F.relu(batch.normed("block3.unit1"))) + batch.normed("block3.shortcut")
    batch.x = F.relu(z)
    return F.max_pool2d(F.relu(batch.normed("block4")), 2)


def residual(name: str, inputs: int, outputs: int) -> Residual:
    one, two = (Unit(f"{name}.unit{i}", inputs if i == 1 else outputs, outputs, slope=0.1, pool=False) for i in (1, 2))
    three = Unit(f"{name}.unit3", outputs, outputs, slope=None, pool=False)
    return Residual(name, (one, two, three), Unit(f"{name}.shortcut", inputs, outputs, 1, None, pool=False))


class Network(NamedTuple):
    """A body's stages, and its features written apart from them."""

    stages: tuple[Stage, ...]
    features: Callable[[Batch], Tensor]
    mean: bool = False


def blocks(n_blocks: int, width: int) -> tuple[Unit, ...]:
    return tuple(Unit(f"block{i}", width if i > 1 else 3, width, pool=i <= 4) for i in range(1, n_blocks + 1))


# widths of 16 and 32 are those of the kernels of convolutions; others are left to torch


NETWORKS = {
    "conv4": Network(blocks(4, 16), lambda batch: plain_blocks(batch, 4)),
    "conv6": Network(blocks(6, 4), lambda batch: plain_blocks(batch, 6)),
    "resnet12": Network(
        tuple(residual(f"block{i}", *channels) for i, channels in enumerate([(3, 3), (3, 4), (4, 2), (2, 4)], 1)),
        lambda batch: residual_blocks(batch, 4),
        mean=True,
    ),
    "mixed": Network(
        (
            Unit("block1", 3, 16, slope=0.1),
            Unit("block2", 16, 16, kernel=1, slope=None, pool=False),
            Residual(
                "block3",
                (Unit("block3.unit1", 16, 32, pool=False), Unit("block3.unit2", 32, 16, slope=None, pool=False)),
                Unit("block3.shortcut", 16, 16, 1, None, pool=False),
                slope=0.0,
                pool=False,
            ),
            Unit("block4", 16, 3),
        ),
        mixed_blocks,
    ),
}


def make_learner(arch: str, seed: int = 1) -> Learner:
    """Return a float64 learner for 18 px images and 3 classes."""
    network = NETWORKS[arch]
    body = ConvBody(network.stages, mean=network.mean)
    learner = Learner(body, body.feature_dim(SIZE), N_WAY)
    learner.initialise(torch.Generator().manual_seed(seed))
    return learner.double()


def features(arch: str, params: Tensors, x: Tensor, support: Tensor | None = None) -> Tensor:
    """Return the features from their definition, normalised by the statistics of `support`, if any.

    Images and their support then share one batch, of which only the support's part enters the statistics.
    """
    n = 0 if support is None else len(support)
    x = x if support is None else torch.cat([x, support])
    return NETWORKS[arch].features(Batch(params, x, n))[: len(x) - n].flatten(1)


def logits(arch: str, params: Tensors, x: Tensor, support: Tensor | None = None) -> Tensor:
    return features(arch, params, x, support) @ params["head.weight"].T + params["head.bias"]
