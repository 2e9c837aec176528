"""Settings that several commands share, and the values to choose from."""

import contextlib
import operator
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic.fields import FieldInfo

from nilr.errors import UsageError
from nilr.files import command_line, expand_home
from nilr.numbers import is_float32
from nilr.words import NAME, one_of

Resample = Literal["bilinear", "bicubic", "lanczos", "box", "hamming", "nearest"]
Fit = Literal["stretch", "crop", "pad"]
Split = Literal["train", "val", "test"]
DatasetName = Literal["mini-imagenet", "tiered-imagenet", "cifar-fs", "fc100", "cub", "omniglot", "tiny-imagenet"]
CubSplit = Literal["100/50/50", "140/30/30"]
Channels = Literal["auto", "1", "3"]
Protocol = Literal["meta-init", "same-task", "cross-task"]
ProtocolChoice = Literal["meta-init", "same-task", "cross-task", "all"]
Distance = Literal["cosine", "euclidean"]
TaskB = Literal["disjoint", "any", "same-classes"]
BatchStats = Literal["apart", "together", "inductive"]
HeadChoice = Literal["rows", "mean", "zeros"]
QueryBatch = Literal["all", "class", "image"]
TrainingBatchStats = Literal["apart", "inductive"]
Interval = Literal["t", "bootstrap"]
ReportFormat = Literal["html", "md", "pdf", "svg", "png"]
FigureStyle = Literal["screen", "paper"]
FigureWidth = Literal["column", "page"]
RateGrain = Literal["element", "tensor", "scalar"]
Precision = Literal["float32", "tf32", "bf16"]
Recompute = Literal["auto", "on", "off"]
OnNan = Literal["stop", "skip"]
OuterLRSchedule = Literal["constant", "cosine"]
Cluster = Literal["slurm", "local"]

SPLITS: tuple[Split, ...] = ("train", "val", "test")
PROTOCOLS: tuple[Protocol, ...] = ("meta-init", "same-task", "cross-task")
ADAPTED = PROTOCOLS[1:]  # those that adapt

# The names in nilr/meta/engine/registry.py and nilr/models/registry.py, which import torch; a test compares them.
ENGINES = ("auto", "winograd", "compiled", "batched", "explicit", "reference")
BODIES = ("conv4", "conv4-leaky", "conv6", "resnet12")
DEVICES = ("auto", "cpu", "cuda")

IMAGE_SIZES = 8, 1024  # the smallest and the largest image, in pixels

MINI_IMAGENET = "mini-imagenet"
SYNTHETIC = "synthetic"

ModelName = Annotated[str, Field(pattern=f"^{NAME}$")]


_MOST_CHANNELS = 4096


def _parse_widths(value: Any) -> Any:  # noqa: ANN401 - a value from a flag, a variable or a file
    """Return the channels of four blocks, from a text with commas or from a list."""
    words = value.split(",") if isinstance(value, str) else value
    with contextlib.suppress(TypeError, ValueError):
        widths = tuple(int(word) if isinstance(word, str) else operator.index(word) for word in words)
        if len(widths) == 4 and all(1 <= width <= _MOST_CHANNELS for width in widths) and bool not in map(type, words):
            return widths
    raise ValueError(f"give four numbers from 1 to {_MOST_CHANNELS}, separated by commas")


def _check_commas(value: Any) -> Any:  # noqa: ANN401 - a text, or several
    """Return texts with commas; ValueError if nothing is before, between or after commas."""
    texts = [value] if isinstance(value, str) else value
    if not all(word.strip() for text in texts for word in text.split(",")):
        raise ValueError("a value is missing before, between or after commas")
    return value


def _check_float32(value: float) -> float:
    if not is_float32(value):
        raise ValueError("give a finite number of at most 3.4e38 in size")
    return value


Float32 = Annotated[float, AfterValidator(_check_float32)]

CommaText = Annotated[str, AfterValidator(_check_commas)]
CommaTexts = Annotated[tuple[str, ...], AfterValidator(_check_commas)]

Widths = Annotated[tuple[int, int, int, int], BeforeValidator(_parse_widths)]


def _parse_minutes(value: Any) -> Any:  # noqa: ANN401 - a value from a flag, a variable or a file
    """Return the minutes of a time in one of Slurm's formats, rounded up."""
    days, dash, clock = str(value).rpartition("-")
    with contextlib.suppress(ValueError):
        parts = [int(part) for part in (days if dash else "0", *clock.split(":"))]
        # without days, the first number is hours only if there are three
        missing_hours = [0] if not dash and len(parts) < 4 else []
        day, hour, minute, second = (*parts[:1], *missing_hours, *parts[1:], 0, 0)[:4]
        seconds = 86400 * day + 3600 * hour + 60 * minute + second
        if len(parts) <= 4 and min(parts) >= 0 and 0 < seconds <= 86400 * 366:
            return -(-seconds // 60)
    raise ValueError("give minutes, HOURS:MINUTES:SECONDS or DAYS-HOURS:MINUTES:SECONDS, up to a year")


Minutes = Annotated[int, BeforeValidator(_parse_minutes)]


_MOST_SEEDS = 1000


def _parse_seeds(value: Any) -> Any:  # noqa: ANN401 - a value from a flag, a variable or a file
    """Return a number of seeds, or seeds from a text with commas or from a list."""
    listed = isinstance(value, list | tuple)
    numbers: tuple[int, ...] = ()
    with contextlib.suppress(ValueError):
        numbers = tuple(int(str(word)) for word in (value if listed else str(value).split(",")))
    if not listed and len(numbers) == 1 and 1 <= numbers[0] <= _MOST_SEEDS:
        return numbers[0]
    if (
        not (listed or len(numbers) > 1)
        or not (0 < len(numbers) <= _MOST_SEEDS)
        or not 0 <= min(numbers) <= max(numbers) < 2**63
    ):
        raise ValueError(f"give a number of seeds from 1 to {_MOST_SEEDS}, or the seeds, separated by commas")
    if len(set(numbers)) < len(numbers):
        raise ValueError("a seed is listed twice")
    return numbers


Seeds = Annotated[int | tuple[int, ...], BeforeValidator(_parse_seeds)]


def listed_seeds(seeds: int | tuple[int, ...], first: int) -> tuple[int, ...]:
    """Return the seeds: those listed, or a number of them that starts at `first`; UsageError if one is too large."""
    if isinstance(seeds, int) and first + seeds > 2**63:
        raise UsageError(f"{seeds} seeds from --seed {first} are not all below 2**63", hint="lower --seed")
    return seeds if isinstance(seeds, tuple) else tuple(range(first, first + seeds))


def setting(
    default: Any,  # noqa: ANN401 - a default is of the field's own type
    help: str,
    *,
    shown: str | None = None,
    short: str | None = None,
    env: bool = True,
    text: bool = False,
    offers: Iterable[str] = (),
    **bounds: Any,  # noqa: ANN401 - pydantic's own keywords
) -> Any:  # noqa: ANN401 - stands where pydantic's Field stands
    """Describe one setting.

    Args:
        default: the value if it is not set.
        help: the help text, with the unit; {algorithms}, {presets} and {formats} are replaced by the names in tables.
        shown: the text that help shows for a default of None, such as "the algorithm's default".
        short: a one-letter flag, such as `-q`.
        env: whether the environment variable `NILR_<FLAG>` may set it.
        text: whether a flag gives the value as one text, such as numbers with commas.
        offers: some valid values, or starts of them, for completion; {algorithms} and so on as in `help`.
        bounds: `ge`, `gt`, `le`, `lt`, `min_length`.
    """
    extra: dict[str, Any] = {"shown": shown, "short": short, "env": env, "text": text, "offers": list(offers)}
    return Field(default, description=help, json_schema_extra=extra, **bounds)


def extra(field: FieldInfo) -> dict[str, Any]:
    """Return what `setting` says of a field beyond pydantic's own."""
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


class Settings(BaseModel):
    """Settings of every command."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    home: Path | None = setting(
        None,
        "Directory of the store: packs, models, results.",
        shown="NILR_HOME, else the user data directory",
        env=False,
    )

    @field_validator("*")
    @classmethod
    def _expand_home(cls, value: Any) -> Any:  # noqa: ANN401 - the value of any field
        if isinstance(value, tuple):
            return tuple(map(cls._expand_home, value))
        return type(value)(expand_home(str(value))) if isinstance(value, str | Path) else value

    @classmethod
    def empty_path(cls, values: Mapping[str, Any]) -> str | None:
        """Return the name of the first of these raw values that is an empty path, which `Path` takes for `.`."""
        for name, value in values.items():
            annotation = cls.model_fields[name].annotation
            if Path in (annotation, *get_args(annotation)) and "" in (value if isinstance(value, list) else [value]):
                return name
        return None

    def explicit(self) -> dict[str, Any]:
        """Return only the settings that were set, by name."""
        return {name: getattr(self, name) for name in self.model_fields_set}

    def command(self, *words: str) -> str:
        """Return a command for the user to run next: in the same directory, and on the same store."""
        return command_line(*words, home=self.home)


class MeasuringSettings(Settings):
    """Settings of every command that writes a result."""

    record_paths: bool = setting(False, "Record absolute paths in the result and in checkpoints.")


SEED = setting(0, "Seed of all random numbers.", ge=0, lt=2**63)
DEVICE = setting("auto", f"Device to compute on: {', '.join(DEVICES)} or cuda:N.", offers=DEVICES)
THREADS = setting(None, "Number of CPU threads.", shown="one per core that the process may use", ge=1, le=1024)


class DeviceSettings(MeasuringSettings):
    """Settings of every command that computes."""

    seed: int = SEED
    device: str = DEVICE
    threads: int | None = THREADS
    engine: str = setting("auto", f"Implementation: {one_of(ENGINES)}.", offers=ENGINES)
    precision: Precision = setting(
        "float32", "Precision of the inputs of convolutions and matrix products: float32, tf32 (GPU only) or bf16."
    )


ARCH = setting(
    (),
    "Import path PACKAGE.MODULE:FUNCTION that models have as their body. nilr imports no code that a checkpoint "
    "names, except this.",
    shown="none",
)


class CodeSettings(DeviceSettings):
    """Settings of every command that computes with models from files."""

    arch: tuple[str, ...] = ARCH


class ChunkSettings(DeviceSettings):
    """Settings of every command that computes several episodes at the same time."""

    episode_chunk: int | None = setting(
        None,
        "Maximum number of episodes to compute at the same time. Fewer need less memory; results are the same.",
        shown="64 for the engine batched, else one per CPU thread",
        ge=1,
    )


class ClusterSettings(DeviceSettings):
    """Settings of every command that can run its models as jobs of a cluster."""

    cluster: Cluster | None = setting(
        None,
        "Run each model as a job (requires the extra `slurm`): slurm, or local: processes of this machine, to try it. "
        "A preempted job saves its state and continues.",
        shown="no jobs",
    )
    partition: str | None = setting(None, "Partition of Slurm.", shown="the cluster's default")
    time: Minutes | None = setting(
        None,
        "Time limit of a job: minutes, HOURS:MINUTES:SECONDS or DAYS-HOURS:MINUTES:SECONDS. A job that reaches it "
        "saves its state and is queued again.",
        shown="4 hours with Slurm, else 30 days",
        text=True,
    )
    memory: float | None = setting(
        None, "Memory of a job in GB, with Slurm.", shown="the cluster's default", gt=0, le=100_000
    )
    gpus: int | None = setting(
        None, "Number of GPUs of a job.", shown="1 with --device cuda, else none; with local all", ge=0, le=64
    )


class EpisodeSettings(DeviceSettings):
    """Settings that `meta-train` and `bench` share: the network, and the episodes of an update."""

    arch: str = setting(
        "conv4",
        "Body: conv4 (four blocks), conv4-leaky (with leaky ReLU 0.01), conv6 (six, the last two without "
        "pooling), resnet12 (four residual blocks and the mean over positions; no DropBlock), or the import path "
        "PACKAGE.MODULE:FUNCTION of a function that returns a torch.nn.Module, which maps images to features.",
        offers=BODIES,
    )
    filters: int = setting(
        32, "conv4, conv4-leaky and conv6: number of channels of each convolution.", ge=1, le=_MOST_CHANNELS
    )
    widths: Widths = setting(
        (64, 160, 320, 640),
        "resnet12: number of channels of each block: 64,160,320,640 as in MetaOptNet, or 64,128,256,512 as in TADAM.",
        shown="64,160,320,640",
        text=True,
    )
    n_way: int = setting(5, "Number of classes per episode.", ge=2, le=1000)
    n_shot: int = setting(1, "Number of support images per class.", ge=1, le=1000)
    n_query: int = setting(15, "Number of query images per class.", ge=1, le=1000)
    meta_batch_size: int = setting(4, "Number of episodes per update.", ge=1, le=4096)
    inner_steps: int | None = setting(
        None, "Number of gradient steps of the inner loop in training.", shown="the algorithm's default", ge=1, le=1000
    )
    eval_inner_steps: int | None = setting(
        None,
        "Number of gradient steps of the inner loop in validation and evaluation.",
        shown="the algorithm's default",
        ge=0,
        le=1000,
    )
