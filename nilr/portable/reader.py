"""The tensors of a state dict, taken one by one until none is left."""

import fnmatch
from collections.abc import Sequence

import torch
from torch import Tensor

from nilr.errors import CheckpointError
from nilr.portable.layouts import LSLR_NETWORK, LSLR_RATES, META_SGD_RATES
from nilr.portable.state_dict import StateDict, shown
from nilr.words import counted, some

WRAPPER = "module."  # of learn2learn's MAML and MetaSGD, and of torch's DataParallel


class Reader:
    """The tensors of a file that are not used yet, by their names in the file."""

    def __init__(self, found: StateDict, ignored: Sequence[str]) -> None:
        self.notes, self.ordered = list(found.notes), found.ordered
        self.tensors = dict(found.tensors)
        while any(name.startswith(WRAPPER) for name in self.tensors) and all(
            name.startswith((WRAPPER, META_SGD_RATES)) for name in self.tensors
        ):
            self.tensors = {name.removeprefix(WRAPPER): value for name, value in self.tensors.items()}
        if all(name.startswith((f"{LSLR_NETWORK}{WRAPPER}", LSLR_RATES)) for name in self.tensors):
            self.tensors = {
                name.replace(f"{LSLR_NETWORK}{WRAPPER}", LSLR_NETWORK): value for name, value in self.tensors.items()
            }
        self.order = list(self.tensors)
        self._used: dict[int, str] = {}  # the names of the tensors that were taken, by their memory
        left_out = [name for name in self.tensors if any(fnmatch.fnmatchcase(name, glob) for glob in ignored)]
        for name in left_out:
            del self.tensors[name]
        if left_out:
            self.notes.append(f"Ignored by --ignore: {some([shown(name) for name in left_out], 20)}.")

    def take(self, name: str, *, alias_of: str | None = None) -> Tensor:
        """Return a tensor of real numbers; it may share its memory with `alias_of` alone."""
        if name not in self.tensors:
            raise CheckpointError(f"the tensor `{name}` is missing", hint=f"the file has: {self._left()}")
        tensor = self.tensors.pop(name)
        first = self._used.setdefault(tensor.data_ptr(), name) if tensor.numel() else name
        if first not in (name, alias_of):
            raise CheckpointError(
                f"`{shown(first)}` and `{shown(name)}` are one tensor, which the network uses twice; the inner loop of "
                "nilr moves them apart"
            )
        return self._real(name, tensor)

    def with_prefix(self, prefix: str) -> dict[str, Tensor]:
        """Return all tensors whose names start so, by the rest of the name."""
        names = [name for name in self.tensors if name.startswith(prefix)]
        return {name.removeprefix(prefix): self.take(name) for name in names}

    def check_empty(self) -> None:
        """Check that every tensor was used."""
        if self.tensors:
            raise CheckpointError(
                f"{counted(len(self.tensors), 'tensor')} of the file without a part of the network: {self._left()}",
                hint="name another --format, or leave them out with --ignore NAME (also with *)",
            )

    def _left(self) -> str:
        return some([shown(name) for name in self.tensors], 8) or "no other tensor"

    def _real(self, name: str, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(f"`{shown(name)}` has numbers of type {dtype}, not real numbers")
        if tensor.dtype not in (torch.float32, torch.float64):
            tensor = tensor.float()
        if not tensor.float().isfinite().all():
            raise CheckpointError(f"`{shown(name)}` has numbers that are not finite in float32")
        return tensor


def check_shape(name: str, value: Tensor, expected: Sequence[int], more: str = "") -> None:
    """Check the shape of the tensor `name` in the file."""
    if tuple(value.shape) != tuple(expected):
        raise CheckpointError(
            f"`{name}` has the shape {shape_of(value)}, expected ({', '.join(map(str, expected))}){more}"
        )


def shape_of(value: Tensor) -> str:
    """Return a shape as text."""
    return f"({', '.join(map(str, value.shape))})"
