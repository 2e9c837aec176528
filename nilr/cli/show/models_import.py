"""The result of `nilr models import` on a screen."""

from __future__ import annotations

from nilr.cli.console import Screen
from nilr.results.importing import ImportMetrics
from nilr.results.result import Result


def show(result: Result[ImportMetrics], screen: Screen) -> None:
    """Write what is in the store now, and what to do next."""
    rows = []
    for name, model in result.metrics.items():
        came = "imported" if model.imported else "there already"
        files = ", ".join(file.partition(".")[0] for file in model.files)
        rows.append((name, came, model.status, str(model.outer_step), files))
    screen.table(("model", "", "status", "updates", "files"), rows)
    screen.line(f"next: nilr probe {' '.join(result.metrics)}")
