"""What a report of a bug needs: `nilr --version --verbose`."""

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import torch

from nilr import __version__
from nilr.limits import available_cores
from nilr.meta.engine import native
from nilr.meta.engine.registry import choose_engine
from nilr.models.registry import build_learner
from nilr.runtime import available_memory, default_threads, find_device, total_memory
from nilr.store import Store
from nilr.words import counted, file_size

_PACKAGES = ("numpy", "h5py", "scipy", "pydantic", "typer", "rich", "pillow", "simplejpeg", "safetensors")


def describe_installation(home: Path | None) -> str:
    """Return the versions, the machine and the store as lines of text; the user's home directory is `~`."""
    return "\n".join(f"{name:<12}{value}" for name, value in _rows(home))


def _rows(home: Path | None) -> Iterator[tuple[str, str]]:
    device, cpu = find_device("auto"), torch.device("cpu")
    learner = build_learner("conv4", n_way=5, image_size=84, filters=32)
    yield "nilr", __version__
    yield "python", f"{platform.python_version()} ({platform.python_implementation()})"
    yield "platform", platform.platform()
    yield "torch", torch.__version__  # with the build, such as +cpu
    for package in _PACKAGES:
        yield package, _version(package)
    yield "kernels", f"loaded: {', '.join(native.instruction_sets())}" if native.library() else "not built"
    yield "engine", f"{choose_engine('auto', learner, device).name} (auto, on {device.type})"
    yield "processor", f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    yield "cores", f"{os.cpu_count()}, of which this process may use {available_cores()}"
    yield "threads", str(default_threads())
    yield "memory", f"{file_size(total_memory(cpu))}, available {file_size(available_memory(cpu))}"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    yield "gpus", ", ".join(names) or "none"
    store = Store(home)
    held = f"{counted(len(store.model_names()), 'model')}, {counted(len(store.packs()), 'pack')}"
    yield "store", f"{str(store.home).replace(str(Path.home()), '~', 1)} ({held})"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
