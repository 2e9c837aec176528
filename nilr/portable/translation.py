"""Translate the state dict of another library to nilr's parameters and inner rates."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nilr.errors import CheckpointError, UnknownNameError
from nilr.models.conv_body import ConvBody
from nilr.models.learner import Params, Tensors
from nilr.models.registry import find_body
from nilr.models.stages import Stage, Unit
from nilr.portable.layouts import (
    FORMATS,
    LAYOUTS,
    LSLR_RATES,
    META_SGD_RATES,
    OWN_RATES,
    REFUSED,
    Layout,
    units,
)
from nilr.portable.rates import lslr_rates, meta_sgd_rates, own_rates
from nilr.portable.reader import Reader, check_shape, shape_of
from nilr.portable.state_dict import StateDict, shown
from nilr.words import counted, some

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Translated:
    """What a state dict holds, by nilr's names."""

    layout: Layout
    arguments: dict[str, Any]  # of the body
    params: Params  # of the body, and of the head if the file has one
    inner_lr: Params  # the rates of Meta-SGD, of the parameters' shapes, or those of LSLR, (K, 1, ...); else empty
    n_steps: int | None  # K of LSLR's rates
    notes: list[str]


def translate(found: StateDict, *, form: str | None, norm_step: int | None, ignored: Sequence[str]) -> Translated:
    """Return the parameters and rates of a state dict.

    Args:
        found: the state dict.
        form: the name of a format; None: the one whose names the file has.
        norm_step: the inner step, from 0, whose scale and shift of batch normalisation are used if each step has some.
        ignored: patterns of names that are left out.

    Raises:
        CheckpointError: a tensor is missing, is left over, or does not fit; or nilr has no such network.
    """
    reader = Reader(found, ignored)
    halves = [name for name, tensor in reader.tensors.items() if tensor.dtype in (torch.float16, torch.bfloat16)]
    if halves:
        reader.notes.append(f"Converted from half precision to float32: {some([shown(name) for name in halves])}.")
    layout = _recognise(reader.tensors, form)
    reader.notes.append(
        f"The names are those of {layout.format} ({layout.source}), where the body has: {layout.assumed}."
    )
    rates, steps, own = (reader.with_prefix(prefix) for prefix in (META_SGD_RATES, LSLR_RATES, OWN_RATES))
    stages, arguments = _body(layout, reader.tensors)
    params, theirs = _parameters(reader, layout, stages, norm_step)
    reader.check_empty()
    inner_lr: Params = {}
    if rates:
        inner_lr = meta_sgd_rates(reader, layout, theirs, params, rates)
    n_steps = None
    if steps:
        inner_lr, n_steps = lslr_rates(reader, theirs, params, steps)
    if own:
        inner_lr, n_steps = own_rates(params, own)
    biases = [name for name, ours in theirs.items() if ours is None]
    if biases:
        reader.notes.append(
            f"Dropped {counted(len(biases), 'convolution bias', 'convolution biases')}: batch normalisation follows, "
            "so they change no feature and have no gradient."
        )
    return Translated(layout, arguments, params, inner_lr, n_steps, reader.notes)


def _recognise(tensors: Tensors, form: str | None) -> Layout:
    """Return the layout whose convolutions the file has."""
    reason = next((reason for name, reason in REFUSED.items() if name in tensors), None)
    if reason is not None:
        raise CheckpointError(f"nilr has no body that computes the same: {reason}")
    if form is not None and form not in FORMATS:
        raise UnknownNameError("format", form, FORMATS)
    rows = [layout for layout in LAYOUTS if form in (None, layout.format)]
    # the body with the most units that the file has: `conv6` has all the names of `conv4`
    fitting = [layout for layout in rows if all(name in tensors for name in _convolutions(layout))]
    if not fitting:
        what = f"of the format `{form}`" if form else "that nilr recognises"
        raise CheckpointError(
            f"the file has no network {what}; its tensors are {some([shown(name) for name in tensors], 8)}",
            hint=f"known formats: {', '.join(FORMATS)}",
        )
    return max(fitting, key=lambda layout: len(list(_convolutions(layout))))


def _convolutions(layout: Layout) -> Iterator[str]:
    """Yield the names of the weights of a layout's convolutions."""
    smallest = {"filters": 1, "widths": (1, 1, 1, 1)}
    arguments = {name: smallest[name] for name in find_body(layout.arch).arguments}
    for unit in units(_stages(layout.arch, arguments)):
        yield f"{layout.names(unit).conv}.weight"


def _stages(arch: str, arguments: Mapping[str, object]) -> tuple[Stage, ...]:
    with torch.device("meta"):
        body, _ = find_body(arch).build(image_size=1024, **arguments)
    if not isinstance(body, ConvBody):
        raise CheckpointError(f"`{arch}` has no stages")
    return body.stages


def _body(layout: Layout, tensors: Tensors) -> tuple[tuple[Stage, ...], dict[str, Any]]:
    """Return the stages and the arguments of the body, from the shapes of its convolutions."""
    convolutions = list(_convolutions(layout))
    weight = tensors[convolutions[0]]
    if weight.dim() != 4 or weight.shape[1] != 3 or not len(weight):
        raise CheckpointError(
            f"`{convolutions[0]}` has the shape {shape_of(weight)}, and nilr's bodies begin with a convolution of 3 "
            "channels"
        )
    arguments: dict[str, Any] = {"filters": len(weight)}
    if "widths" in find_body(layout.arch).arguments:
        per_block = len(convolutions) // 4
        widths = [tensors[name].shape[:1] for name in convolutions[::per_block]]
        arguments = {"widths": [width[0] if width else 0 for width in widths]}
    if min(arguments.get("widths", [1])) < 1:
        raise CheckpointError(f"the blocks have {arguments['widths']} channels")
    return _stages(layout.arch, arguments), arguments


def _parameters(
    reader: Reader, layout: Layout, stages: tuple[Stage, ...], norm_step: int | None
) -> tuple[Params, dict[str, str | None]]:
    """Return the parameters by nilr's names, and nilr's name of each name in the file; None for what was dropped."""
    params: Params = {}
    theirs: dict[str, str | None] = {}
    for unit in units(stages):
        found = _names(layout, unit, bias=f"{layout.names(unit).conv}.bias" in reader.tensors)
        theirs |= found
        channels = (unit.out_channels,)
        for name, ours in found.items():
            value = _same_as_alias(reader, name, layout.names(unit), layout.second_names(unit))
            if ours is None:
                continue
            if ".norm." in ours and value.dim() == 2 and len(value):
                value = _of_step(reader, name, value, norm_step)
            conv = (*channels, unit.in_channels, unit.kernel, unit.kernel)
            check_shape(name, value, channels if ".norm." in ours else conv)
            params[ours] = value
    norms = [names.norm for unit in units(stages) for names in (layout.names(unit), layout.second_names(unit)) if names]
    if [reader.tensors.pop(name) for norm in norms for s in _STATISTICS if (name := f"{norm}.{s}") in reader.tensors]:
        reader.notes.append("Dropped running statistics: nilr normalises by the statistics of each batch.")
    for part, ours in ((layout.head_weight, "head.weight"), ("bias", "head.bias")):
        if (name := f"{layout.head}.{part}") in reader.tensors:
            theirs[name] = ours
            params[ours] = reader.take(name)
    return params, theirs


def _names(layout: Layout, unit: Unit, *, bias: bool) -> dict[str, str | None]:
    """Return nilr's name of each parameter of a unit in the file, in the order of their registration."""
    names, ours = layout.names(unit), f"body.{unit.name}"
    conv: dict[str, str | None] = {f"{names.conv}.weight": f"{ours}.conv.weight"}
    if bias:
        conv[f"{names.conv}.bias"] = None
    norm: dict[str, str | None] = {f"{names.norm}.{part}": f"{ours}.norm.{part}" for part in ("weight", "bias")}
    return norm | conv if layout.norm_first else conv | norm


def _same_as_alias(reader: Reader, name: str, names: tuple[str, str], alias: tuple[str, str] | None) -> Tensor:
    """Take a tensor, and its second name if it has one, which must hold the same numbers."""
    value = reader.take(name)
    if alias is not None:
        prefix = next(other for one, other in zip(names, alias, strict=True) if name.startswith(f"{one}."))
        second = f"{prefix}.{name.rpartition('.')[2]}"
        other = reader.take(second, alias_of=name) if second in reader.tensors else None
        if other is not None and not torch.equal(value, other):
            raise CheckpointError(f"`{name}` and `{second}` are one tensor of the network, and differ in the file")
    return value


def _of_step(reader: Reader, name: str, value: Tensor, norm_step: int | None) -> Tensor:
    """Return one step's row of per-step scales or shifts (K, C)."""
    if bool((value == value[:1]).all()):
        return value[0]
    if norm_step is None:
        raise CheckpointError(
            f"`{name}` has another value in each of {len(value)} inner steps; a model of nilr has one for all steps",
            hint="choose the values of one step with --norm-step, counted from 0; the features then differ from the "
            "original's at other steps",
        )
    if norm_step >= len(value):
        raise CheckpointError(f"`{name}` has {len(value)} inner steps", hint=f"use --norm-step 0 to {len(value) - 1}")
    note = f"Scale and shift of batch normalisation are those of inner step {norm_step}, at every step."
    reader.notes += [] if note in reader.notes else [note]
    return value[norm_step]
