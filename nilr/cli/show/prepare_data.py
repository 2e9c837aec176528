"""The result of `nilr prepare-data` on a screen."""

from __future__ import annotations

from nilr.cli.console import Screen, number
from nilr.results.making import ImageRef, PrepareDataMetrics
from nilr.results.result import Result

MOST_LINES = 20


def show(result: Result[PrepareDataMetrics], screen: Screen) -> None:
    """Write the splits, the duplicates, the skipped images and the digest."""
    metrics = result.metrics
    counts = metrics.splits.items()
    screen.table(("split", "classes", "images"), [(name, str(c.classes), str(c.images)) for name, c in counts])
    if result.data is not None:
        screen.line(f"pack `{result.data.name}`, {result.data.image_size} px, content digest {result.data.digest}")
    pairs = [f"{_image(a)} = {_image(b)}" for a, b in metrics.duplicate_pairs]
    _listed(screen, pairs, "pairs of images with identical pixels")
    _listed(screen, metrics.skipped, "unreadable images skipped")
    if metrics.images_per_second is not None:
        screen.line(f"{number(metrics.images_per_second)} images/s")


def _image(image: ImageRef) -> str:
    return f"{image.split}/{image.class_name}/{image.filename}"


def _listed(screen: Screen, items: list[str], what: str) -> None:
    if items:
        screen.line(f"{len(items)} {what}:")
    for item in items[:MOST_LINES]:
        screen.line(f"  {item}")
    if len(items) > MOST_LINES:
        screen.line(f"  ... and {len(items) - MOST_LINES} more, in the result file")
