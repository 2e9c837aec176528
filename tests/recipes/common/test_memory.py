"""Memory does not grow with updates, nor with judged episodes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from nilr.config.evaluation import ProbeSettings
from nilr.config.meta_train import TrainSettings
from nilr.recipes import meta_train, probe
from nilr.reporting import SilentReporter

pytestmark = [
    pytest.mark.usefixtures("pack", "one_thread"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/statm"),
]

MB = 2**20


def resident() -> int:
    """Return this process's resident memory in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Watching(SilentReporter):
    """Notes the resident memory after some units and at the last one."""

    def __init__(self, settled: int) -> None:
        self.done, self.settled, self.first, self.last = 0, settled, 0, 0

    def advance(self, n: int = 1) -> None:
        self.done += n
        if self.done == self.settled:
            self.first = resident()
        self.last = resident()


def grown(settled: int, *, updates: int, quick: dict[str, Any]) -> int:
    reporter = Watching(settled)
    settings = quick | {"outer_steps": updates, "n_query": 7, "eval_every": 0, "log_every": 50}
    meta_train.run(TrainSettings(algo="metasgd", **settings), reporter)
    return reporter.last - reporter.first


# 2 episodes of 24 images of 16 px are 150 kB an update: kept, they would be 22 MB after 150 and 280 MB after 2,000
@pytest.mark.slow
def test_training_takes_no_more_memory_after_many_updates(quick: dict[str, Any]) -> None:
    assert grown(100, updates=250, quick=quick) < 15 * MB


@pytest.mark.slow
def test_training_takes_no_more_memory_after_two_thousand_updates(quick: dict[str, Any]) -> None:
    assert grown(100, updates=2000, quick=quick) < 15 * MB


@pytest.mark.slow
def test_probing_takes_no_more_memory_for_many_episodes(quick: dict[str, Any]) -> None:
    meta_train.run(TrainSettings(algo="maml", name="m", **quick), SilentReporter())
    reporter = Watching(50)
    # an episode of each of the two tasks, of up to 24 images, is 150 kB: kept, they would be 22 MB
    probe.run(ProbeSettings(models=("m",), n_episodes=200, n_query=7, inner_steps=1, threads=1), reporter)
    assert reporter.last - reporter.first < 15 * MB
