"""Settings of `nilr prepare-data`."""

from __future__ import annotations

from pathlib import Path

from nilr.config.base import MeasuringSettings, Resample, setting


class PrepareDataSettings(MeasuringSettings):
    """`nilr prepare-data`: pack images into one HDF5 file."""

    sources: tuple[Path, ...] = setting((), "Folders, archives or pickle files with the images.")
    name: str | None = setting(None, "Name of the pack in the store.", shown="mini-imagenet, or synthetic", env=False)
    image_size: int = setting(84, "Height and width of the packed images, in pixels.", ge=8, le=1024)
    resample: Resample = setting("bilinear", "Resampling filter for images of another size.")
    split_files: Path | None = setting(
        None,
        "Directory with train.csv, val.csv and test.csv (columns filename,label).",
        shown="those in the source, or the built-in ones",
    )
    split_classes: str | None = setting(
        None,
        "Number of train/val/test classes, such as 64/16/20, for images without a split. --seed assigns the classes.",
        shown="the split of the source",
    )
    limit_per_class: int | None = setting(
        None, "Maximum number of images per class; the first ones in name order are packed.", shown="all", ge=1
    )
    skip_broken: bool = setting(False, "Skip unreadable images. Without this flag they are an error.")
    synthetic: bool = setting(False, "Generate 100 classes of images instead of reading a source.")
    verify: Path | None = setting(
        None, "Pack no images: check every digest of this pack (a path, or a name in the store).", env=False
    )
    workers: int | None = setting(None, "Number of threads that decode images.", shown="one per core", ge=1, le=256)
    seed: int = setting(0, "Seed of --synthetic and --split-classes.", ge=0, lt=2**63)
    force: bool = setting(False, "Replace a pack that has the same name.", env=False)
