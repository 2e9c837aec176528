"""Stand-ins for a CUDA graph, where there is no GPU: what a graph would refuse, and what it would run again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")

_WAITS = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


class RefusedError(RuntimeError):
    """Said of an operation that a graph cannot hold."""


class Watch(TorchDispatchMode):
    """Refuses what waits for the device or brings numbers of the host there, and keeps a tape of all else."""

    def __init__(self) -> None:
        super().__init__()
        self.tape: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.lift_fresh.default:
            raise RefusedError("a tensor is made of the host's numbers")
        masks = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.dtype == torch.bool]
        by_number = func is torch.ops.aten.index.Tensor and not masks
        if any(tag in func.tags for tag in _WAITS) and not by_number:
            raise RefusedError(f"{func} waits for the device")
        out = func(*args, **kwargs)
        kinds = {t.device.type for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor) and t.dim()}
        if len(kinds) > 1:
            raise RefusedError(f"{func} copies between {' and '.join(sorted(kinds))}")
        self.tape.append((func, args, kwargs, tree_leaves(out)))
        return out

    @property
    def work(self) -> list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Any]]]:
        """All that is no mere view of memory that stays."""
        return [entry for entry in self.tape if entry[0]._schema.is_mutable or not _aliases(entry[0])]

    def play(self) -> None:
        """Do it all again, into the very tensors of the first time; no Python runs: its numbers are those of then."""
        for func, args, kwargs, outs in self.work:
            fresh = tree_leaves(func(*args, **kwargs))
            for old, new in zip(outs, fresh, strict=True) if not _aliases(func) else ():
                if isinstance(old, Tensor):
                    old.copy_(new)


def _aliases(func: Any) -> bool:
    return any(value.alias_info is not None for value in func._schema.returns)


class Tapes:
    """A recorder: runs the function, as a graph does not at capturing, and then again from its tape."""

    def __init__(self) -> None:
        self.recorded = 0
        self.played = 0

    def record(self, function: Callable[[], T]) -> tuple[Callable[[], object], T]:
        function()
        with Watch() as watch:
            outcome = function()
        self.recorded += 1

        def play() -> None:
            self.played += 1
            watch.play()

        return play, outcome


class Failing:
    """A recorder whose captures fail, after the function has run."""

    def __init__(self, error: Exception) -> None:
        self.error, self.tries = error, 0

    def record(self, function: Callable[[], T]) -> tuple[Callable[[], object], T]:
        self.tries += 1
        function()
        raise self.error


class SeenError(Exception):
    """Ends a function that was watched to its end; says how many operations it was."""


class Watching:
    """A recorder that watches the function once, on tensors that have no numbers."""

    def record(self, function: Callable[[], T]) -> tuple[Callable[[], object], T]:
        function()
        with Watch() as watch:
            function()
        raise SeenError(len(watch.work))
