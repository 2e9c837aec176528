"""What `prepare-data`, `meta-train` and `adapt` measure."""

from __future__ import annotations

from pydantic import Field, FiniteFloat

from nilr.results.records import Mean, Record


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
    """`nilr meta-train`. Query figures are means over the episodes of the last logged update.

    Of several seeds trained at once, `by_model` has each model's own figures; those beside it are means over models,
    and null where a mean would hide how far the models lie apart.
    """

    outer_step: int
    query_loss: FiniteFloat | None
    accuracy_before: FiniteFloat | None
    accuracy_after: FiniteFloat | None
    best_outer_step: int | None
    best_val_accuracy: Mean | None
    last_val_accuracy: Mean | None
    share_negative: FiniteFloat | None
    skipped_updates: int = 0
    seconds_per_update: FiniteFloat | None
    by_model: dict[str, TrainMetrics] | None = None


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
