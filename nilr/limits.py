"""What the operating system lets this process use: its control groups (containers, batch jobs) and its cores."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def control_groups(controller: str, system: Path = _ROOT) -> Iterator[tuple[int, Path]]:
    """Yield the directories of the process's control groups, innermost or not, each with its version, 1 or 2.

    Args:
        controller: "memory" or "cpu".
        system: the root of the file system with /proc and /sys.
    """
    with contextlib.suppress(OSError):
        for line in (system / "proc/self/cgroup").read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            version = 2 if controllers == "" else 1
            if version == 1 and controller not in controllers.split(","):
                continue
            mount = system / "sys/fs/cgroup" / (controller if version == 1 else "")
            group = mount / name.lstrip("/")
            # a container may have its own group as the mount
            for directory in {group, *group.parents, mount}:
                yield version, directory


def available_cores(system: Path = _ROOT) -> int:
    """Return how many cores this process may use: those of its affinity mask, and no more than its CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *(int(quota) for quota in _quotas(system))]))


def _quotas(system: Path) -> Iterator[float]:
    """Yield the CPU quota of each control group that has one, in cores."""
    for version, directory in control_groups("cpu", system):
        with contextlib.suppress(OSError, ValueError):
            if version == 2:
                words = (directory / "cpu.max").read_text().split()
            else:
                words = [(directory / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")]
            quota, period = map(int, words)  # "max" or -1: no quota
            if quota > 0 and period > 0:
                yield quota / period
