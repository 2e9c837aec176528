"""Settings of `nilr reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from nilr.config.base import ChunkSettings, setting

ReproducePreset = Literal["paper", "cpu", "demo"]


class ReproduceSettings(ChunkSettings):
    """`nilr reproduce`: the whole experiment, over seeds, to a verdict."""

    sources: tuple[Path, ...] = setting((), "Images to pack first, where the pack is not there yet.")
    preset: ReproducePreset = setting(
        "cpu",
        "paper: 84 px, 60,000 updates, for a GPU; cpu: 32 px, two hours on two cores; demo: generated images, minutes.",
    )
    seeds: int | None = setting(
        None,
        "Train everything with that many seeds, from --seed on; under three there is no verdict.",
        shown="5 for paper, else 3",
        ge=1,
        le=100,
    )
    name: str | None = setting(
        None, "Name of the experiment: models are called NAME-RUN-sSEED.", shown="the preset's", env=False
    )
    data: str | None = setting(None, "Pack to train and judge on: a name or a path.", shown="the preset's")
    outer_steps: int | None = setting(None, "Outer updates of every training.", shown="as the preset", ge=1)
    filters: int | None = setting(
        None, "Channels of each of the body's convolutions.", shown="as the preset", ge=1, le=4096
    )
    n_episodes: int | None = setting(None, "Episodes of every probe.", shown="as the preset", ge=2)
    jobs: int | None = setting(
        None,
        "Trainings and probes at the same time, each in a process of its own on its share of the threads.",
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
