"""Run `nilr adapt` on painted pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nilr.config.evaluation import AdaptSettings
from nilr.recipes import adapt
from nilr.reporting import SilentReporter
from nilr.results.commands import AdaptMetrics
from nilr.results.result import Result


def run(**settings: Any) -> Result[AdaptMetrics]:
    if isinstance(settings.get("query"), Path):
        settings["query"] = (settings["query"],)
    return adapt.run(AdaptSettings(**({"threads": 1} | settings)), SilentReporter())


def paint(path: Path, colour: tuple[int, int, int], seed: int) -> None:
    """Write a 20 px picture of a colour with noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(0, 20, (20, 20, 3))
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(path)
