"""Models that many tests need: each is trained once per process, then copied."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from nilr.config.meta_train import TrainSettings
from nilr.data.pack import open_pack
from nilr.recipes import meta_train
from nilr.reporting import SilentReporter


def train_model(**flags: Any) -> None:
    """Leave a trained model in the test's store, as `nilr meta-train` does."""
    settings = TrainSettings(**flags)
    home = Path(os.environ["NILR_HOME"])
    packs = [(path.stem, open_pack(path).info.digest) for path in sorted((home / "datasets").glob("*.h5"))]
    kept = _kept(settings.model_dump_json(), str(packs))
    model = home / "models" / str(settings.name)
    if not kept.exists():
        meta_train.run(settings, SilentReporter())
        shutil.copytree(model, kept)
    elif not model.exists():
        shutil.copytree(kept, model)


@functools.cache
def _kept(settings: str, packs: str) -> Path:
    """Return where the model with these settings is kept."""
    directory = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, directory)
    return directory / "model"
