"""Settings of the commands without a module of their own."""

from pathlib import Path
from typing import Literal

from nilr.config.base import (
    ARCH,
    DEVICES,
    Channels,
    ChunkSettings,
    ClusterSettings,
    CommaText,
    CubSplit,
    DatasetName,
    EpisodeSettings,
    FigureStyle,
    FigureWidth,
    Fit,
    Float32,
    MeasuringSettings,
    ReportFormat,
    Resample,
    Seeds,
    Settings,
    Split,
    Widths,
    setting,
)

ExportFormat = Literal["nilr", "state-dict", "learn2learn"]
ModelStatus = Literal["finished", "running", "interrupted", "failed", "unsaved", "unreadable"]
ModelOrder = Literal["name", "algo", "data", "status", "accuracy", "size", "age"]
TableFormat = Literal["csv", "parquet", "json"]
ReproducePreset = Literal["paper", "cpu", "controls", "grid", "demo"]


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
        None, "Height and width of the packed images, in pixels.", shown="the data set's, else 84", ge=8, le=1024
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


class BenchSettings(EpisodeSettings):
    """`nilr bench`: measure the speed of this machine on random images."""

    engine: str = setting(
        "all", "Engine to time: a name, auto, or all: every engine that auto can choose on the device."
    )
    algo: CommaText = setting("maml,metasgd", "Algorithms to time, separated by commas.", offers=("{algorithms}",))
    image_size: int = setting(84, "Height and width of the images, in pixels.", ge=8, le=1024)
    channels: int = setting(3, "Channels of the images: 1 is grey, 3 is RGB.", ge=1, le=3)
    rounds: int = setting(3, "Number of times to measure each engine; the median is reported.", ge=1, le=1000)


class ReproduceSettings(ChunkSettings, ClusterSettings):
    """`nilr reproduce`: run a whole experiment over several seeds."""

    sources: tuple[Path, ...] = setting((), "Images to pack first, if the pack does not exist.")
    preset: ReproducePreset = setting(
        "cpu",
        "paper: 84 px, 60,000 updates, for a GPU; cpu: 32 px, about two hours on two cores; controls: control "
        "trainings for cpu; grid: MAML trained at and adapted with several rates, 32 px; demo: generated images, a few "
        "minutes.",
    )
    seeds: Seeds | None = setting(
        None,
        "Number of seeds, starting at --seed, or a list such as 0,1,7; a finding needs at least three.",
        shown="5 for paper and controls, else 3",
        text=True,
    )
    name: str | None = setting(
        None,
        "Name of the experiment; its models are named NAME-RUN-sSEED.",
        shown="the preset's; controls shares the models of cpu",
        env=False,
    )
    data: str | None = setting(None, "Pack to train and evaluate on: a name or a path.", shown="the preset's")
    outer_steps: int | None = setting(None, "Number of updates of every training.", shown="the preset's", ge=1)
    arch: str | None = setting(
        None,
        "Body of all networks, as in meta-train: conv4, conv4-leaky, conv6, resnet12 or an import path.",
        shown="the preset's",
    )
    filters: int | None = setting(
        None, "conv4 and conv6: number of channels of each convolution.", shown="the preset's", ge=1, le=4096
    )
    widths: Widths | None = setting(
        None, "resnet12: number of channels of each of the four blocks.", shown="the preset's", text=True
    )
    n_episodes: int | None = setting(None, "Number of episodes of every probe.", shown="the preset's", ge=2)
    smallest_effect: float = setting(
        0.3,
        "Smallest effect of interest, in points; a sign whose 90 % interval lies within it is equivalent to none.",
        gt=0,
        le=100,
    )
    jobs: int | None = setting(
        None,
        "Number of trainings and probes to run at the same time; each is a process with its share of the threads.",
        shown="one per CPU thread, at most 8; on a GPU 1; with --cluster slurm all",
        ge=1,
        le=100,
    )
    home: Path | None = setting(
        None,
        "Directory of the store: datasets, models, results.",
        shown="NILR_HOME, else the user data directory; for demo ./nilr-reproduce",
        env=False,
    )


class ReportSettings(Settings):
    """`nilr report`: make tables and figures from result files."""

    results: tuple[Path, ...] = setting(
        (),
        "Results of `probe`, `rates` and `reproduce`: paths, names, beginnings of names or patterns. The name of a "
        "model, or a pattern such as 'cpu-maml-s*', stands for its newest probe and rates. Default: the newest probe.",
    )
    out: Path | None = setting(
        None, "Page or text to write; its figures are written to the folder NAME-figures.", shown="print a table"
    )
    format: ReportFormat | None = setting(
        None,
        "html: one self-contained page; md: Markdown; pdf, svg, png: figures alone, in the folder --out.",
        shown="the extension of --out",
    )
    style: FigureStyle | None = setting(
        None,
        "Look of files of figures: screen, or paper (8 pt serif, as wide as --width).",
        shown="paper with --width, else screen",
    )
    width: FigureWidth | None = setting(
        None, "Width of files of figures for a paper: column (3.35 in) or page (7 in).", shown="page with --style paper"
    )
    force: bool = setting(False, "Replace existing files.", env=False)


class DemoSettings(MeasuringSettings):
    """`nilr demo`: run all steps on generated images."""

    home: Path | None = setting(None, "Directory of the demo's store.", shown="./nilr-demo", env=False)
    seed: int = setting(0, "Seed of all random numbers.", ge=0, lt=2**63)
    device: str = setting("auto", f"Device to compute on: {', '.join(DEVICES)} or cuda:N.", offers=DEVICES)
    threads: int | None = setting(None, "Number of CPU threads.", shown="one per core", ge=1)


class ModelSettings(Settings):
    """`nilr models show` and `nilr models path`."""

    model: str | None = setting(
        None, "Model: a name, NAME@best, NAME@last or a path.", shown="the latest trained model"
    )


class ModelsSettings(Settings):
    """`nilr models verify` (default: all models)."""

    models: tuple[str, ...] = setting((), "Names of models.")


class ListModelsSettings(ModelsSettings):
    """`nilr models ls` (default: all models)."""

    sort: ModelOrder = setting("name", "Order: name, algo, data, status, accuracy, size or age.", env=False)
    algo: str | None = setting(None, "Only models of this algorithm.", shown="all", env=False, offers=("{algorithms}",))
    data: str | None = setting(None, "Only models that were trained on this pack.", shown="all", env=False)
    status: ModelStatus | None = setting(
        None,
        "Only models in this state: finished, running, interrupted (its training has not finished, and no process is "
        "working on it), failed (an error ended its training), unsaved (its training ended before the first save) or "
        "unreadable.",
        shown="all",
        env=False,
    )


class CompareModelsSettings(ModelsSettings):
    """`nilr models compare`."""


class RemoveSettings(ModelsSettings):
    """`nilr models rm`."""

    yes: bool = setting(False, "Do not ask for confirmation; required without a terminal.", short="-y", env=False)


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


class ImportSettings(MeasuringSettings):
    """`nilr models import`: copy models into the store, and translate those of other libraries."""

    sources: tuple[Path, ...] = setting(
        (), "Directories of models, single checkpoints (.safetensors), or state dicts of other libraries."
    )
    name: str | None = setting(
        None, "Name of the model in the store, for a single SOURCE.", shown="the directory's or file's name", env=False
    )
    format: str | None = setting(
        None,
        "Format of a state dict: {formats}.",
        shown="recognised from the names",
        env=False,
        offers=("{formats}",),
    )
    data: str | None = setting(
        None, "Pack that a state dict was trained on: a name or a path.", shown="unknown", env=False
    )
    image_size: int | None = setting(
        None,
        "Height and width of the images of a state dict, in pixels.",
        shown="that of --data, or what the head's width allows",
        ge=8,
        le=1024,
        env=False,
    )
    n_way: int | None = setting(
        None,
        "Number of classes of a state dict without a head, which gets a head of zeros.",
        shown="none",
        ge=2,
        le=1000,
    )
    n_shot: int = setting(1, "Number of support images per class for which a state dict was trained.", ge=1, le=1000)
    inner_lr: Float32 | None = setting(
        None,
        "Fixed learning rate of the inner loop of a state dict without rates; the loss is a mean over images.",
        shown="none",
    )
    inner_steps: int | None = setting(
        None, "Number of gradient steps of the inner loop of a state dict.", shown="none", ge=1, le=1000
    )
    input_mean: str | None = setting(
        None,
        "Mean that is subtracted from images, which are between 0 and 1: one number, or three for red, green and blue.",
        shown="0",
        env=False,
    )
    input_std: str | None = setting(
        None,
        "Divisor of the images after --input-mean is subtracted: one number, or three. 0.00392156862745098 scales them "
        "to 0 to 255.",
        shown="1",
        env=False,
    )
    norm_step: int | None = setting(
        None,
        "Inner step, from 0, whose scale and shift of batch normalisation are used, if each step has its own.",
        shown="none",
        ge=0,
        env=False,
    )
    ignore: tuple[str, ...] = setting(
        (), "Tensors of a state dict to leave out: names, also with *. May be repeated.", env=False
    )
    force: bool = setting(False, "Replace a model with the same name.", env=False)


class ExportSettings(ModelSettings):
    """`nilr models export`: write a model to a file for other programs."""

    output: Path | None = setting(None, "File to write: .safetensors, .pt or .pth. Required.", env=False)
    format: ExportFormat = setting(
        "state-dict",
        "nilr: the checkpoint itself; state-dict: parameters and rates by nilr's names; learn2learn: the state dict of "
        "its MAML or MetaSGD. The last two also write a description, FILE.json.",
        env=False,
    )
    arch: tuple[str, ...] = ARCH
    force: bool = setting(False, "Replace existing files.", env=False)


class PushSettings(Settings):
    """`nilr models push`: upload a model to the Hugging Face Hub."""

    model: str | None = setting(None, "Name of the model in the store.")
    repo: str | None = setting(None, "Repository: hf://USER/REPO. It is created if it does not exist.")
    private: bool = setting(False, "Create the repository for you alone.", env=False)
    licence: str | None = setting(
        None, "Licence of the model for its card, such as cc-by-4.0.", shown="not stated", env=False
    )
    force: bool = setting(False, "Replace the repository's README.md too.", env=False)


class PullSettings(Settings):
    """`nilr models pull`: download a model from the Hugging Face Hub."""

    repo: str | None = setting(None, "Repository: hf://USER/REPO or hf://USER/REPO@REVISION.")
    name: str | None = setting(None, "Name of the model in the store.", shown="REPO", env=False)
    force: bool = setting(False, "Replace a model with the same name.", env=False)


class ResultSettings(Settings):
    """`nilr results show` (default: the newest result)."""

    results: tuple[Path, ...] = setting(
        (), "Results: names, beginnings of names, patterns such as '*-probe-*', or paths."
    )


class ResultListSettings(ResultSettings):
    """`nilr results ls` (default: the newest results)."""

    kind: str | None = setting(None, "Only results of this command, such as probe.", shown="all", offers=("{kinds}",))
    uses: str | None = setting(None, "Only results that used this model.", shown="all")
    limit: int = setting(30, "Maximum number of results; the newest ones.", ge=1)


class ResultRemoveSettings(ResultSettings):
    """`nilr results rm`."""

    yes: bool = setting(False, "Do not ask for confirmation; required without a terminal.", short="-y", env=False)


class ResultExportSettings(ResultSettings):
    """`nilr results export`: write results as two tables for pandas (default: all results)."""

    output: Path | None = setting(
        None,
        "Beginning of the files' names: OUTPUT-summary and OUTPUT-episodes. An ending such as .csv selects the format.",
        shown="results",
    )
    format: TableFormat | None = setting(None, "Format of the tables.", shown="the ending of --output, else csv")
    force: bool = setting(False, "Replace existing files.", env=False)


class WatchSettings(ModelsSettings):
    """`nilr watch` (default: the running trainings, else the newest one)."""

    every: float = setting(2.0, "Seconds between two reads of the files.", ge=0.1, le=3600)
    once: bool = setting(False, "Show the state once and exit, for a pipe.")
