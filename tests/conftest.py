"""Fixtures that more than one tier uses."""

from __future__ import annotations

import fcntl
import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nilr.data.pack import PackInfo
from nilr.data.pack_writer import PackWriter

MadeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the variants of a `sampled` test to the slow run, except for a sample that is always the same."""
    variants = defaultdict[tuple[str, int], list[pytest.Item]](list)
    for item in items:
        if (sampled := item.get_closest_marker("sampled")) and not item.get_closest_marker("slow"):
            variants[item.nodeid.partition("[")[0], sampled.args[0]].append(item)
    for (name, n), of_test in variants.items():
        for item in random.Random(name).sample(of_test, max(0, len(of_test) - n)):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """Return a function that makes a file or a directory, once for all processes that run the tests."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def made(name: str, make: Callable[[Path], object]) -> Path:
        path, part = shared / name, shared / f"part-{name}"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                make(part)
                part.rename(path)
        return path

    return made


@pytest.fixture
def mini_imagenet() -> Path:
    """Return the directory of the real archive (train.tar, val.tar, test.tar, splits/), or skip."""
    default = Path(__file__).parents[2] / "shared" / "mini-imagenet"
    directory = Path(os.environ.get("NILR_MINI_IMAGENET", default))
    if not (directory / "train.tar").exists():
        pytest.skip("the real Mini-ImageNet is not here: set NILR_MINI_IMAGENET")
    return directory


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty store, which every command of the test uses."""
    for name in [name for name in os.environ if name.startswith("NILR_")]:
        monkeypatch.delenv(name)
    directory = tmp_path / "home"
    monkeypatch.setenv("NILR_HOME", str(directory))
    return directory


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute on one thread, so that tests beside each other do not wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def pack(home: Path) -> Path:
    """Pack 12/8/10 classes of 8 noisy images of 16 px, one colour per class, as the store's `mini-imagenet`."""
    rng = np.random.default_rng(0)
    numbers = {"train": 12, "val": 8, "test": 10}
    layout = {split: {f"{split}{i:02d}": 8 for i in range(n)} for split, n in numbers.items()}
    path = home / "datasets" / "mini-imagenet.h5"
    info = PackInfo("mini-imagenet", 16, "bilinear", source="generated in a test", licence="none")
    with PackWriter.create(path, info, layout) as writer:
        for split, classes in layout.items():
            for name, n in classes.items():
                colour = rng.uniform(60, 195, (1, 1, 1, 3))
                pixels = colour + rng.normal(0, 40, (n, 16, 16, 3))
                writer.write_class(
                    split, name, pixels.clip(0, 255).astype(np.uint8), [f"{name}-{i}.png" for i in range(n)]
                )
    return path


@pytest.fixture
def quick() -> dict[str, Any]:
    """Return training settings that take a moment."""
    return {
        "filters": 4,
        "n_way": 3,
        "n_query": 3,
        "meta_batch_size": 2,
        "outer_steps": 8,
        "eval_every": 4,
        "eval_episodes": 3,
        "log_every": 2,
        "threads": 1,
    }
