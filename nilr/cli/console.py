"""Text for people: how values are written, and the tables and lines that show them."""

import functools
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nilr.words import fill, printable

if TYPE_CHECKING:
    from nilr.report.numbers import Estimate

Cell = str | None
UNKNOWN = "-"

_NUMBERS = re.compile(r"[<+-]?\s?[\d,]+(\.\d+)?(e[+-]?\d+)?( ± [\d.]+)?( %| points)?[*!?]?|exactly (zero|0)")

# Output that does not go to a terminal is not wrapped at 80 columns.
_UNLIMITED_WIDTH = 100_000
# Columns between two cells and beside a table on a terminal, and what a very long name leaves to the other columns.
_GAP, _EDGES, _LONGEST_WORD = 2, 2, 20


# The words for stored metrics, as all tables and the progress have them.
_METRICS = {
    "best_val_accuracy": "best validation",
    "last_val_accuracy": "last validation",
    "best_outer_step": "update of the best validation",
    "accuracy_before": "query accuracy before",
    "accuracy_after": "query accuracy after",
    "share_negative": "negative rates",
}


class Quantity(str):
    """A number in text, whose unit a table writes in the header if the whole column has it. Elsewhere it follows."""

    unit: str

    def __new__(cls, number: str, unit: str) -> "Quantity":
        """Return a number in a unit."""
        quantity = super().__new__(cls, number)
        quantity.unit = unit
        return quantity

    def __format__(self, spec: str) -> str:
        return format(f"{self!s} {self.unit}", spec)


def duration(seconds: float) -> str:
    """Format a time span in its two largest units."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def age(created_at: str) -> str:
    """Return the time since then, in its largest unit."""
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(created_at)).total_seconds()
    except (ValueError, TypeError):
        return "unknown"
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


def metric_name(name: str) -> str:
    """Return the words for a stored metric."""
    return _METRICS.get(name, name.replace("_", " "))


def share(value: float) -> Quantity:
    """Format a fraction in percent."""
    return Quantity(f"{100 * value:z.2f}", "%")


def make_console(stream: TextIO) -> Console:
    """Return a console without markup and highlighting; only a terminal wraps its lines."""
    terminal = stream.isatty()
    width = None if terminal else _UNLIMITED_WIDTH
    return Console(file=stream, force_terminal=terminal, width=width, markup=False, highlight=False, emoji=False)


class _Column:
    """The widths that a column needs.

    Attributes:
        width: with every cell in one line; its title may be wrapped between words.
        narrowest: with cells that are wrapped between words.
        title: with its title in one line.
    """

    def __init__(self, title: str, cells: Sequence[str]) -> None:
        words = [*title.split(), *(word for cell in cells for word in cell.split())]
        self.narrowest = max(map(cell_len, words), default=0)
        self.width = max(self.narrowest, *map(cell_len, cells), 0)
        self.title = cell_len(title)


def _tables(columns: Mapping[int, _Column], names: Sequence[int], space: int) -> list[dict[int, int]]:
    """Divide columns into tables that fit into `space`; return the widths of each. All have the columns `names`."""
    values = [i for i in columns if i not in names]
    widths = {i: columns[i].width for i in columns}

    def total(some: Iterable[int]) -> int:
        return sum(widths[i] + _GAP for i in some)

    least = sum(columns[i].narrowest + _GAP for i in names)
    together = least + total(values) <= space + _GAP
    wanted = total(values) if together else min(max((total([i]) for i in values), default=0), space // 2)
    for i in sorted(names, key=widths.__getitem__, reverse=True):  # wrap names, the longest first
        excess = total(names) + wanted - space - _GAP
        widths[i] = max(columns[i].narrowest, widths[i] - max(0, excess))
    longest_word = min(max((columns[i].narrowest for i in values), default=0), _LONGEST_WORD)
    if names and (excess := total(names) + longest_word - space) > 0:  # break a very long name
        widths[max(names, key=widths.__getitem__)] -= excess
    room = space + _GAP - total(names)
    parts: list[list[int]] = [[]]
    for i in values:
        widths[i] = min(widths[i], room - _GAP)
        if parts[-1] and total([*parts[-1], i]) > room:
            parts.append([])
        parts[-1].append(i)
    tables = [{i: widths[i] for i in (*names, *part)} for part in parts]
    for table in tables:
        for i, width in table.items():  # room for titles in one line
            spare = space + _GAP - sum(table.values()) - _GAP * len(table)
            table[i] += max(0, min(spare, columns[i].title - width))
    return tables


class Screen:
    """Writes results for people."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console, self._quiet = console, quiet

    @functools.cached_property
    def answer(self) -> "Screen":
        """The screen on stdout, for what a script reads; `--quiet` does not silence it."""
        return Screen(make_console(sys.stdout))

    @property
    def width(self) -> int:
        """The columns of the terminal; 80 without a terminal."""
        return self._console.width if self._console.is_terminal else 80

    def clear(self) -> None:
        """Clear a terminal, to draw it anew."""
        if self._console.is_terminal and not self._quiet:
            self._console.clear()

    def line(self, text: str, *, wrap: bool = True, indent: int = 0) -> None:
        """Write one line; a terminal breaks it between words only, so that paths stay whole, or not at all.

        Further lines begin with `indent` spaces.
        """
        if self._quiet:
            return
        line = printable(text)
        if self._console.is_terminal and wrap:
            line = fill(line, self._console.width, indent=indent)
        self._console.print(Text(line), soft_wrap=True)

    def table(
        self, header: Sequence[str], rows: Iterable[Sequence[Cell]], *, names: int = 1, droppable: Sequence[str] = ()
    ) -> None:
        """Write a table; a cell that is None is unknown.

        A narrow terminal leaves out the columns `droppable`, the first one first, and names those that it left out.

        A unit that all cells of a column have is in its title; numbers are aligned right.

        To save width, a terminal shows no column without any value. It omits the first of several name columns if all
        rows have the same name in it. Columns that do not fit beside each other follow in further tables, which repeat
        the names; they omit rows without any value.
        """
        if self._quiet:
            return
        titles, all_rows = _with_units(header, list(rows))
        shown = list(range(len(header)))
        if self._console.is_terminal and all_rows:
            same_name = names > 1 and len({row[0] for row in all_rows}) == 1
            shown = [i for i in shown if any(row[i] for row in all_rows) and not (i == 0 and same_name)]
        parts, dropped = [dict.fromkeys(shown, self._console.width)], list[str]()
        if self._console.is_terminal:
            texts = {i: [printable(row[i] or UNKNOWN) for row in all_rows] for i in shown}
            columns = {i: _Column(titles[i], texts[i]) for i in shown}
            for i in (header.index(title) for title in droppable):
                if i in columns and sum(c.width + _GAP for c in columns.values()) - _GAP > self._console.width - _EDGES:
                    dropped.append(header[i])
                    del columns[i]
            parts = _tables(columns, [i for i in columns if i < names], self._console.width - _EDGES)
        for part in parts:
            kept = [row for row in all_rows if part is parts[0] or any(row[i] for i in part if i >= names)]
            self._print_table(titles, kept, part)
        if dropped:
            self.line(f"not shown at this width: {', '.join(title for title in header if title in dropped)}")

    def _print_table(self, header: Sequence[str], rows: Sequence[Sequence[Cell]], widths: Mapping[int, int]) -> None:
        terminal = self._console.is_terminal
        table = Table(
            box=box.SIMPLE_HEAD if terminal else None, pad_edge=False, padding=(0, 1 if terminal else 2, 0, 0)
        )
        for i, width in widths.items():
            numeric = all(_NUMBERS.fullmatch(row[i] or "") or row[i] is None for row in rows)
            justify: Literal["left", "right"] = "right" if terminal and numeric and rows else "left"
            table.add_column(header[i], width=width if terminal else None, overflow="fold", justify=justify)
        for row in rows:
            table.add_row(*[Text(UNKNOWN if (cell := row[i]) is None else printable(cell)) for i in widths])
        self._console.print(table)

    def either(self, for_people: str, for_scripts: str) -> str:
        """Return the first text on a terminal, and the second one elsewhere."""
        return for_people if self._console.is_terminal else for_scripts

    def share(self, value: float | None) -> Cell:
        """Return a fraction as a cell, in percent."""
        return None if value is None else share(value)

    def mean(self, mean: "Estimate | None") -> Cell:
        """Return the mean of a fraction as a cell, with half the width of its interval."""
        if mean is None:
            return None
        return Quantity(_with_interval(mean), "%")

    def delta(self, delta: "Estimate | None", mark: str = "") -> Cell:
        """Return a difference of fractions as a cell, in points: signed, with half the width of its interval."""
        if delta is None:
            return None
        text = _with_interval(delta)
        sign = "+" if delta.mean > 0 and float(text.split()[0]) else ""
        return Quantity(f"{sign}{text}{mark}", "points")


def _with_interval(mean: "Estimate") -> str:
    width = "" if mean.ci95 is None else f" ± {share(mean.ci95)!s}"
    return f"{share(mean.mean)!s}{width}"


def _with_units(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> tuple[list[str], list[list[Cell]]]:
    """Return the titles and rows of a table with the unit of each number, in the title if a column has only one."""
    titles, columns = list(header), [[row[i] for row in rows] for i in range(len(header))]
    for i, column in enumerate(columns):
        units = {cell.unit if isinstance(cell, Quantity) else None for cell in column if cell is not None}
        if len(units) == 1 and None not in units:
            titles[i] += f", {units.pop()}"
            columns[i] = [None if cell is None else str(cell) for cell in column]
        else:
            columns[i] = [f"{cell}" if isinstance(cell, Quantity) else cell for cell in column]
    return titles, [list(row) for row in zip(*columns, strict=True)]
