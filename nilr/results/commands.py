"""Results of the commands that make packs and models: `prepare-data`, `meta-train`, `adapt` and `models`."""

from typing import Annotated

from pydantic import BeforeValidator, Field, FiniteFloat, JsonValue

from nilr.checkpoint import Manifest
from nilr.config.models import ModelStatus
from nilr.results.records import ImageRef, Mean, Record


class SplitCounts(Record):
    """The size of a split."""

    classes: int
    images: int


class PrepareDataMetrics(Record):
    """`nilr prepare-data`. A duplicate pair is two images of the pack with identical pixels.

    Attributes:
        pairs_across_sources: those duplicate pairs whose images are in different sources.
        shared_classes: the sources of each class that has images in several of them.
        excluded_classes: classes that were left out, because another pack has them (`--exclude-classes-of`).
    """

    splits: dict[str, SplitCounts]
    duplicate_pairs: list[tuple[ImageRef, ImageRef]]
    pairs_across_sources: list[tuple[ImageRef, ImageRef]] = Field(default_factory=list)
    shared_classes: dict[str, list[str]] = Field(default_factory=dict)
    excluded_classes: list[str] = Field(default_factory=list)
    skipped: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    images_per_second: FiniteFloat | None = None


class TrainMetrics(Record):
    """`nilr meta-train`. Query loss and accuracies are means over the episodes of the last logged update.

    If several seeds were trained together, `by_model` has the values of each model. The other fields are then means
    over models, or null if a mean would hide the differences between models.
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
    by_model: dict[str, "TrainMetrics"] | None = None


class Prediction(Record):
    """The class of one image before and after adaptation.

    `before` and `after` are the most probable classes, with the probabilities after adaptation. `nearest_before` and
    `nearest_after` are those of the nearest support feature. Values before adaptation are null if the model was adapted
    earlier. Older results lack the nearest classes.
    """

    image: str
    label: str | None
    before: str | None
    after: str
    nearest_before: str | None = None
    nearest_after: str | None = None
    probabilities: dict[str, FiniteFloat]


class AdaptMetrics(Record):
    """`nilr adapt`. Accuracies are null if no query image has a label; `nearest_accuracy_...` are neighbours'."""

    classes: list[str]
    support_images: int
    query_images: int
    support_loss_before: FiniteFloat | None = None
    support_loss_after: FiniteFloat
    accuracy_before: FiniteFloat | None = None
    accuracy_after: FiniteFloat | None
    nearest_accuracy_before: FiniteFloat | None = None
    nearest_accuracy_after: FiniteFloat | None = None
    predictions: list[Prediction]


class RateRow(Record):
    """The distribution of the inner rates of one tensor or layer.

    `histogram` counts the rates in 16 bins of equal width from `min` to `max`; empty if all rates are equal.
    """

    name: str
    count: int
    min: FiniteFloat
    mean: FiniteFloat
    max: FiniteFloat
    share_negative: FiniteFloat
    histogram: list[int] = Field(default_factory=list)


class ModelFile(Record):
    """One file of a model: its size, and when it was written, in UTC."""

    name: str
    bytes: int
    modified_at: str


class ModelCard(Record):
    """`nilr models show`: the contents of one checkpoint, and what is beside it.

    Attributes:
        changed_settings: the settings of the training that differ from the defaults of its algorithm.
        validations: the accuracies of all validations in the history, in order.
    """

    name: str
    checkpoint: str
    status: ModelStatus | None = None  # of the training; older results lack it
    problem: str | None = None  # the error that ended the training
    manifest: Manifest
    n_params: int  # number of scalar parameters
    rates_by_tensor: list[RateRow]  # the inner rates of every tensor that the inner loop changes
    rates_by_layer: list[RateRow]  # the same, all tensors of a layer (`block1`, ..., `head`) together
    changed_settings: dict[str, JsonValue] = Field(default_factory=dict)
    validations: list[FiniteFloat] = Field(default_factory=list)
    files: list[ModelFile] = Field(default_factory=list)


class ModelComparison(Record):
    """`nilr models compare`: values by name, and then by model; a value that a model does not have is null.

    Attributes:
        models: NAME@CHECKPOINT of each model.
        settings: architecture, algorithm, pack and settings, where they differ.
        metrics: the metrics that differ.
        rates_by_layer: the distribution of the inner rates of each layer.
    """

    models: list[str]
    settings: dict[str, dict[str, JsonValue]]
    metrics: dict[str, dict[str, JsonValue]]
    rates_by_layer: dict[str, dict[str, RateRow]]


_OLDER_STATUS = {"complete": "finished", "incomplete": "interrupted"}


class ImportedModel(Record):
    """One model of `nilr models import`.

    Attributes:
        status: finished, interrupted or failed. Older results have `complete` and `incomplete` instead.
        outer_step: completed outer updates.
        files: its files in the store.
        resumable: whether its training can be resumed.
        imported: false if the store already had the same files.
        format: nilr, or the library whose state dict was translated.
    """

    status: Annotated[ModelStatus, BeforeValidator(lambda word: _OLDER_STATUS.get(word, word))]
    outer_step: int
    files: list[str]
    resumable: bool
    imported: bool
    format: str = "nilr"


ImportMetrics = dict[str, ImportedModel]
