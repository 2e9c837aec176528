from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from nilr.config.reproduce import ReproduceSettings
from nilr.recipes import report, reproduce
from nilr.reporting import SilentReporter
from nilr.results.reproduce import ReproduceMetrics
from nilr.results.result import Result


def tiny(home: Path, **more: Any) -> ReproduceSettings:
    small = {"preset": "demo", "seeds": 1, "outer_steps": 2, "n_episodes": 2, "filters": 4, "threads": 1}
    return ReproduceSettings(**{**small, "home": home, **more})


@pytest.fixture(scope="session")
def _experiment(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result[ReproduceMetrics]]:
    home, threads = tmp_path_factory.mktemp("finished"), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "run", lambda *_: None)
        result = reproduce.run(tiny(home), SilentReporter())
    torch.set_num_threads(threads)
    return home, result


@pytest.fixture
def finished(_experiment: tuple[Path, Result[ReproduceMetrics]], home: Path) -> Result[ReproduceMetrics]:
    """Fill the store with a finished experiment that has no report; return its result."""
    shutil.copytree(_experiment[0], home)
    return _experiment[1]
