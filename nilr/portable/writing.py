"""Translate nilr's parameters and inner rates to the names of another library."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nilr.errors import CheckpointError
from nilr.models.learner import Params, Tensors
from nilr.models.stages import Stage
from nilr.portable.layouts import META_SGD_RATES, OWN_RATES, Layout, units


@dataclass(frozen=True)
class Written:
    """The tensors of a state dict, in order, and nilr's names of those that are parameters."""

    tensors: Params
    names: Mapping[str, str]
    learner: str = ""  # how learn2learn loads it


def with_own_names(params: Tensors, inner_lr: Tensors) -> Written:
    """Return the parameters and rates by nilr's names."""
    rates = {f"{OWN_RATES}{name}": rate for name, rate in inner_lr.items()}
    return Written({**params, **rates}, {name: name for name in params})


def for_learn2learn(layout: Layout, stages: tuple[Stage, ...], params: Tensors, inner_lr: Tensors) -> Written:
    """Return the state dict of learn2learn's MAML if one rate moves every parameter, else of its MetaSGD.

    A convolution gets a bias of zeros, with a rate of zeros, where learn2learn's has one: batch normalisation follows,
    so neither changes a feature. Parameters that the inner loop does not move have rates of zeros.

    Raises:
        CheckpointError: rates differ between inner steps.
    """
    per_step = [name for name, rate in inner_lr.items() if rate.dim() > params[name].dim()]
    if per_step:
        raise CheckpointError(
            f"`{per_step[0]}` has a rate for each inner step, and learn2learn's MetaSGD has one for all steps",
            hint="use --format state-dict",
        )
    parameters = list(_parameters(layout, stages, params))
    tensors = {name: value for name, _, value in parameters} | _buffers(layout, stages, params)
    written = {f"module.{name}": value for name, value in tensors.items()}
    names = {f"module.{name}": ours for name, ours, _ in parameters if ours is not None}
    fixed = {float(rate) for rate in inner_lr.values() if rate.dim() == 0}
    if set(inner_lr) == set(params) and len(fixed) == 1 and all(rate.dim() == 0 for rate in inner_lr.values()):
        return Written(written, names, f"MAML(network, lr={fixed.pop():.7g})")
    none = torch.zeros(())
    rates = [inner_lr.get(ours or "", none).to(value).expand_as(value) for _, ours, value in parameters]
    return Written(written | {f"{META_SGD_RATES}{i}": r for i, r in enumerate(rates)}, names, "MetaSGD(network)")


def _parameters(layout: Layout, stages: tuple[Stage, ...], params: Tensors) -> Iterator[tuple[str, str | None, Tensor]]:
    """Yield learn2learn's name, nilr's and the value of each parameter, in the order of `parameters()`."""
    for unit in units(stages):
        names, ours = layout.names(unit), f"body.{unit.name}"
        weight = params[f"{ours}.conv.weight"]
        conv: list[tuple[str, str | None, Tensor]] = [(f"{names.conv}.weight", f"{ours}.conv.weight", weight)]
        if layout.conv_bias:
            conv.append((f"{names.conv}.bias", None, weight.new_zeros(unit.out_channels)))
        norm: list[tuple[str, str | None, Tensor]] = [
            (f"{names.norm}.{part}", f"{ours}.norm.{part}", params[f"{ours}.norm.{part}"])
            for part in ("weight", "bias")
        ]
        yield from norm + conv if layout.norm_first else conv + norm
    for part in ("weight", "bias"):
        yield f"{layout.head}.{part}", f"head.{part}", params[f"head.{part}"]


def _buffers(layout: Layout, stages: tuple[Stage, ...], params: Tensors) -> Params:
    """Return the running statistics of a new network, by learn2learn's names."""
    buffers: Params = {}
    for unit in units(stages) if layout.buffers else ():
        name, like = layout.names(unit).norm, params[f"body.{unit.name}.norm.weight"]
        buffers[f"{name}.running_mean"] = torch.zeros_like(like)
        buffers[f"{name}.running_var"] = torch.ones_like(like)
        buffers[f"{name}.num_batches_tracked"] = torch.tensor(0)
    return buffers
