"""Settings of `nilr prepare-data`."""

from __future__ import annotations

from pathlib import Path

from nilr.config.base import MeasuringSettings, Resample, setting


class PrepareDataSettings(MeasuringSettings):
    """`nilr prepare-data`: images -> one HDF5 file."""

    sources: tuple[Path, ...] = setting((), "Folders, archives or pickles that hold the images.")
    name: str | None = setting(None, "Name of the pack in the store.", shown="mini-imagenet, or synthetic", env=False)
    image_size: int = setting(84, "Height and width of the packed images, in pixels.", ge=8, le=1024)
    resample: Resample = setting("bilinear", "Filter for images that are not at that size yet.")
    split_files: Path | None = setting(
        None, "Directory with train.csv, val.csv and test.csv (filename,label).", shown="found, or built in"
    )
    split_classes: str | None = setting(
        None,
        "Numbers of train/val/test classes, drawn by seed, for images that come without a split: 64/16/20.",
        shown="as the source says",
    )
    limit_per_class: int | None = setting(
        None, "Pack only the first images of each class, in name order.", shown="all", ge=1
    )
    skip_broken: bool = setting(False, "Leave unreadable images out instead of stopping.")
    synthetic: bool = setting(False, "Generate 100 classes of images; no source is needed.")
    verify: Path | None = setting(
        None, "Only re-read this pack (a path, or a name in the store) and check every digest.", env=False
    )
    workers: int | None = setting(None, "Decoding threads.", shown="one per core", ge=1, le=256)
    seed: int = setting(0, "Seed of --synthetic and of --split-classes.", ge=0, lt=2**63)
    force: bool = setting(False, "Replace a pack that has the same name.", env=False)
