"""Text for people: how values are written, and the tables and lines that show them."""

from __future__ import annotations

import functools
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Protocol, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

Cell = str | None
UNKNOWN = "-"

# Output that does not go to a terminal is not wrapped at 80 columns.
_UNLIMITED_WIDTH = 100_000


class Estimate(Protocol):
    """A mean or a difference, with half the width of its 95 % interval."""

    @property
    def mean(self) -> float: ...  # noqa: D102 - described by the class

    @property
    def ci95(self) -> float | None: ...  # noqa: D102


def printable(text: str) -> str:
    """Escape line breaks and control characters, which a file name or an archive member may contain."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def duration(seconds: float) -> str:
    """Format a time span in its two largest units."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def number(value: float, digits: int = 4) -> str:
    """Format a number with `digits` significant digits; a longer whole part is written out up to a billion."""
    text = f"{value:z.{digits}g}"
    return f"{value:.0f}" if "e+" in text and abs(value) < 1e9 else text


def share(value: float, *, percent: bool) -> str:
    """Format a fraction, as it is or in percent."""
    return f"{100 * value:z.2f} %" if percent else f"{value:z.4f}"


def make_console(stream: TextIO) -> Console:
    """Return a console without markup and highlighting; only a terminal wraps its lines."""
    terminal = stream.isatty()
    width = None if terminal else _UNLIMITED_WIDTH
    return Console(file=stream, force_terminal=terminal, width=width, markup=False, highlight=False, emoji=False)


class Screen:
    """Writes results for people.

    Args:
        console: the output, usually stderr.
        quiet: write nothing.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console, self._quiet = console, quiet

    @functools.cached_property
    def answer(self) -> Screen:
        """The screen on stdout, for what a script reads; `--quiet` does not silence it."""
        return Screen(make_console(sys.stdout))

    def line(self, text: str) -> None:
        """Write one line; a terminal breaks it between words only, so that paths stay whole."""
        if self._quiet:
            return
        line = printable(text)
        if self._console.is_terminal:
            line = textwrap.fill(line, self._console.width, break_long_words=False, break_on_hyphens=False)
        self._console.print(Text(line), soft_wrap=True)

    def table(self, header: Sequence[str], rows: Iterable[Sequence[Cell]], *, names: int = 1) -> None:
        """Write a table; a cell that is None is unknown.

        To save width, a terminal shows no column without any value. It omits the first of several name columns if all
        rows have the same name in it.

        Args:
            header: one title per column.
            rows: one cell per column.
            names: number of leading columns that hold names; these are never cut.
        """
        if self._quiet:
            return
        terminal, all_rows = self._console.is_terminal, list(rows)
        shown = list(range(len(header)))
        if terminal and all_rows:
            same_name = names > 1 and len({row[0] for row in all_rows}) == 1
            shown = [i for i in shown if any(row[i] for row in all_rows) and not (i == 0 and same_name)]
        table = Table(
            box=box.SIMPLE_HEAD if terminal else None, pad_edge=False, padding=(0, 1 if terminal else 2, 0, 0)
        )
        for i in shown:
            table.add_column(header[i], no_wrap=i < names)
        for row in all_rows:
            table.add_row(*[Text(UNKNOWN if (cell := row[i]) is None else printable(cell)) for i in shown])
        self._console.print(table)

    def share(self, value: float | None) -> Cell:
        """Return a fraction as a cell; only a terminal shows percent."""
        return None if value is None else share(value, percent=self._console.is_terminal)

    def mean(self, mean: Estimate | None) -> Cell:
        """Return the mean of a fraction as a cell, with half the width of its interval."""
        if mean is None:
            return None
        width = "" if mean.ci95 is None else f" ± {self.share(mean.ci95)}"
        return f"{self.share(mean.mean)}{width}"

    def delta(self, delta: Estimate | None) -> Cell:
        """Return a difference of fractions as a cell: signed, with half the width of its interval."""
        if delta is None:
            return None
        text = self.mean(delta) or ""
        return f"+{text}" if delta.mean > 0 and float(text.split()[0]) else text
