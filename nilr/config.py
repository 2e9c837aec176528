"""One frozen settings model per command: every default, range, unit and help text, and nothing else.

The command line is generated from these models: field `n_way` is flag `--n-way`, environment variable `NILR_N_WAY` and
JSON key `n_way`. A default of None means "as the algorithm's row, the preset or the checkpoint says"; the resolved
value stands in every result. `explicit()` tells what the user set, so that flags override presets.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Resample = Literal["bilinear", "bicubic", "lanczos", "box", "hamming", "nearest"]
Split = Literal["train", "val", "test"]
Protocol = Literal["meta-init", "same-task", "cross-task"]
ProtocolChoice = Literal["meta-init", "same-task", "cross-task", "all"]
NeighbourRule = Literal["nearest", "class-mean", "attention"]
Distance = Literal["cosine", "euclidean"]
TaskB = Literal["disjoint", "any", "same-classes"]
BatchStats = Literal["apart", "together"]
Interval = Literal["t", "bootstrap"]

SPLITS: tuple[Split, ...] = ("train", "val", "test")
PROTOCOLS: tuple[Protocol, ...] = ("meta-init", "same-task", "cross-task")

MINI_IMAGENET = "mini-imagenet"
SYNTHETIC = "synthetic"


def setting(
    default: Any,  # noqa: ANN401 - a default is of the field's own type
    help: str,
    *,
    shown: str | None = None,
    short: str | None = None,
    env: bool = True,
    **bounds: Any,  # noqa: ANN401 - pydantic's own keywords: ge, gt, le, lt
) -> Any:  # noqa: ANN401 - stands where pydantic's Field stands
    """Describe one setting.

    Args:
        default: its default.
        help: its help text, with the unit.
        shown: the words that stand for a default of None, such as "as the algorithm's row".
        short: a one-letter flag, such as `-q`.
        env: whether `NILR_<FLAG>` may set it.
        bounds: `ge`, `gt`, `le`, `lt`.
    """
    extra: dict[str, Any] = {"shown": shown, "short": short, "env": env}
    return Field(default, description=help, json_schema_extra=extra, **bounds)


class Settings(BaseModel):
    """What every command takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path | None = setting(
        None,
        "Directory of the store: datasets, models, results.",
        shown="NILR_HOME, else the user data directory",
        env=False,
    )

    def explicit(self) -> dict[str, Any]:
        """Return the settings that were given, by name, leaving out all that stand at their default."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class DeviceSettings(Settings):
    """What every command that computes takes."""

    seed: int = setting(0, "Seed of every random stream.", ge=0, lt=2**63)
    device: str = setting("auto", "Where to compute: auto, cpu, cuda or cuda:N.")
    threads: int | None = setting(None, "CPU threads.", shown="one per core", ge=1)
    engine: str = setting("auto", "How episodes are executed: auto, compiled, explicit or reference.")


class PrepareDataSettings(Settings):
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


class TrainSettings(DeviceSettings):
    """`nilr meta-train`: a meta-initialisation, and rates, from a packed dataset."""

    data: str = setting(MINI_IMAGENET, "Pack to train on: a name in the store or a path.")
    algo: str = setting("maml", "Algorithm: maml, fomaml, metasgd, anil, boil.")
    arch: str = setting("conv4", "Architecture of the body: conv4.")
    filters: int = setting(32, "Channels of each of the body's convolutions.", ge=1, le=4096)
    preset: str | None = setting(
        None, "A full recipe that flags override: finn-1shot, finn-5shot, li-metasgd, quick.", shown="none"
    )
    name: str | None = setting(None, "Name of the model in the registry.", shown="a fresh one from --algo", env=False)
    n_way: int = setting(5, "Classes per episode.", ge=2, le=1000)
    n_shot: int = setting(1, "Support images per class.", ge=1, le=1000)
    n_query: int = setting(15, "Query images per class.", ge=1, le=1000)
    inner_steps: int | None = setting(
        None, "Gradient steps of the inner loop in training.", shown="as the algorithm's row", ge=1, le=1000
    )
    eval_inner_steps: int | None = setting(
        None,
        "Gradient steps of the inner loop in validation and judging.",
        shown="as the algorithm's row",
        ge=0,
        le=1000,
    )
    inner_lr: float | None = setting(
        None, "Fixed inner rate, on a mean loss.", shown="as the algorithm's row", gt=0, allow_inf_nan=False
    )
    inner_lr_init: str | None = setting(
        None,
        "Where learned rates start: a number, uniform:LOW,HIGH (one draw for all) or uniform-each:LOW,HIGH "
        "(one per element).",
        shown="as the algorithm's row",
    )
    norm_adapted: bool | None = setting(
        None, "Let the inner loop move norm scale and shift.", shown="as the algorithm's row"
    )
    outer_lr: float = setting(1e-3, "Adam's rate for the outer step.", gt=0, allow_inf_nan=False)
    outer_steps: int = setting(60_000, "Outer updates of the whole run.", ge=1)
    meta_batch_size: int = setting(4, "Episodes per outer update.", ge=1, le=4096)
    grad_clip: float | None = setting(
        None,
        "Clip the meta-gradient by value (of a mean loss over episodes and queries).",
        shown="no clipping",
        gt=0,
        allow_inf_nan=False,
    )
    eval_every: int = setting(
        1_000, "Outer updates between validations, and one at the end; 0: no validation at all.", ge=0
    )
    eval_episodes: int = setting(200, "Episodes per validation.", ge=2)
    save_every: int | None = setting(
        None, "Outer updates between saves.", shown="500, or 5 minutes, whichever comes first", ge=1
    )
    log_every: int = setting(10, "Outer updates between lines of history.jsonl.", ge=1)
    tensorboard: Path | None = setting(
        None, "Directory for TensorBoard's events (needs the extra `tensorboard`).", shown="none"
    )
    resume: str = setting("never", "never, auto (with --name), or the model (name or path) to go on with.", env=False)
    force: bool = setting(False, "Replace a model that has the same name.", env=False)


# Finn clips at 10 a meta-gradient of query losses summed over 75 images and divided by the shots; ours are means over
# images, so his bound is 10/75 at 1-shot and 10/15 at 5-shot. His inner rate, 0.01 on a loss summed over the 5 classes,
# is the rows' 0.05.
PRESETS: dict[str, dict[str, Any]] = {
    "finn-1shot": {
        "algo": "maml",
        "arch": "conv4",
        "filters": 32,
        "n_way": 5,
        "n_shot": 1,
        "n_query": 15,
        "outer_lr": 1e-3,
        "outer_steps": 60_000,
        "meta_batch_size": 4,
        "grad_clip": 10 / 75,
    },
    "finn-5shot": {
        "algo": "maml",
        "arch": "conv4",
        "filters": 32,
        "n_way": 5,
        "n_shot": 5,
        "n_query": 15,
        "outer_lr": 1e-3,
        "outer_steps": 60_000,
        "meta_batch_size": 2,
        "grad_clip": 10 / 15,
    },
    "li-metasgd": {
        "algo": "metasgd",
        "arch": "conv4",
        "filters": 32,
        "n_way": 5,
        "n_shot": 1,
        "n_query": 15,
        "outer_lr": 1e-3,
        "outer_steps": 60_000,
        "meta_batch_size": 4,
    },
    "quick": {"outer_steps": 200, "eval_every": 100, "eval_episodes": 50, "save_every": 100},
}


# The table of edits, nilr/probes/edits.py, which cannot be imported here; a test compares them.
RATES = (
    "learned, zero-negative, zero-positive, absolute, negated, shuffled-signs, shuffled, tensor-mean, norm-matched or "
    "a number"
)


class JudgeSettings(DeviceSettings):
    """What `adapt` and `probe` share: which episodes, and how the inner loop runs on them."""

    data: str | None = setting(None, "Pack to judge on: a name or a path.", shown="the one trained on")
    split: Split = setting("test", "Split whose classes the episodes draw.")
    n_way: int | None = setting(None, "Classes per episode.", shown="as trained", ge=2, le=1000)
    n_shot: int | None = setting(None, "Support images per class.", shown="as trained", ge=1, le=1000)
    n_query: int | None = setting(None, "Query images per class.", shown="as trained", ge=1, le=1000)
    inner_steps: int | None = setting(
        None, "Gradient steps of the inner loop.", shown="the model's eval_inner_steps", ge=0, le=1000
    )
    batch_stats: BatchStats = setting(
        "apart", "Batch statistics of support and query in judging: a batch each, or one together."
    )
    adapt_part: tuple[str, ...] = setting(
        ("all",),
        "Of what the inner loop moves, move this alone: all, body, head, or layers (repeat, or commas).",
        shown="all",
    )


class AdaptSettings(JudgeSettings):
    """`nilr adapt`: one episode, or a user's own labelled images."""

    model: str | None = setting(None, "Model: a name, NAME@best, NAME@last or a path.", shown="the one trained last")
    episode: int = setting(0, "Number of the seeded episode.", ge=0)
    support: Path | None = setting(None, "A folder per class with labelled images to adapt on.", shown="an episode")
    query: Path | None = setting(
        None, "Images to classify after --support: a folder per class, or just images.", shown="none"
    )
    rates: str = setting("learned", f"The inner rates to adapt with: {RATES}.")
    name: str | None = setting(
        None, "Name of the adapted model in the registry.", shown="a fresh one from the model's", env=False
    )
    force: bool = setting(False, "Replace a model that has the same name.", env=False)


class ProbeSettings(JudgeSettings):
    """`nilr probe`: nearest neighbours in feature space, before and after adaptation."""

    models: tuple[str, ...] = setting((), "Models: names, NAME@best, NAME@last or paths; default: the last trained.")
    protocol: ProtocolChoice = setting("all", "Which features to judge.")
    n_episodes: int = setting(600, "Episodes to judge; every model and protocol sees the same ones.", ge=1)
    until_ci: float | None = setting(
        None,
        "Go on after --n-episodes (and at least 50) until the half width of every difference's interval is at most "
        "this, as a fraction: 0.002 is 0.2 points.",
        shown="judge --n-episodes and no more",
        gt=0,
        lt=1,
    )
    max_episodes: int = setting(20_000, "With --until-ci: where to stop all the same.", ge=50)
    interval: Interval = setting(
        "t", "95 % interval of the differences: Student's t, or a bootstrap (BCa, 9,999 resamples)."
    )
    neighbours: NeighbourRule = setting("nearest", "How labelled neighbours vote.")
    distance: Distance = setting("cosine", "How near is measured.")
    rates: tuple[str, ...] = setting(
        ("learned",),
        f"The inner rates to adapt with; several (repeat, or commas) are judged on the same episodes: {RATES}.",
        shown="learned",
    )
    controls: bool = setting(False, "Judge raw pixels and an untrained body as well, on the same episodes.")
    task_b: TaskB = setting(
        "disjoint",
        "cross-task: whether the judged task has none of the classes that are adapted to, is drawn freely, or has the "
        "same classes and labels with other images.",
    )


class DemoSettings(Settings):
    """`nilr demo`: all of it on generated images."""

    home: Path | None = setting(None, "Directory of the demo's own store.", shown="./nilr-demo", env=False)
    seed: int = setting(0, "Seed of every random stream.", ge=0, lt=2**63)
    device: str = setting("auto", "Where to compute: auto, cpu, cuda or cuda:N.")
    threads: int | None = setting(None, "CPU threads.", shown="one per core", ge=1)


class ModelSettings(Settings):
    """`nilr models show` and `nilr models path`."""

    model: str | None = setting(None, "Model: a name, NAME@best, NAME@last or a path.", shown="the one trained last")


class ModelsSettings(Settings):
    """`nilr models verify`, all models by default, and `nilr models rm`."""

    models: tuple[str, ...] = setting((), "Names of models.")


ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
