"""Where people read: tables and lines on stderr, or on stdout where they are the answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nilr.cli.words import printable, share

Cell = str | None
UNKNOWN = "-"

# Off a terminal nothing may be cut at 80 columns.
_UNBOUNDED = 100_000


def make_console(stream: TextIO) -> Console:
    """Return a console that shows text as it is: no markup, no highlighting, and no cutting in logs and pipes."""
    terminal = stream.isatty()
    width = None if terminal else _UNBOUNDED
    return Console(file=stream, force_terminal=terminal, width=width, markup=False, highlight=False, emoji=False)


class Screen:
    """Writes results for people.

    Args:
        console: where to.
        quiet: write nothing.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console, self._quiet = console, quiet

    def line(self, text: str) -> None:
        """Write one line."""
        if not self._quiet:
            self._console.print(Text(printable(text)), soft_wrap=True)

    def table(self, header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
        """Write a table; None is unknown."""
        if self._quiet:
            return
        table = Table(*header, box=box.SIMPLE_HEAD if self._console.is_terminal else None, pad_edge=False)
        for row in rows:
            table.add_row(*[Text(UNKNOWN if cell is None else printable(cell)) for cell in row])
        self._console.print(table)

    def share(self, value: float | None) -> Cell:
        """Return a fraction as a cell; percent on a terminal only."""
        return None if value is None else share(value, percent=self._console.is_terminal)
