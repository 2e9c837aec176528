"""Disks that are full, broken or read-only: one clear error, no file lost, no temporary file left."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import FAIL, FAIL_ON, NEEDS_SPACE, Done, Nilr, fresh, temporary_files
from tests.faults.scenarios import SCENARIOS, check_untouched, run_whole

FAULTS = {
    "ENOSPC from then on": {"action": FAIL_ON, "error": errno.ENOSPC},
    "EIO once": {"action": FAIL, "error": errno.EIO},
    "EROFS from then on": {"action": FAIL_ON, "error": errno.EROFS},
}

every_command = pytest.mark.parametrize("name", SCENARIOS)


def check_failed(done: Done, reason: int) -> None:
    """Check that a command failed with one error that gives the system's reason."""
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert (done.status, done.out, len(errors)) == (1, "", 1), done.err
    assert os.strerror(reason).lower() in errors[0] or "not enough disk space" in errors[0], errors
    assert "Traceback" not in done.err
    assert "internal" not in done.err


def check_faults(
    nilr: Nilr, prepared: Path, work: Path, name: str, fault: str, choose: Callable[[int], list[int]]
) -> int:
    """Let some of the calls that need the disk fail; check the store and the next run."""
    scenario, whole = SCENARIOS[name], run_whole(nilr, name, prepared, NEEDS_SPACE)
    chosen = choose(whole.changes)
    for call in chosen:
        arm = {"chosen": call, "which": NEEDS_SPACE, **FAULTS[fault]}
        failed = nilr(scenario.line, fresh(prepared, work), status=None, arm=arm)
        if failed.status or FAULTS[fault]["action"] == FAIL_ON:
            check_failed(failed, FAULTS[fault]["error"])
        else:  # a directory that is there already need not be made
            assert scenario.bits(work) == whole.bits
        check_untouched(work, prepared, whole.toy)
        assert temporary_files(work) == []
        nilr(scenario.again, work)
        assert scenario.bits(work) == whole.bits, f"after a fault at call {call} of {whole.changes}"
    return len(chosen)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("name", "fault"), list(zip(SCENARIOS, itertools.cycle(FAULTS), strict=False)))
def test_a_disk_that_fails_at_a_random_call_is_one_error(
    nilr: Nilr, prepared: Path, work: Path, name: str, fault: str, count: Callable[[str, int], None]
) -> None:
    drawn = random.Random(name + fault)
    count("failing calls", check_faults(nilr, prepared, work, name, fault, lambda n: [drawn.randrange(n)]))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@every_command
@pytest.mark.parametrize("fault", FAULTS)
def test_a_disk_that_fails_at_any_call_is_one_error(
    nilr: Nilr, prepared: Path, work: Path, name: str, fault: str, count: Callable[[str, int], None]
) -> None:
    drawn = random.Random(name + fault)

    def choose(n: int) -> list[int]:
        return sorted(drawn.sample(range(n), min(n, 30)))

    count("failing calls", check_faults(nilr, prepared, work, name, fault, choose))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return a separate file system of 16 MB, or skip the test."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "none", directory], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield directory
    subprocess.run(["umount", "--lazy", directory], check=True)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("free", [0, pytest.param(40_000, marks=pytest.mark.slow)])
@every_command
def test_a_full_disk_is_one_error(nilr: Nilr, prepared: Path, disk: Path, name: str, free: int) -> None:
    scenario, whole, work = SCENARIOS[name], run_whole(nilr, name, prepared), fresh(prepared, disk / "work")
    with (disk / "filler").open("wb") as filler:
        filler.write(b"x" * max(0, shutil.disk_usage(disk).free - free))
    done = nilr(scenario.line, work, status=None)
    if free == 0 or done.status:
        check_failed(done, errno.ENOSPC)
    check_untouched(work, prepared, whole.toy)
    assert temporary_files(work) == []
    (disk / "filler").unlink()
    nilr(scenario.again, work)
    assert scenario.bits(work) == whole.bits


def test_a_read_only_file_system_is_one_error_for_a_command_that_writes(nilr: Nilr, prepared: Path, disk: Path) -> None:
    work = fresh(prepared, disk / "work")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    for scenario in SCENARIOS.values():
        check_failed(nilr(scenario.line, work, status=None), errno.EROFS)
    for line in ("models ls", "models show base", "models verify", "prepare-data --verify toy"):
        done = nilr(line, work, status=None)
        assert done.status == (1 if line.startswith("prepare") else 0), done.err
    check_untouched(work, prepared)
