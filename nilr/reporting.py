"""How a recipe says what it is doing, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Listens to a recipe. Every call is cheap, so a recipe may make it once per step."""

    def stage(self, title: str, total: int | None = None, *, done: int = 0, unit: str = "steps") -> None:
        """Begin a stage of `total` units of which `done` are already there; the stage before it is over."""

    def advance(self, n: int = 1) -> None:
        """Say that `n` more units of the stage are done."""

    def metric(self, **values: float | None) -> None:
        """Show the newest values beside the stage's progress (fractions as fractions)."""

    def note(self, message: str) -> None:
        """Say one thing that the user should read; it stays visible."""


class SilentReporter:
    """Listens and says nothing: for tests and for library use."""

    def stage(self, title: str, total: int | None = None, *, done: int = 0, unit: str = "steps") -> None:
        """Ignore the stage."""

    def advance(self, n: int = 1) -> None:
        """Ignore the progress."""

    def metric(self, **values: float | None) -> None:
        """Ignore the values."""

    def note(self, message: str) -> None:
        """Ignore the message."""


class NotesOnly(SilentReporter):
    """Passes on what the user should read, and nothing of the progress.

    Args:
        reporter: hears the notes.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def note(self, message: str) -> None:
        """Pass it on."""
        self._reporter.note(message)
