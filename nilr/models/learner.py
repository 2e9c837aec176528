"""A learner: a body that turns images into features, and a linear head that turns features into logits.

During meta-learning a learner holds no state: its functions take `params`, tensors by parameter name
(`body.block1.conv.weight`, ..., `head.weight`, `head.bias`).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from nilr.models.parameters import Kind, layer, part

Params = dict[str, Tensor]
Tensors = Mapping[str, Tensor]  # by parameter name, read only
# By unit of convolution and batch norm, (2, C): the mean and 1/standard deviation of each channel of a batch.
Statistics = Mapping[str, Tensor]

# Modules whose weight and bias scale and shift what they normalise.
_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


class Body(nn.Module):
    """A module whose outputs are a function of given parameters; several threads may call it."""

    keeps_weights = False  # whether a learner starts from the weights that the body was built with
    inductive = True  # whether `statistics` suffice to compute the features of an image without others of its batch

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers, in the order of `activations`."""
        return tuple(dict.fromkeys(layer(name) for name, _ in self.named_parameters()))

    def check_order(self, order: int) -> None:
        """Check that the features have derivatives in the parameters up to this order, else raise ModuleError."""

    def activations(self, params: Tensors, x: Tensor, statistics: Statistics | None = None) -> dict[str, Tensor]:
        """Return the outputs (n, ...) of the layers for images `x` (n, C, H, W), by layer, in order.

        The last output, flattened, is the features; its name need not be one of `layers`. `params` uses the names
        inside this module. Batch normalisation uses `statistics`, by default those of `x`.
        """
        raise NotImplementedError

    def statistics(self, params: Tensors, x: Tensor) -> dict[str, Tensor]:
        """Return the statistics of images `x` (n, C, H, W); none without batch normalisation."""
        raise NotImplementedError


class Learner(nn.Module):
    """Body and head.

    Attributes:
        feature_dim: D, the length of a feature vector.
        kinds: the kind of every parameter, by name, from the type of its module and its own name.
        inputs: mean and standard deviation by which the images are normalised first, each (3, 1, 1); None: not at all.
    """

    inputs: tuple[Tensor, Tensor] | None = None

    def __init__(self, body: Body, feature_dim: int, n_way: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(feature_dim, n_way)
        self.feature_dim = feature_dim
        self.kinds: dict[str, Kind] = {
            f"{prefix}.{name}": _kind(prefix, module, name)
            for prefix, module in self.named_modules()
            for name, _ in module.named_parameters(recurse=False)
        }

    def features(self, params: Tensors, x: Tensor, statistics: Statistics | None = None) -> Tensor:
        """Return the features (n, D) of images `x` (n, C, H, W), normalised by `statistics`, by default those of x."""
        *_, last = self.activations(params, x, statistics).values()
        return last.flatten(1)

    def activations(self, params: Tensors, x: Tensor, statistics: Statistics | None = None) -> dict[str, Tensor]:
        """Return the outputs of the body's layers by name, in order; the last one, flattened, is the features."""
        return self.body.activations(_body(params), self._normalised(x), statistics)

    def statistics(self, params: Tensors, x: Tensor) -> dict[str, Tensor]:
        """Return the statistics of batch normalisation in the body for images `x` (n, C, H, W)."""
        return self.body.statistics(_body(params), self._normalised(x))

    def logits(self, params: Tensors, x: Tensor, statistics: Statistics | None = None) -> Tensor:
        """Return the logits (n, N) of images `x` (n, C, H, W)."""
        return nn.functional.linear(self.features(params, x, statistics), params["head.weight"], params["head.bias"])

    def _normalised(self, x: Tensor) -> Tensor:
        return x if self.inputs is None else (x - self.inputs[0].to(x)) / self.inputs[1].to(x)

    def initial_params(self) -> Params:
        """Return a copy of the parameters that the learner was built with, by name."""
        return {name: value.detach().clone() for name, value in self.named_parameters()}

    def initialise(self, generator: torch.Generator) -> None:
        """Draw weights uniformly as Glorot and Bengio (Understanding the difficulty of training deep networks, 2010).

        Shifts and biases start at 0, scales at 1, as in Finn's code for MAML. A body that `keeps_weights` is unchanged.
        """
        for name, value in self.named_parameters():
            if self.body.keeps_weights and part(name) == "body":
                continue
            if self.kinds[name] in ("convolution weight", "head weight"):
                nn.init.xavier_uniform_(value, generator=generator)
            else:
                nn.init.constant_(value, 1.0 if self.kinds[name] == "norm scale" else 0.0)


def _body(params: Tensors) -> Params:
    return {name.removeprefix("body."): value for name, value in params.items() if part(name) == "body"}


def _kind(prefix: str, module: nn.Module, name: str) -> Kind:
    if prefix == "head":
        return "head bias" if name == "bias" else "head weight"
    if isinstance(module, _NORMS):
        return "norm shift" if name == "bias" else "norm scale"
    if "bias" in name:
        return "bias"
    return "convolution weight" if isinstance(module, _ConvNd) and name == "weight" else "other weight"
