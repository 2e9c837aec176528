"""`nilr reproduce --preset demo` as jobs of submitit's local executor, with preemptions."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from nilr.results.reproduce import ReproduceMetrics
from nilr.results.result import Result

pytest.importorskip("submitit")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc"),
]


def start(home: Path, *flags: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-P",
        "-m",
        "nilr",
        "reproduce",
        "--preset",
        "demo",
        "--seeds",
        "1",
        "--threads",
        "2",
        *flags,
    ]
    return subprocess.Popen([*command, "--home", home], stderr=subprocess.PIPE, text=True)


def jobs(home: Path) -> list[int]:
    """Return the processes of jobs that execute a task; those that control them are others."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_text().split("\0")
            if "submitit.core._submit" in line and str(home) in path.read_text():
                found.append(int(path.parent.name))
    return found


def preempt(home: Path, model: str, signum: signal.Signals) -> None:
    """Send a signal to all jobs when a model has begun its training."""
    while not (home / "models" / model / "history.jsonl").exists():
        time.sleep(0.1)
    for pid in jobs(home):
        os.kill(pid, signum)


def test_an_experiment_whose_jobs_are_preempted_twice_has_the_same_models_and_metrics(tmp_path: Path) -> None:
    undisturbed = start(tmp_path / "undisturbed")
    assert undisturbed.communicate()[1].count("resumes after update") == 0
    preempted = start(tmp_path / "preempted", "--cluster", "local")
    preempt(tmp_path / "preempted", "demo-maml-s0", signal.SIGUSR1)
    preempt(tmp_path / "preempted", "demo-metasgd-s0", signal.SIGTERM)
    notes = preempted.communicate()[1]
    assert (undisturbed.returncode, preempted.returncode) == (0, 0), notes
    assert notes.count("resumes after update") >= 2
    same = sorted(
        file.relative_to(tmp_path / "undisturbed") for file in (tmp_path / "undisturbed").rglob("*.safetensors")
    )
    assert len(same) == 8  # 4 models, `last` and the state of the training of each
    for file in same:
        before, after = (load_file(tmp_path / home / file) for home in ("undisturbed", "preempted"))
        assert before.keys() == after.keys()
        assert all(before[name].equal(after[name]) for name in before), file
    files = [tmp_path / home / "reproduce" / "demo" / "reproduce.json" for home in ("undisturbed", "preempted")]
    first, second = (Result[ReproduceMetrics].model_validate_json(file.read_bytes()) for file in files)
    assert first.metrics == second.metrics
