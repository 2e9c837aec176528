"""Settings of the commands `nilr models`, and of `nilr watch`."""

from pathlib import Path
from typing import Literal

from nilr.config.base import ARCH, IMAGE_SIZES, Float32, MeasuringSettings, Settings, setting

ExportFormat = Literal["nilr", "state-dict", "learn2learn"]
ModelStatus = Literal["finished", "running", "interrupted", "failed", "unsaved", "unreadable"]
ModelOrder = Literal["name", "algo", "data", "status", "accuracy", "size", "age"]


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


class WatchSettings(ModelsSettings):
    """`nilr watch` (default: the running trainings, else the newest one)."""

    every: float = setting(2.0, "Seconds between two reads of the files.", ge=0.1, le=3600)
    once: bool = setting(False, "Show the state once and exit, for a pipe.")


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
        ge=IMAGE_SIZES[0],
        le=IMAGE_SIZES[1],
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
