"""Where people read: tables and lines on stderr, or on stdout where they are the answer."""

from __future__ import annotations

import textwrap
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
        """Write one line; on a terminal broken between words only, so that a path stays in one piece."""
        if self._quiet:
            return
        line = printable(text)
        if self._console.is_terminal:
            line = textwrap.fill(line, self._console.width, break_long_words=False, break_on_hyphens=False)
        self._console.print(Text(line), soft_wrap=True)

    def table(self, header: Sequence[str], rows: Iterable[Sequence[Cell]], *, names: int = 1) -> None:
        """Write a table; None is unknown.

        A terminal is not wide: columns of which nothing is known stay away, and so does the first of several columns of
        names where it says the same in every row.

        Args:
            header: of the columns.
            rows: a cell per column.
            names: how many columns, the first ones, hold names; these are never cut.
        """
        if self._quiet:
            return
        terminal, all_rows = self._console.is_terminal, list(rows)
        shown = list(range(len(header)))
        if terminal and all_rows:
            alike = names > 1 and len({row[0] for row in all_rows}) == 1
            shown = [i for i in shown if any(row[i] for row in all_rows) and not (i == 0 and alike)]
        table = Table(
            box=box.SIMPLE_HEAD if terminal else None, pad_edge=False, padding=(0, 1 if terminal else 2, 0, 0)
        )
        for i in shown:
            table.add_column(header[i], no_wrap=i < names)
        for row in all_rows:
            table.add_row(*[Text(UNKNOWN if (cell := row[i]) is None else printable(cell)) for i in shown])
        self._console.print(table)

    def share(self, value: float | None) -> Cell:
        """Return a fraction as a cell; percent on a terminal only."""
        return None if value is None else share(value, percent=self._console.is_terminal)
