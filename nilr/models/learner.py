"""A learner: a body that turns images into features, and a linear head that turns features into logits.

During meta-learning a learner holds no state: its functions take `params`, tensors by parameter name
(`body.block1.conv.weight`, ..., `head.weight`, `head.bias`).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nilr.models.parameters import Kind, part

Params = dict[str, Tensor]
Tensors = Mapping[str, Tensor]  # by parameter name, read only
# By unit of convolution and batch norm, (2, C): the mean and 1/standard deviation of each channel of a batch.
Statistics = Mapping[str, Tensor]

_KINDS: dict[type[nn.Module], dict[str, Kind]] = {
    nn.Conv2d: {"weight": "convolution weight"},
    nn.BatchNorm2d: {"weight": "norm scale", "bias": "norm shift"},
    nn.Linear: {"weight": "head weight", "bias": "head bias"},
}


class Body(nn.Module):
    """A module whose outputs are a function of given parameters; several threads may call it."""

    def activations(self, params: Tensors, x: Tensor, statistics: Statistics | None = None) -> dict[str, Tensor]:
        """Return the outputs (n, C, H, W) of the layers for images `x` (n, C, H, W), by layer, in order.

        The last output, flattened, is the features. `params` uses the names inside this module. Batch normalisation
        uses `statistics`, by default those of `x`.
        """
        raise NotImplementedError

    def statistics(self, params: Tensors, x: Tensor) -> dict[str, Tensor]:
        """Return the statistics of images `x` (n, C, H, W); none without batch normalisation."""
        raise NotImplementedError


class Learner(nn.Module):
    """Body and head.

    Attributes:
        feature_dim: D, the length of a feature vector.
        kinds: the kind of every parameter, by name, from the type of its module.
    """

    def __init__(self, body: Body, feature_dim: int, n_way: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(feature_dim, n_way)
        self.feature_dim = feature_dim
        self.kinds: dict[str, Kind] = {
            f"{prefix}.{name}": _KINDS[type(module)][name]
            for prefix, module in self.named_modules()
            for name, _ in module.named_parameters(recurse=False)
        }

    def features(self, params: Tensors, x: Tensor, statistics: Statistics | None = None) -> Tensor:
        """Return the features (n, D) of images `x` (n, C, H, W), normalised by `statistics`, by default those of x."""
        *_, last = self.activations(params, x, statistics).values()
        return last.flatten(1)

    def activations(self, params: Tensors, x: Tensor, statistics: Statistics | None = None) -> dict[str, Tensor]:
        """Return the outputs of the body's layers by name, in order; the last one, flattened, is the features."""
        return self.body.activations(_body(params), x, statistics)

    def statistics(self, params: Tensors, x: Tensor) -> dict[str, Tensor]:
        """Return the statistics of batch normalisation in the body for images `x` (n, C, H, W)."""
        return self.body.statistics(_body(params), x)

    def logits(self, params: Tensors, x: Tensor, statistics: Statistics | None = None) -> Tensor:
        """Return the logits (n, N) of images `x` (n, C, H, W)."""
        return nn.functional.linear(self.features(params, x, statistics), params["head.weight"], params["head.bias"])

    def initial_params(self) -> Params:
        """Return a copy of the parameters that the learner was built with, by name."""
        return {name: value.detach().clone() for name, value in self.named_parameters()}

    def initialise(self, generator: torch.Generator) -> None:
        """Draw weights uniformly as Glorot and Bengio (Understanding the difficulty of training deep networks, 2010).

        Shifts and biases start at 0, scales at 1, as in Finn's code for MAML.
        """
        for name, value in self.named_parameters():
            if self.kinds[name] in ("convolution weight", "head weight"):
                nn.init.xavier_uniform_(value, generator=generator)
            else:
                nn.init.constant_(value, 1.0 if self.kinds[name] == "norm scale" else 0.0)


def _body(params: Tensors) -> Params:
    return {name.removeprefix("body."): value for name, value in params.items() if part(name) == "body"}
