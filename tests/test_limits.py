import os
from pathlib import Path

import pytest
import torch

from nilr.limits import available_cores
from nilr.runtime import default_threads


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process have 64 cores, and start it without torchrun."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    for name in ("OMP_NUM_THREADS", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


TWO = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}
CFS = "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_"


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 64),
        (TWO, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 64),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        # the parent has the narrower quota
        (
            {
                "proc/self/cgroup": "0::/job/step\n",
                "sys/fs/cgroup/job/step/cpu.max": "800000 100000\n",
                "sys/fs/cgroup/job/cpu.max": "350000 100000\n",
            },
            3,
        ),
        # version 1
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/docker/abc\n",
                f"{CFS}quota_us": "400000",
                f"{CFS}period_us": "100000",
            },
            4,
        ),
        ({"proc/self/cgroup": "3:cpu,cpuacct:/docker/abc\n", f"{CFS}quota_us": "-1", f"{CFS}period_us": "100000"}, 64),
        # in a container, whose group is the mount
        (
            {
                "proc/self/cgroup": "3:cpu:/docker/abc\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            2,
        ),
    ],
    ids=["none", "two", "max", "half", "parent", "version 1", "version 1 none", "container"],
)
def test_cores_are_those_of_the_quota(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    assert available_cores(write(tmp_path, files)) == default_threads(write(tmp_path, files)) == cores


@pytest.mark.usefixtures("machine")
def test_cores_are_those_of_the_affinity_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert available_cores(write(tmp_path, TWO)) == 1


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("here", "omp", "threads"), [(4, "1", 16), (4, None, 16), (4, "3", 3), (64, "1", 1), (100, "1", 1), (1, "1", 1)]
)
def test_processes_of_torchrun_share_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: int, omp: str | None, threads: int
) -> None:
    for name, value in {
        "RANK": 0,
        "WORLD_SIZE": here,
        "LOCAL_WORLD_SIZE": here,
        "MASTER_ADDR": "a",
        "MASTER_PORT": 1,
    }.items():
        monkeypatch.setenv(name, str(value))
    if omp is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", omp)
        monkeypatch.setattr(torch, "get_num_threads", lambda: int(omp))
    assert default_threads(tmp_path) == threads
