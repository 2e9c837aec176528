"""The table of engines."""

from __future__ import annotations

import torch

from nilr.errors import UnknownNameError, UsageError
from nilr.meta.engine.batched import BatchedEngine
from nilr.meta.engine.contract import Engine
from nilr.meta.engine.explicit import ExplicitEngine
from nilr.meta.engine.native import library
from nilr.meta.engine.native_passes import NativePasses
from nilr.meta.engine.passes import AtenPasses, PlanePasses
from nilr.meta.engine.reference import ReferenceEngine
from nilr.models.learner import Learner

ENGINES: dict[str, Engine] = {
    engine.name: engine
    for engine in (
        ExplicitEngine("compiled", NativePasses(), lambda device: device.type == "cpu" and library() is not None),
        BatchedEngine("batched", PlanePasses(), lambda device: True),
        ExplicitEngine("explicit", AtenPasses(), lambda device: True),
        ReferenceEngine(),
    )
}

# what `auto` tries, by device: a CPU is busy with one episode per core, a GPU with many episodes per operation
AUTO = {"cpu": ("compiled", "explicit", "reference"), "cuda": ("batched", "reference")}


def choose_engine(
    name: str,
    learner: Learner,
    device: torch.device,
    precision: str = "float32",
    episode_chunk: int | None = None,
) -> Engine:
    """Return the engine of that name; `auto` is the first of `AUTO` that supports the learner on the device.

    The choice is a fixed function of device, architecture and build, never of a timing.

    Args:
        name: in `ENGINES`, or "auto".
        learner: what it will execute.
        device: where.
        precision: "bf16": convolutions round what they take in; all others: they take it as it is.
        episode_chunk: the most episodes to compute at the same time; None: as many as the engine wishes.

    Raises:
        UnknownNameError: there is none of that name.
        UsageError: it does not support the learner or the device, or was not built.
    """
    engine = _find(name, learner, device)
    if precision == "bf16":
        if not isinstance(engine, ExplicitEngine):
            raise UsageError(f"the engine `{engine.name}` has no --precision bf16", hint="use float32")
        engine = engine.rounding_to(torch.bfloat16)
    return engine if episode_chunk is None else engine.in_chunks(episode_chunk)


def _find(name: str, learner: Learner, device: torch.device) -> Engine:
    if name == "auto":
        return next(ENGINES[name] for name in AUTO[device.type] if ENGINES[name].supports(learner, device))
    if name not in ENGINES:
        raise UnknownNameError("engine", name, ("auto", *ENGINES))
    if not ENGINES[name].supports(learner, device):
        raise UsageError(
            f"the engine `{name}` cannot execute this architecture on `{device}`, or was not built on this machine",
            hint="use --engine auto",
        )
    return ENGINES[name]
