from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.recipes.adapt.running import paint
from tests.trained import train_model

COLOURS = {"ash": (200, 60, 60), "birch": (60, 200, 60), "cedar": (60, 60, 200)}


@pytest.fixture
def maml(quick: dict[str, Any]) -> str:
    train_model(algo="maml", name="maml", **quick)
    return "maml"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Return a folder with support/<class>/, labelled/<class>/ and plain/ pictures."""
    for number, (name, colour) in enumerate(COLOURS.items()):
        for i in range(2):
            paint(tmp_path / "support" / name / f"{i}.png", colour, 10 * number + i)
            paint(tmp_path / "labelled" / name / f"{i}.png", colour, 10 * number + i + 5)
            paint(tmp_path / "plain" / f"{name}-{i}.png", colour, 10 * number + i + 5)
    return tmp_path
