"""`nilr report`: a table on the terminal, or a page, a text or pictures."""

from __future__ import annotations

import sys

import typer

from nilr.cli.options import Invocation
from nilr.config import ReportSettings

HELP = "Make tables and figures from result files."


def body(settings: ReportSettings, invocation: Invocation) -> None:
    """Write the report that was asked for; without --out the answer is the table, on stdout."""
    from nilr.cli.console import Screen, make_console
    from nilr.cli.progress import reporting
    from nilr.recipes.report import run
    from nilr.report.summary import HEADER, rows

    console = make_console(sys.stderr)
    with reporting(console, quiet=invocation.quiet) as reporter:
        made = run(settings, reporter)
    screen = Screen(console, quiet=invocation.quiet)
    answer = Screen(make_console(sys.stdout)) if settings.out is None else screen
    answer.table(HEADER, rows(made.material))
    for _, drawing in made.contents.figures:
        screen.line(drawing.sentence)
    for kind in made.contents.left_out:
        screen.line(f"left out: {kind.title.lower()}; it takes {kind.needs}")
    for path in made.written[:1]:
        typer.echo(str(path))
    if settings.out is None:
        screen.line("a page with figures: --out report.html")
