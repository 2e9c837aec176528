"""What the commands of `nilr results` show."""

import pkgutil
from collections.abc import Sequence
from typing import Any

from nilr.cli.console import Screen
from nilr.commands import COMMANDS
from nilr.recipes.results import ExportedTables, ResultRow
from nilr.results.result import Result
from nilr.words import counted, file_size, some


def show_list(results: list[ResultRow], screen: Screen) -> None:
    """Write one row per result."""
    rows = [
        (row.name, row.command, row.saved_at and row.saved_at[:16], file_size(row.bytes), some(row.models, 3))
        for row in results
    ]
    if rows:
        screen.answer.table(("result", "command", "saved (UTC)", "size", "models"), rows)


def show_results(results: list[Result[Any]], screen: Screen) -> None:
    """Write each result as its command does."""
    for result in results:
        show = next(command.show for command in COMMANDS if command.schema == result.command)
        pkgutil.resolve_name(show)(result, screen.answer)
        for note in result.notes:
            screen.answer.line(note)


def show_removed(names: Sequence[str], screen: Screen) -> None:
    """Write how many results were removed."""
    screen.line(f"removed {counted(len(names), 'result')}: {some(names)}")


def show_exported(exported: ExportedTables, screen: Screen) -> None:
    """Write the names of the files, with their sizes, and how to read them."""
    for file, rows in exported.rows.items():
        screen.line(f"written: {file} ({counted(rows, 'row')})", wrap=False)
    if exported.left_out:
        what = counted(len(exported.left_out), "result")
        screen.line(f"left out: {what} of other commands than probe and rates: {some(exported.left_out)}")
    screen.line("join the tables by result, model, section, item and protocol")
