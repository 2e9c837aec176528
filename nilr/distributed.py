"""Processes that compute one result together. `torchrun` starts them; alone, a process is the only rank.

Each rank runs the same command. `nilr.meta.engine.workers` splits episodes over ranks; every rank receives the results
of all episodes and computes the rest from the same numbers. Rank 0 alone writes and prints.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from nilr import __version__
from nilr.errors import LostProcessError, NilrError
from nilr.signals import ignore_signals, seconds_since_signal

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

PATIENCE = 300.0  # seconds to wait for another rank; it may be saving, or reading its data
GRACE = 10.0  # the same after a signal: torchrun kills all processes 30 seconds after its own
_SHORT = 8192  # bytes
_LAST_PAUSE = 1e-3  # seconds between two looks at a collective operation
_OF_ONE_MACHINE = {"home", "device", "threads", "episode_chunk"}  # settings that change no number

_joined = False


def started() -> int:
    """Return the number of processes that torchrun has started for this command; 1 without torchrun."""
    return _number("WORLD_SIZE", 1) if {"RANK", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys() else 1


def started_here() -> int:
    """Return how many of them are on this machine."""
    return _number("LOCAL_WORLD_SIZE", 1) if started() > 1 else 1


def prints() -> bool:
    """Return whether this process shows progress and results."""
    return started() == 1 or _number("RANK", 0) == 0


def size() -> int:
    """Return the number of ranks that compute together: 1 before `join`."""
    return started() if _joined else 1


def rank() -> int:
    """Return this process's number: 0 before `join`."""
    return _number("RANK", 0) if _joined else 0


def local_rank() -> int:
    """Return this process's number among those on this machine: 0 before `join`."""
    return _number("LOCAL_RANK", 0) if _joined else 0


def join() -> None:
    """Connect the processes that torchrun has started: by gloo for CPUs, and by NCCL for GPUs.

    Raises:
        LostProcessError: another process does not connect.
    """
    global _joined
    if _joined or started() == 1:
        return
    import torch
    import torch.distributed as dist

    gpus = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    failed: list[Exception] = []

    def connect() -> None:
        try:
            dist.init_process_group(backend, timeout=timedelta(seconds=PATIENCE))
        except Exception as error:
            failed.append(error)

    # It blocks inside torch, where no signal is handled.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.05)
        if seconds_since_signal() > GRACE:
            _lost(None)
    if failed:
        _lost(failed[0])
    _joined = True


def gather(value: T) -> list[T]:
    """Return the values of all ranks, in the order of ranks, on every rank.

    All ranks must call this in the same order. A value is anything that can be pickled; its tensors may have any shape,
    on this rank's device.

    Raises:
        LostProcessError: a process has ended, or does not respond.
    """
    if size() == 1:
        return [value]
    import torch

    pickled, tensors = io.BytesIO(), list[torch.Tensor]()
    _Pickler(pickled, tensors).dump(value)
    skeleton = torch.frombuffer(pickled.getbuffer(), dtype=torch.uint8)
    flat = torch.cat([_bytes(tensor) for tensor in tensors]) if tensors else skeleton.new_empty(0)
    sizes = torch.tensor([len(skeleton), len(flat), flat.is_cuda])
    # Every collective operation waits for all ranks, so a short skeleton travels with the sizes.
    heads = _all_gather_padded(torch.cat([_bytes(sizes), skeleton[:_SHORT]]), sizes.nbytes + _SHORT)
    of_ranks = [head[: sizes.nbytes].view(torch.int64).tolist() for head in heads]
    skeletons = [head[sizes.nbytes :] for head in heads]
    longest, largest, any_cuda = map(max, zip(*of_ranks, strict=True))
    if longest > _SHORT:
        skeletons = _all_gather_padded(skeleton, longest)
    flats = _all_gather_padded(flat.cuda() if any_cuda else flat, largest)
    return [
        _Unpickler(io.BytesIO(bytes(part[:n].numpy())), whole[:m]).load()
        for part, whole, (n, m, _) in zip(skeletons, flats, of_ranks, strict=True)
    ]


def from_first(function: Callable[[], T]) -> T:
    """Call a function on rank 0, and return its result, or raise its exception, on every rank."""
    if size() == 1:
        return function()
    result: Any = None
    error: Exception | None = None
    if rank() == 0:
        try:
            result = function()
        except Exception as raised:
            error = raised
    result, error = gather((result, error))[0]
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]


def check_same(settings: Mapping[str, object], **values: object) -> None:
    """Check that all ranks have the same versions, settings and other values.

    Args:
        settings: of the command, by name; those of one machine may differ.
        values: the others, by name.

    Raises:
        NilrError: they differ.
    """
    import torch

    here = {
        "version of nilr": __version__,
        "version of torch": torch.__version__,
        "settings": {name: value for name, value in settings.items() if name not in _OF_ONE_MACHINE},
        **values,
    }
    for other, found in enumerate(gather(here)):
        for name, value in here.items():
            if found[name] != value:
                raise NilrError(
                    f"process {other} of {size()} has another {name} than process {rank()}: {found[name]}, not {value}",
                    hint="start the same command, with the same data and the same versions, on machines of one kind",
                )


def leave() -> None:
    """Disconnect, when no rank needs this one any more; not after an error."""
    global _joined
    if size() == 1:
        return
    import torch.distributed as dist

    with contextlib.suppress(LostProcessError):
        gather(None)
    dist.destroy_process_group()
    _joined = False


def reports(error: BaseException) -> bool:
    """Return whether this process prints an error: the first one that fails does."""
    if started() == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    if isinstance(error, LostProcessError) and not prints():
        time.sleep(3)  # rank 0 knows what is saved, unless it is the one that is lost
    host, port = os.environ["MASTER_ADDR"], _number("MASTER_PORT", 0)
    attempt = f"nilr/error/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    try:
        store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=5))
        return bool(store.add(attempt, 1) == 1)
    except RuntimeError:  # the machine with the store is gone
        return True


class _Pickler(pickle.Pickler):
    """Leaves tensors out, and collects them."""

    def __init__(self, file: io.BytesIO, tensors: list[Tensor]) -> None:
        super().__init__(file, protocol=5)
        self._tensors = tensors

    def persistent_id(self, value: object) -> object:
        """Return what stands for a tensor."""
        from torch import Tensor

        if not isinstance(value, Tensor):
            return None
        self._tensors.append(value.detach())
        return value.dtype, tuple(value.shape)


class _Unpickler(pickle.Unpickler):
    """Puts the tensors in again, in their order, from all their bytes."""

    def __init__(self, file: io.BytesIO, flat: Tensor) -> None:
        super().__init__(file)
        self._rest = flat

    def persistent_load(self, described: Any) -> Tensor:  # noqa: ANN401 - what `persistent_id` returned
        """Return the next tensor."""
        dtype, shape = described
        length = dtype.itemsize * math.prod(shape)
        mine, self._rest = self._rest[:length], self._rest[length:]
        return mine.clone().view(dtype).view(shape)  # a copy, because the memory of a dtype is aligned


def _bytes(tensor: Tensor) -> Tensor:
    import torch

    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _all_gather_padded(mine: Tensor, length: int) -> list[Tensor]:
    padded = mine.new_zeros(length)
    padded[: len(mine)] = mine
    return _all_gather(padded)


def _all_gather(mine: Tensor) -> list[Tensor]:
    """Return a tensor of one shape from every rank."""
    import torch
    import torch.distributed as dist

    if not mine.numel():
        return [mine] * size()
    parts = [torch.empty_like(mine) for _ in range(size())]
    try:
        work = dist.all_gather(parts, mine, async_op=True)
        _wait(work)
    except RuntimeError as error:
        _lost(error)
    return parts


def _wait(work: Any) -> None:  # noqa: ANN401 - torch's `Work`
    """Wait for a collective operation in Python, where signals are handled, and not for ever."""
    for pause in _pauses():
        if work.is_completed():
            break
        if seconds_since_signal() > GRACE:
            _lost(None)
        time.sleep(pause)
    work.wait()


def _pauses() -> Iterator[float]:
    pause, end = _LAST_PAUSE / 16, time.monotonic() + PATIENCE
    while True:
        if time.monotonic() > end:
            _lost(None)
        yield pause
        pause = min(2 * pause, _LAST_PAUSE)


def _lost(error: Exception | None) -> NoReturn:
    ignore_signals()  # torchrun sends one to the rest, which end by themselves
    raise LostProcessError(f"another of the {started()} processes of torchrun has ended or does not respond") from error


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else default
