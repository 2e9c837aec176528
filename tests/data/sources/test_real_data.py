"""Real data sets by name: NILR_OMNIGLOT has images_background and images_evaluation, NILR_TINY_IMAGENET train and val.

The Tiny-ImageNet of these figures was resized to 32 px. The real Mini-ImageNet is in test_prepare_data.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nilr.config.packs import PrepareDataSettings
from nilr.data.pack import open_pack
from nilr.recipes import prepare_data
from nilr.reporting import SilentReporter
from nilr.results.commands import PrepareDataMetrics
from nilr.results.result import Result

# Before the fixture `home` removes them from the environment.
PLACES = {name: os.environ.get(name) for name in ("NILR_OMNIGLOT", "NILR_TINY_IMAGENET")}

pytestmark = [pytest.mark.real_data, pytest.mark.slow]


def packed(variable: str, home: Path, **settings: object) -> Result[PrepareDataMetrics]:
    place = PLACES[variable]
    if place is None:
        pytest.skip(f"the real images are not here: set {variable}")
    given = PrepareDataSettings(sources=(Path(place),), home=home, **settings)
    return prepare_data.run(given, SilentReporter())


def counts(result: Result[PrepareDataMetrics]) -> dict[str, tuple[int, int]]:
    return {split: (n.classes, n.images) for split, n in result.metrics.splits.items()}


def test_omniglot_is_packed_in_full(home: Path) -> None:
    result = packed("NILR_OMNIGLOT", home)
    assert counts(result) == {"train": (1028, 20_560), "val": (172, 3_440), "test": (423, 8_460)}
    assert result.metrics.warnings == []
    assert len(result.metrics.duplicate_pairs) == 1
    assert result.data is not None
    assert (result.data.name, result.data.image_size, result.data.channels) == ("omniglot", 28, 1)
    assert result.data.digest == "ce79b203e14f87282d58380d9f9d7d4bfe5fde39593c3370014e0da49f6f37b4"
    pack = open_pack(home / "datasets" / "omniglot.h5")
    numbers = {split: {int(name[:4]) for name in pack.open_split(split).filenames()} for split in pack.splits}
    assert numbers["test"] == set(range(1201, 1624))  # a character has the number of its files
    assert numbers["train"] | numbers["val"] == set(range(1, 1201))


def test_tiny_imagenet_is_packed_in_full(home: Path) -> None:
    result = packed("NILR_TINY_IMAGENET", home, image_size=32)
    assert counts(result) == {"train": (52, 28_600), "val": (15, 8_250), "test": (39, 21_450)}
    assert result.data is not None
    assert result.data.name == "tiny-imagenet"
    assert result.data.digest == "5d8d22d44a4d97ce1954ace652dd7644bf5613ab13c613614ca7f63939599af9"
