"""A learner: a body that turns images into features, and a linear head that turns features into logits.

A learner holds no state of its own during meta-learning: its functions take `params`, a `dict[str, Tensor]` by
parameter name (`body.block1.conv.weight`, ..., `head.weight`, `head.bias`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

Params = dict[str, Tensor]
Tensors = Mapping[str, Tensor]  # by parameter name, read only
Kind = Literal["convolution weight", "norm scale", "norm shift", "head weight", "head bias"]

_KINDS: dict[str, Kind] = {
    "conv.weight": "convolution weight",
    "norm.weight": "norm scale",
    "norm.bias": "norm shift",
    "head.weight": "head weight",
    "head.bias": "head bias",
}


class Body(nn.Module):
    """A module whose outputs are a function of parameters that are given; it may be called from several threads."""

    def activations(self, params: Mapping[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        """Return the outputs (n, C, H, W) of the layers for images `x` (n, C, H, W), in order.

        The last one, flattened, is the features. The parameters go by their names in the module.
        """
        raise NotImplementedError


class Learner(nn.Module):
    """Body and head.

    Args:
        body: holds the body's parameters, and maps parameters and images (n, C, H, W) to features (n, feature_dim).
        feature_dim: D, the length of a feature vector.
        n_way: N, the number of classes the head tells apart.
    """

    def __init__(self, body: Body, feature_dim: int, n_way: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(feature_dim, n_way)
        self.feature_dim = feature_dim

    def features(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Return the features (n, D) of images `x` (n, C, H, W), normalised by this batch's own statistics."""
        *_, last = self.activations(params, x).values()
        return last.flatten(1)

    def activations(self, params: Mapping[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        """Return the outputs of the body's layers by name, in order; the last one, flattened, is the features."""
        body = {name.removeprefix("body."): value for name, value in params.items() if part(name) == "body"}
        return self.body.activations(body, x)

    def logits(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Return the logits (n, N) of images `x` (n, C, H, W)."""
        return nn.functional.linear(self.features(params, x), params["head.weight"], params["head.bias"])

    def initial_params(self) -> Params:
        """Return a copy of the parameters the learner was built with, by name."""
        return {name: value.detach().clone() for name, value in self.named_parameters()}


def part(name: str) -> Literal["body", "head"]:
    """Tell whether the parameter belongs to the body or to the head."""
    return "head" if name.startswith("head.") else "body"


def layer(name: str) -> str:
    """Return the parameter's layer: `block1`, ..., `head`."""
    return "head" if part(name) == "head" else name.split(".")[1]


def kind(name: str) -> Kind:
    """Return what the parameter is, from the last two words of its name."""
    return _KINDS[".".join(name.split(".")[-2:])]


def initialise(learner: nn.Module, generator: torch.Generator) -> None:
    """Draw weights uniformly as Glorot and Bengio (Understanding the difficulty of training deep networks, 2010).

    Shifts and biases start at 0, scales at 1, as in Finn's code for MAML.
    """
    for name, value in learner.named_parameters():
        if kind(name) in ("convolution weight", "head weight"):
            nn.init.xavier_uniform_(value, generator=generator)
        else:
            nn.init.constant_(value, 1.0 if kind(name) == "norm scale" else 0.0)
