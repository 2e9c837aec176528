"""The inner rates in a state dict, by nilr's names."""

from collections.abc import Mapping

from torch import Tensor

from nilr.errors import CheckpointError
from nilr.models.learner import Params, Tensors
from nilr.portable.layouts import LSLR_NETWORK, Layout
from nilr.portable.reader import WRAPPER, Reader, check_shape, shape_of
from nilr.portable.state_dict import shown
from nilr.words import counted


def meta_sgd_rates(
    reader: Reader, layout: Layout, theirs: Mapping[str, str | None], params: Tensors, rates: Mapping[str, Tensor]
) -> Params:
    """Return the rates of learn2learn's MetaSGD, which are numbered in the order of `parameters()`."""
    if reader.ordered:
        order = [name for name in reader.order if name in theirs]
    else:
        order = list(theirs)
        reader.notes.append(f"The rates were matched in the order in which {layout.format} registers parameters.")
    if sorted(rates, key=lambda number: (len(number), number)) != [str(i) for i in range(len(order))]:
        raise CheckpointError(f"the file has {len(rates)} rates `lrs` for {len(order)} parameters")
    inner_lr: Params = {}
    for number, name in enumerate(order):
        ours = theirs[name]
        if ours is not None:
            check_shape(f"lrs.{number}", rates[str(number)], params[ours].shape, f", as `{name}`")
            inner_lr[ours] = rates[str(number)]
    constant = [name for name, rate in inner_lr.items() if bool((rate == rate.reshape(-1)[0]).all())]
    differ = len(inner_lr) - len(constant)
    reader.notes.append(f"Rates differ within {differ} of {counted(len(inner_lr), 'tensor')}.")
    return {name: inner_lr[name] for name in params}


def lslr_rates(
    reader: Reader, theirs: Mapping[str, str | None], params: Tensors, rates: Mapping[str, Tensor]
) -> tuple[Params, int]:
    """Return the rates of Antoniou et al., one per tensor and step, as (K, 1, ...), and K."""
    inner_lr: Params = {}
    lengths = set()
    for key, rate in rates.items():
        name = LSLR_NETWORK + key.replace("-", ".").removeprefix(WRAPPER)
        if name not in theirs or rate.dim() != 1 or len(rate) < 2:
            raise CheckpointError(f"the rates `{shown(key)}` of shape {shape_of(rate)} belong to no parameter")
        ours = theirs[name]
        lengths.add(len(rate))
        if ours is not None:
            inner_lr[ours] = rate[:-1].reshape(-1, *(1,) * params[ours].dim())
    if len(lengths) > 1:
        raise CheckpointError("the rates of different parameters have different numbers of steps")
    n_steps = lengths.pop() - 1
    reader.notes.append(f"Dropped the rate after step {n_steps} of each tensor, which no training step uses.")
    return {name: inner_lr[name] for name in params if name in inner_lr}, n_steps


def own_rates(params: Tensors, rates: Mapping[str, Tensor]) -> tuple[Params, int | None]:
    """Return the rates that nilr exported, and the number of steps if each has its own."""
    steps = set()
    for name, rate in rates.items():
        if name not in params:
            raise CheckpointError(f"the rate `inner_lr.{shown(name)}` belongs to no parameter")
        shape = params[name].shape
        per_step = rate.dim() == len(shape) + 1 and len(rate) > 0
        if per_step:
            steps.add(len(rate))
        for_one = rate[0] if per_step else rate
        if for_one.shape != ((1,) * len(shape) if per_step else ()):
            check_shape(f"inner_lr.{name}", for_one, shape)
    if len(steps) > 1:
        raise CheckpointError("the rates of different parameters have different numbers of steps")
    return {name: rates[name] for name in params if name in rates}, steps.pop() if steps else None
