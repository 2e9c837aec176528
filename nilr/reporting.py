"""How a recipe reports its progress."""

import math
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Self

_MEMORY_SECONDS, _TRUSTED_UNITS = 60.0, 10


class Reporter:
    """Receives the progress of a recipe, and does nothing with it; subclasses show it.

    Every call is cheap, so a recipe may make it once per step. As a context manager, it removes its display at the end.
    """

    noted: Collection[str] = ()  # the notes that it has shown

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def stage(self, title: str, total: int | None = None, *, done: int = 0, unit: str = "steps") -> None:
        """Start a stage of `total` units, `done` of them completed earlier; the previous stage ends."""

    def advance(self, n: int = 1) -> None:
        """Add `n` completed units of the stage."""

    def expect(self, seconds: float | None, share: float | None = None) -> None:
        """Set the time left of a stage whose units cost different times, if known, and the share of the work done."""

    def metric(self, **values: float | None) -> None:
        """Show the newest values beside the progress: accuracies as fractions, None to remove a value."""

    def note(self, message: str) -> None:
        """Show a message that stays visible."""

    @cached_property
    def files(self) -> list[tuple[str, Path]]:
        """The files that the recipe wrote, by what they are; the command line shows their paths at the end."""
        return []


class SilentReporter(Reporter):
    """Shows nothing."""


class NotesOnly(Reporter):
    """Forwards notes to another reporter, and nothing else."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def note(self, message: str) -> None:
        """Forward the message."""
        self._reporter.note(message)


class Pace:
    """Seconds per unit of recent work: about the last minute, or the last unit if it took longer."""

    def __init__(self) -> None:
        self._units = self._seconds = self._measured = 0.0

    def add(self, units: float, seconds: float) -> None:
        """Count measured work."""
        self._measured += units
        kept = math.exp(-seconds / _MEMORY_SECONDS)
        self._units, self._seconds = kept * self._units + units, kept * self._seconds + seconds

    def seconds(self, units: float, guess: float = 0.0) -> float:
        """Return the seconds that more units will take; `guess` is that of one unit until some are measured."""
        trust = min(1.0, self._measured / _TRUSTED_UNITS) if guess else 1.0
        return units * (trust * self._seconds / (self._units or 1) + (1 - trust) * guess)
