"""A convolutional body as a module, built from its description in `nilr.models.stages`."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from nilr.models.learner import Body, Statistics, Tensors
from nilr.models.stages import Residual, Stage, Unit

EPS = 1e-5  # of batch norm


class ConvBody(Body):
    """Stages in a row, (n, 3, S, S) -> (n, C, S', S'), with S halved and rounded down by each pooling.

    A convolution has no bias: before batch norm its gradient is zero, and a learned rate for it has no signal. Batch
    norm uses the given statistics, else those of the current batch.

    Attributes:
        stages: the stages, in order; their names are those of the layers.
        units: the units of all stages, in the order in which they are computed.
        mean: whether the features are the means over positions, (n, C, 1, 1).
        n_poolings: the number of 2x2 max-pools.
    """

    def __init__(self, stages: Sequence[Stage], *, mean: bool = False) -> None:
        super().__init__()
        self.stages, self.mean = tuple(stages), mean
        self.units = tuple(unit for stage in self.stages for unit in _units(stage))
        self.n_poolings = sum(stage.pool for stage in self.stages)
        for unit in self.units:
            _add_module(self, unit.name, _Parameters(unit))

    def feature_dim(self, image_size: int) -> int:
        """Return D, the length of the features of square images of `image_size` pixels; 0 if they are too small."""
        size = image_size >> self.n_poolings
        return self.units[-1].out_channels * min(size**2, 1 if self.mean else size**2)

    @override
    def activations(self, params: Tensors, x: Tensor, statistics: Statistics | None = None) -> dict[str, Tensor]:
        outputs = {}
        for stage in self.stages:
            for step in _steps(stage, params, x, statistics):
                x = step.output
            outputs[stage.name] = x
        if self.mean:
            outputs[self.stages[-1].name] = x.mean((2, 3), keepdim=True)
        return outputs

    @override
    def statistics(self, params: Tensors, x: Tensor) -> dict[str, Tensor]:
        found = {}
        for stage in self.stages:
            for step in _steps(stage, params, x, None):
                variance, mean = torch.var_mean(step.convolved, (0, 2, 3), correction=0)
                found[step.unit.name] = torch.stack([mean, (variance + EPS).rsqrt()])
            x = step.output
        return found


class _Parameters(nn.Module):
    """The parameters of a unit."""

    def __init__(self, unit: Unit) -> None:
        super().__init__()
        self.conv = nn.Conv2d(unit.in_channels, unit.out_channels, unit.kernel, padding=unit.kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(unit.out_channels, track_running_stats=False)


class _Step(NamedTuple):
    """A unit, its convolution's output, and the output so far: the unit's, or after the last unit the stage's."""

    unit: Unit
    convolved: Tensor
    output: Tensor


def _units(stage: Stage) -> tuple[Unit, ...]:
    return (stage,) if isinstance(stage, Unit) else (*stage.units, stage.shortcut)


def _add_module(parent: nn.Module, name: str, module: nn.Module) -> None:
    """Add a module under a name with dots."""
    first, _, rest = name.partition(".")
    if not rest:
        parent.add_module(first, module)
        return
    if first not in dict(parent.named_children()):
        parent.add_module(first, nn.Module())
    _add_module(parent.get_submodule(first), rest, module)


def _steps(stage: Stage, params: Tensors, x: Tensor, statistics: Statistics | None) -> Iterator[_Step]:
    """Compute a stage on `x`; yield a step for each of its units."""
    if isinstance(stage, Unit):
        yield _unit(stage, params, x, statistics)
        return
    z = x
    for unit in stage.units:
        step = _unit(unit, params, z, statistics)
        z = step.output
        yield step
    step = _unit(stage.shortcut, params, x, statistics)
    yield step._replace(output=_end(stage, z + step.output))


def _unit(unit: Unit, params: Tensors, x: Tensor, statistics: Statistics | None) -> _Step:
    y = F.conv2d(x, params[f"{unit.name}.conv.weight"], padding=unit.kernel // 2)
    scale, shift = params[f"{unit.name}.norm.weight"], params[f"{unit.name}.norm.bias"]
    if statistics is None:
        z = F.batch_norm(y, None, None, scale, shift, training=True, eps=EPS)
    else:
        mean, factor, shift = (v[:, None, None] for v in (*statistics[unit.name], shift))
        z = (y - mean) * (factor * scale[:, None, None]) + shift
    return _Step(unit, y, _end(unit, z))


def _end(stage: Unit | Residual, z: Tensor) -> Tensor:
    """Apply the activation and the pooling that end a unit or a stage."""
    if stage.slope is not None:
        z = F.leaky_relu(z, stage.slope) if stage.slope else F.relu(z)
    return F.max_pool2d(z, 2) if stage.pool else z
