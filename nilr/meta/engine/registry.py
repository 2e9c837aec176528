"""The table of engines."""

import torch

from nilr.errors import UnknownNameError, UsageError
from nilr.meta.engine.batched import BatchedEngine
from nilr.meta.engine.contract import Engine
from nilr.meta.engine.explicit import CompiledEngine, ExplicitEngine, WinogradEngine
from nilr.meta.engine.reference import ReferenceEngine
from nilr.models.learner import Learner

ENGINES: dict[str, type[Engine]] = {
    "winograd": WinogradEngine,
    "compiled": CompiledEngine,
    "batched": BatchedEngine,
    "explicit": ExplicitEngine,
    "reference": ReferenceEngine,
}

# The engines that `auto` tries, by device. A CPU is busy with one episode per core, a GPU with many per operation.
AUTO = {"cpu": ("winograd", "explicit", "reference"), "cuda": ("batched", "reference")}


def choose_engine(
    name: str,
    learner: Learner,
    device: torch.device,
    precision: str = "float32",
    episode_chunk: int | None = None,
    *,
    earlier: str | None = None,
) -> Engine:
    """Return the named engine, bound to the learner.

    The choice is a fixed function of device, architecture and build, never of a timing.

    "auto" is the first engine in `AUTO` that supports the learner on the device; before them comes the `earlier` one,
    which computed the updates of a resumed training. The precision "bf16" rounds the inputs
    of convolutions; all others leave them unchanged. `episode_chunk` is that of `Engine`.

    Raises:
        UnknownNameError: there is no such engine.
        UsageError: the engine does not support the learner, the device or the precision, or was not built.
    """
    if name == "auto":
        before = [earlier] if earlier in ENGINES else []
        name = next(other for other in (*before, *AUTO[device.type]) if ENGINES[other].supports(learner, device))
    if name not in ENGINES:
        raise UnknownNameError("engine", name, ("auto", *ENGINES))
    engine = ENGINES[name]
    if not engine.supports(learner, device):
        raise UsageError(
            f"the engine `{name}` does not support this architecture on `{device}`, or was not built on this machine",
            hint="use --engine auto",
        )
    if precision == "bf16" and not engine.has_precision:
        raise UsageError(f"the engine `{name}` does not support --precision bf16", hint="use --precision float32")
    return engine(learner, precision=torch.bfloat16 if precision == "bf16" else None, episode_chunk=episode_chunk)
