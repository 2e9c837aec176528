"""The result of `nilr prepare-data` on a screen."""

from nilr.cli.console import Screen
from nilr.results.commands import PrepareDataMetrics
from nilr.results.result import Result
from nilr.words import counted, number

MOST_LINES = 20


def show(result: Result[PrepareDataMetrics], screen: Screen) -> None:
    """Write the splits, the duplicates and the digest."""
    metrics = result.metrics
    counts = metrics.splits.items()
    screen.table(("split", "classes", "images"), [(name, str(c.classes), str(c.images)) for name, c in counts])
    if result.data is not None:
        data = result.data
        grey = ", grey (one channel)" if data.channels == 1 else ""
        screen.line(f"pack `{data.name}`, {data.image_size} px{grey}, content digest {data.digest}")
    if pairs := metrics.duplicate_pairs:
        across = sum(a.split != b.split for a, b in pairs)
        screen.line(f"{counted(len(pairs), 'pair')} of images with identical pixels, {across:,} across splits:")
        for a, b in pairs[:MOST_LINES]:
            screen.line(f"  {a} = {b}")
        if len(pairs) > MOST_LINES:
            screen.line(f"  ... and {len(pairs) - MOST_LINES:,} more, in the result file")
    if metrics.images_per_second is not None:
        screen.line(f"{number(metrics.images_per_second)} images/s")
