"""Settings of `nilr reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from nilr.config.base import ChunkSettings, setting

ReproducePreset = Literal["paper", "cpu", "demo"]


class ReproduceSettings(ChunkSettings):
    """`nilr reproduce`: run a whole experiment over several seeds."""

    sources: tuple[Path, ...] = setting((), "Images to pack first, if the pack does not exist.")
    preset: ReproducePreset = setting(
        "cpu",
        "paper: 84 px, 60,000 updates, for a GPU; cpu: 32 px, about two hours on two cores; demo: generated images, "
        "a few minutes.",
    )
    seeds: int | None = setting(
        None,
        "Number of seeds, starting at --seed; a verdict needs at least three.",
        shown="5 for paper, else 3",
        ge=1,
        le=100,
    )
    name: str | None = setting(
        None, "Name of the experiment; its models are named NAME-RUN-sSEED.", shown="the preset's", env=False
    )
    data: str | None = setting(None, "Pack to train and evaluate on: a name or a path.", shown="the preset's")
    outer_steps: int | None = setting(None, "Number of updates of every training.", shown="the preset's", ge=1)
    filters: int | None = setting(None, "Number of channels of each convolution.", shown="the preset's", ge=1, le=4096)
    n_episodes: int | None = setting(None, "Number of episodes of every probe.", shown="the preset's", ge=2)
    jobs: int | None = setting(
        None,
        "Number of trainings and probes to run at the same time; each is a process with its share of the threads.",
        shown="one per CPU thread, at most 8; on a GPU 1",
        ge=1,
        le=100,
    )
    home: Path | None = setting(
        None,
        "Directory of the store: datasets, models, results.",
        shown="NILR_HOME, else the user data directory; for demo ./nilr-reproduce",
        env=False,
    )
