"""Predictions as records of the result, and as a CSV file."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from nilr.files import write_output
from nilr.recipes.adapt.judging import Judged
from nilr.recipes.adapt.tasks import Queries
from nilr.results.commands import AdaptMetrics, Prediction


def accuracy(predicted: Tensor, labels: Tensor) -> float | None:
    """Return the share of the known labels that are predicted; None if no label is known."""
    known = (labels := labels.cpu()) >= 0
    return (predicted == labels)[known].double().mean().item() if bool(known.any()) else None


def make_predictions(
    classes: Sequence[str], queries: Queries, before: Judged | None, after: Judged
) -> list[Prediction]:
    """Return a prediction for each query; `before` is None for a model that was adapted earlier."""

    def names(labels: Tensor | None) -> list[str | None]:
        if labels is None:
            return [None] * len(queries.names)
        return [classes[label] if label >= 0 else None for label in labels.tolist()]

    columns = {
        "image": queries.names,
        "label": names(queries.labels),
        "before": names(before and before.labels),
        "after": names(after.labels),
        "nearest_before": names(before and before.nearest),
        "nearest_after": names(after.nearest),
        "probabilities": [dict(zip(classes, row, strict=True)) for row in after.probabilities.tolist()],
    }
    rows = zip(*columns.values(), strict=True)
    return [Prediction.model_validate(dict(zip(columns, row, strict=True))) for row in rows]


def write_predictions(path: Path, metrics: AdaptMetrics) -> None:
    """Write a CSV file: image, predicted class, nearest class, and the probability of each class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "predicted", "nearest", *(f"p({name})" for name in metrics.classes)])
    for one in metrics.predictions:
        writer.writerow([one.image, one.after, one.nearest_after, *(one.probabilities[c] for c in metrics.classes)])
    write_output(path, text.getvalue().encode())
