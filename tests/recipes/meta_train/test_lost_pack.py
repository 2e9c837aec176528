"""A pack that cannot be read any more while a training uses it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nilr.checkpoint import read_manifest
from nilr.config.meta_train import TrainSettings
from nilr.errors import DataError, NilrError, StoreError
from nilr.recipes import meta_train
from nilr.reporting import SilentReporter

pytestmark = pytest.mark.usefixtures("pack", "one_thread")


class AfterThreeUpdates(SilentReporter):
    """Does something after three updates."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action, self._left = action, 3

    def advance(self, n: int = 1) -> None:
        self._left -= n
        if self._left == 0:
            self._action()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("loss", ["truncated", "failing disk"])
def test_completed_updates_are_saved_and_can_be_resumed(
    loss: str, seeds: int, home: Path, pack: Path, quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    whole = pack.read_bytes()
    lose, kind = {
        "truncated": (lambda: os.truncate(pack, 10_000), DataError),
        "failing disk": (lambda: monkeypatch.setattr("os.pread", fail), StoreError),
    }[loss]
    settings = {**quick, "algo": "maml", "name": "m", "seeds": seeds, "eval_every": 0}
    with pytest.raises(NilrError) as caught:
        meta_train.run(TrainSettings(**settings), AfterThreeUpdates(lose))
    assert isinstance(caught.value, kind)
    names = ["m"] if seeds == 1 else ["m-seed0", "m-seed1"]
    for name in names:
        assert read_manifest(home / "models" / name / "last.safetensors").outer_step == 3
        assert f"nilr meta-train --resume {name}" in str(caught.value.hint)
    monkeypatch.undo()
    monkeypatch.setenv("NILR_HOME", str(home))
    pack.write_bytes(whole)
    resumed = meta_train.run(TrainSettings(resume="m", seeds=seeds, threads=1), SilentReporter())
    assert resumed.metrics.outer_step == 8
