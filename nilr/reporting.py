"""How a recipe reports its progress."""

from typing import Self


class Reporter:
    """Receives the progress of a recipe, and does nothing with it; subclasses show it.

    Every call is cheap, so a recipe may make it once per step. As a context manager, it removes its display at the end.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def stage(self, title: str, total: int | None = None, *, done: int = 0, unit: str = "steps") -> None:
        """Start a stage of `total` units, `done` of them completed earlier; the previous stage ends."""

    def advance(self, n: int = 1) -> None:
        """Add `n` completed units of the stage."""

    def metric(self, **values: float | None) -> None:
        """Show the newest values beside the progress: accuracies as fractions, None to remove a value."""

    def note(self, message: str) -> None:
        """Show a message that stays visible."""


class SilentReporter(Reporter):
    """Shows nothing."""


class NotesOnly(Reporter):
    """Forwards notes to another reporter, and nothing else."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def note(self, message: str) -> None:
        """Forward the message."""
        self._reporter.note(message)
