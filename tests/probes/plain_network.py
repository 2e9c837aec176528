"""A Conv4 and its episodes, in float64 and without the product's code."""

from __future__ import annotations

import torch
from torch import Tensor

from nilr.episodes import Episode

N_WAY, SIZE = 3, 16


def standardised(y: Tensor, of: Tensor) -> Tensor:
    mean = of.mean((0, 2, 3), keepdim=True)
    return (y - mean) / ((of - mean).square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()


def logits(params: dict[str, Tensor], support: Tensor, query: Tensor, batch_stats: str) -> Tensor:
    """Return the logits of the queries."""
    a, b = support, query
    for i in range(1, 5):
        prefix = f"body.block{i}."
        scale, shift = (params[f"{prefix}norm.{name}"][:, None, None] for name in ("weight", "bias"))
        a, b = (torch.nn.functional.conv2d(x, params[f"{prefix}conv.weight"], padding=1) for x in (a, b))
        both = torch.cat([a, b])
        of_a, of_b = {"apart": (a, b), "together": (both, both), "inductive": (a, a)}[batch_stats]
        a, b = standardised(a, of_a) * scale + shift, standardised(b, of_b) * scale + shift
        a, b = (x.relu().unfold(2, 2, 2).unfold(3, 2, 2).amax((-2, -1)) for x in (a, b))
    return b.flatten(1) @ params["head.weight"].T + params["head.bias"]


def episode(seed: int) -> Episode:
    """Return an episode of random images, with two queries per class."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(N_WAY + 2 * N_WAY, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    labels = torch.arange(N_WAY)
    return Episode(x[:N_WAY], labels, x[N_WAY:], labels.repeat_interleave(2))
