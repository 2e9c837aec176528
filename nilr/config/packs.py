"""Settings of `nilr prepare-data` and of the commands `nilr data`."""

from pathlib import Path

from nilr.config.base import (
    IMAGE_SIZES,
    Channels,
    CubSplit,
    DatasetName,
    Fit,
    MeasuringSettings,
    Resample,
    Settings,
    Split,
    setting,
)


class PrepareDataSettings(MeasuringSettings):
    """`nilr prepare-data`: pack images into one HDF5 file."""

    sources: tuple[Path, ...] = setting((), "Folders, archives, arrays, pickle or Parquet files with the images.")
    dataset: DatasetName | None = setting(
        None, "Standard data set: its published split, image size and channels.", shown="recognised by class names"
    )
    cub_split: CubSplit = setting("100/50/50", "Published split of CUB-200-2011, by numbers of classes.")
    rotations: bool = setting(
        False, "Add the quarter turns of each class as three further classes, as is usual for Omniglot."
    )
    name: str | None = setting(
        None, "Name of the pack in the store.", shown="the data set's, synthetic, or the source's", env=False
    )
    image_size: int | None = setting(
        None,
        "Height and width of the packed images, in pixels.",
        shown="the data set's, else 84",
        ge=IMAGE_SIZES[0],
        le=IMAGE_SIZES[1],
    )
    channels: Channels = setting(
        "auto", "Channels of the packed images: 1 is grey, 3 is RGB, auto is 1 for Omniglot and 3 for other images."
    )
    resample: Resample = setting("bilinear", "Resampling filter for images of another size.")
    fit: Fit = setting(
        "stretch",
        "How an image becomes a square: stretch: resized as a whole; crop: cut at the longer sides; pad: black bars at "
        "the shorter sides.",
    )
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
    min_images: int | None = setting(None, "Leave out classes with fewer images than this.", shown="none", ge=1)
    exclude_classes_of: tuple[str, ...] = setting(
        (), "Leave out the classes that this pack has (a name, or a path). May be repeated."
    )
    skip_broken: bool = setting(
        False, "Skip images and archives that cannot be read. Without this flag they are an error."
    )
    synthetic: bool = setting(False, "Generate 100 classes of images instead of reading a source.")
    verify: Path | None = setting(
        None, "Pack no images: check every digest of this pack (a path, or a name in the store).", env=False
    )
    workers: int | None = setting(None, "Number of threads that decode images.", shown="one per core", ge=1, le=256)
    seed: int = setting(0, "Seed of --synthetic and --split-classes.", ge=0, lt=2**63)
    force: bool = setting(False, "Replace a pack that has the same name.", env=False)


class ListPacksSettings(Settings):
    """`nilr data ls`."""


class ShowPackSettings(Settings):
    """`nilr data show`: what a pack contains, in words and pictures."""

    pack: str | None = setting(None, "Pack: a name, or a path.", shown="the pack that was made last")
    out: Path | None = setting(
        None,
        "Folder for the pictures PACK-classes.png and PACK-episode.png, which are replaced if they exist.",
        shown="the working directory",
    )
    split: Split = setting("train", "Split of the drawn episode.")
    n_way: int = setting(5, "Number of classes of the drawn episode.", ge=1, le=100)
    n_shot: int = setting(1, "Number of support images per class.", ge=1, le=100)
    n_query: int = setting(15, "Number of query images per class.", ge=1, le=100)
    seed: int = setting(0, "Seed of the drawn classes, images and episode.", ge=0, lt=2**63)


class VerifyPacksSettings(Settings):
    """`nilr data verify` (default: all packs)."""

    packs: tuple[str, ...] = setting((), "Packs: names, or paths.")


class RemovePacksSettings(Settings):
    """`nilr data rm`."""

    packs: tuple[str, ...] = setting((), "Names of packs.")
    yes: bool = setting(False, "Do not ask for confirmation; required without a terminal.", short="-y", env=False)


class ComparePacksSettings(Settings):
    """`nilr data compare`: what two packs share."""

    a: str | None = setting(None, "First pack: a name, or a path.")
    b: str | None = setting(None, "Second pack: a name, or a path.")
