"""What a setting is, what every command takes, and the values that settings choose from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

Resample = Literal["bilinear", "bicubic", "lanczos", "box", "hamming", "nearest"]
Split = Literal["train", "val", "test"]
Protocol = Literal["meta-init", "same-task", "cross-task"]
ProtocolChoice = Literal["meta-init", "same-task", "cross-task", "all"]
Distance = Literal["cosine", "euclidean"]
TaskB = Literal["disjoint", "any", "same-classes"]
BatchStats = Literal["apart", "together"]
Interval = Literal["t", "bootstrap"]
ReportFormat = Literal["html", "md", "png"]
RateGrain = Literal["element", "tensor", "scalar"]
Precision = Literal["float32", "tf32", "bf16"]
OnNan = Literal["stop", "skip"]
OuterLRSchedule = Literal["constant", "cosine"]

SPLITS: tuple[Split, ...] = ("train", "val", "test")
PROTOCOLS: tuple[Protocol, ...] = ("meta-init", "same-task", "cross-task")

MINI_IMAGENET = "mini-imagenet"
SYNTHETIC = "synthetic"

ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
_MODEL_NAME: TypeAdapter[str] = TypeAdapter(ModelName)


def is_name(text: str) -> bool:
    """Tell whether a model or a dataset may be called so."""
    try:
        _MODEL_NAME.validate_python(text)
    except ValidationError:
        return False
    return True


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
        help: its help text, with the unit; {algorithms} and {presets} stand for the names in those tables.
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


class MeasuringSettings(Settings):
    """What every command that measures takes."""

    record_paths: bool = setting(False, "Record absolute paths as well, in the result and in checkpoints.")


class DeviceSettings(MeasuringSettings):
    """What every command that computes takes."""

    seed: int = setting(0, "Seed of every random stream.", ge=0, lt=2**63)
    device: str = setting("auto", "Where to compute: auto, cpu, cuda or cuda:N.")
    threads: int | None = setting(None, "CPU threads.", shown="one per core", ge=1)
    engine: str = setting("auto", "How episodes are executed: auto, compiled, batched, explicit or reference.")
    precision: Precision = setting(
        "float32", "What convolutions and products round their inputs to: float32, tf32 (on a GPU) or bf16."
    )


class ChunkSettings(DeviceSettings):
    """What every command that computes several episodes at the same time takes."""

    episode_chunk: int | None = setting(
        None,
        "Most episodes to compute at the same time; fewer take less memory and give the same numbers.",
        shown="64 in batched, else one per CPU thread",
        ge=1,
    )
