"""The one result format: what a command measured, on what, with what, as JSON.

NaN and infinity are refused; what is undefined is null. `nilr/<command>/1` names the schema, and a JSON Schema of each
is generated into `docs/schemas/`.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, JsonValue

SCHEMA_VERSION = 1


class Record(BaseModel):
    """A part of a result."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


class Mean(Record):
    """A mean over episodes; `ci95` is the half width of its 95 % interval, null for one episode."""

    mean: FiniteFloat
    ci95: FiniteFloat | None
    n_episodes: int


class Delta(Record):
    """A paired difference over the same episodes: its mean, half width of the 95 % interval and paired t-test.

    With zero variance ci95 is 0, p null and verdict "exactly zero" or "exactly constant".
    """

    mean: FiniteFloat
    ci95: FiniteFloat | None
    p: FiniteFloat | None
    verdict: str | None = None


class DataUsed(Record):
    """The pack: its registry name or base name, and digest."""

    name: str
    digest: str
    image_size: int
    split: str | None = None


class ModelUsed(Record):
    """A model file: the registry name or base name, which checkpoint, and the SHA-256 of its tensors."""

    name: str
    checkpoint: str
    digest: str
    outer_step: int
    algo: str
    trained_on: str
    parent: str | None = None


class SplitCounts(Record):
    """What a split holds."""

    classes: int
    images: int


class ImageRef(Record):
    """One packed image."""

    split: str
    class_name: str = Field(alias="class")
    filename: str


class PrepareDataMetrics(Record):
    """`nilr prepare-data`. A duplicate pair is two packed images with exactly the same pixels."""

    splits: dict[str, SplitCounts]
    duplicate_pairs: list[tuple[ImageRef, ImageRef]]
    skipped: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    images_per_second: FiniteFloat | None = None


class TrainMetrics(Record):
    """`nilr meta-train`. Query figures are means over the episodes of the last logged update."""

    outer_step: int
    query_loss: FiniteFloat | None
    accuracy_before: FiniteFloat | None
    accuracy_after: FiniteFloat | None
    best_outer_step: int | None
    best_val_accuracy: Mean | None
    last_val_accuracy: Mean | None
    share_negative: FiniteFloat | None
    seconds_per_update: FiniteFloat | None


class Prediction(Record):
    """One classified image: the most probable class, and all probabilities by class."""

    image: str
    label: str | None
    before: str
    after: str
    probabilities: dict[str, FiniteFloat]


class AdaptMetrics(Record):
    """`nilr adapt`. Accuracies are null where no query image has a label."""

    classes: list[str]
    support_images: int
    query_images: int
    support_loss_before: FiniteFloat
    support_loss_after: FiniteFloat
    accuracy_before: FiniteFloat | None
    accuracy_after: FiniteFloat | None
    predictions: list[Prediction]


class ProtocolMetrics(Record):
    """Accuracy under one protocol; `delta` is paired to meta-init on the same judged episodes."""

    accuracy: Mean
    delta: Delta | None = None


class ModelProbe(Record):
    """One model under each protocol that was asked for; meta-init always stands, since deltas refer to it."""

    meta_init: ProtocolMetrics = Field(alias="meta-init")
    same_task: ProtocolMetrics | None = Field(default=None, alias="same-task")
    cross_task: ProtocolMetrics | None = Field(default=None, alias="cross-task")


ProbeMetrics = dict[str, ModelProbe]

M = TypeVar("M")


class Result(BaseModel, Generic[M]):
    """What a command measured. `config` is resolved; paths stand as registry name or base name."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)

    schema_: str = Field(alias="schema")
    command: str
    config: dict[str, JsonValue]
    models: list[ModelUsed] = Field(default_factory=list)
    data: DataUsed | None = None
    metrics: M
    per_episode: dict[str, Any] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    environment: dict[str, JsonValue]
    started_at: str
    duration_seconds: FiniteFloat
