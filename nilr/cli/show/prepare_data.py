"""The result of `nilr prepare-data` on a screen."""

from nilr.cli.console import Screen
from nilr.results.commands import ImageRef, PrepareDataMetrics
from nilr.results.result import Result
from nilr.words import counted, number

MOST_LINES = 20


def show(result: Result[PrepareDataMetrics], screen: Screen) -> None:
    """Write the splits, the duplicates and the digest."""
    metrics = result.metrics
    counts = metrics.splits.items()
    screen.table(("split", "classes", "images"), [(name, str(c.classes), str(c.images)) for name, c in counts])
    if result.data is not None:
        screen.line(f"pack `{result.data.name}`, {result.data.image_size} px, content digest {result.data.digest}")
    if pairs := metrics.duplicate_pairs:
        across = sum(a.split != b.split for a, b in pairs)
        screen.line(f"{counted(len(pairs), 'pair')} of images with identical pixels, {across:,} across splits:")
        for a, b in pairs[:MOST_LINES]:
            screen.line(f"  {_image(a)} = {_image(b)}")
        if len(pairs) > MOST_LINES:
            screen.line(f"  ... and {len(pairs) - MOST_LINES:,} more, in the result file")
    if metrics.images_per_second is not None:
        screen.line(f"{number(metrics.images_per_second)} images/s")


def _image(image: ImageRef) -> str:
    return f"{image.split}/{image.class_name}/{image.filename}"
