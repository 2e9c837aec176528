"""What a table must say of how it was made."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch


def heading(threads: int, seed: int) -> str:
    """Return the command, the machine, the versions, the seed, the commit and the date, in Markdown."""
    command = " ".join(["python", *sys.argv])
    return (
        f"`{command}` on {processor()}, {os.cpu_count()} cores, {threads} threads; "
        f"Python {platform.python_version()}, torch {torch.__version__}; "
        f"seed {seed}; commit {commit()}; {datetime.now(UTC):%Y-%m-%d}"
    )


def processor() -> str:
    """Return the processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    wide = any("avx512" in line for line in lines)
    return (named[0] if named else platform.processor() or platform.machine()) + (" (AVX-512)" if wide else "")


def commit() -> str:
    """Return the commit, marked where the tree differs from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    found = subprocess.run([*git, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"
