"""Where nilr runs: on Linux, on macOS without what only Linux has, and one clear error elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# What Windows lacks, and what macOS lacks or may lack, taken away at the start of every process.
WINDOWS = """
import os, signal, sys
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
del signal.SIGHUP, signal.SIGKILL, os.getuid, os.pread, os.pwrite, os.statvfs, os.O_NOFOLLOW
"""
WITHOUT_LINUX = """
import ctypes, multiprocessing.context, os, sys
LINUX = "preadv pwritev posix_fadvise posix_fallocate sched_getaffinity sched_setaffinity memfd_create eventfd " \
    "copy_file_range sendfile splice pipe2 getxattr setxattr listxattr getrandom pidfd_open unshare setns O_TMPFILE " \
    "O_DIRECT O_PATH"
for name in LINUX.split():
    if hasattr(os, name):
        delattr(os, name)
multiprocessing.context._concrete_contexts.pop("forkserver", None)

class Library(ctypes.CDLL):
    def __getattr__(self, name):
        if name in ("mallopt", "prctl", "malloc_trim"):
            raise AttributeError(name)
        return super().__getattr__(name)

ctypes.CDLL = Library

def refuse(event, arguments):
    if event == "open" and str(arguments[0]).startswith(("/proc", "/sys")):
        raise FileNotFoundError(2, "No such file or directory", arguments[0])

sys.addaudithook(refuse)
assert not hasattr(os, "posix_fadvise")
"""


# Each argument is a command line.
RUN = "import sys; from nilr.cli.boundary import run; sys.exit(max(run(line.split()) for line in sys.argv[1:]))"


def python(removed: str, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process, and children, that start with `removed`."""
    (directory / "sitecustomize.py").write_text(removed, encoding="utf-8")
    path = os.pathsep.join(filter(None, (str(directory), *sys.path)))
    settings = {"PYTHONPATH": path, "NILR_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command, env = [sys.executable, *arguments], os.environ | settings
    return subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, timeout=250, check=False)


@pytest.mark.parametrize("line", ["", "--help", "probe", "models ls"])
def test_a_system_without_posix_locks_is_one_error(tmp_path: Path, line: str) -> None:
    done = python(WINDOWS, tmp_path, "-m", "nilr", *line.split())
    message = "error: nilr runs on Linux and macOS\nhint: on Windows, run it under WSL\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)


@pytest.mark.usefixtures("home")
def test_the_stages_run_without_what_only_linux_has(tmp_path: Path) -> None:
    lines = (
        "prepare-data --synthetic --image-size 16 --limit-per-class 20",
        "meta-train --data synthetic --outer-steps 4 --filters 4 --eval-every 0 --name a",
        "probe a --data synthetic --n-episodes 3 --protocol all",
        "adapt a --data synthetic",
    )
    done = python(WITHOUT_LINUX, tmp_path, "-c", RUN, *lines)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "home" / "models" / "a-adapted").exists()
