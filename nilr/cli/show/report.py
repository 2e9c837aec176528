"""What `nilr report` shows: the table, the sentence of each figure, and the main file."""

import typer

from nilr.cli.console import Screen
from nilr.recipes.report import Report
from nilr.report.summary import HEADER, rows


def show(report: Report, screen: Screen) -> None:
    """Write the table and the sentences; without `--out` the table is the answer, on stdout."""
    (screen if report.written else screen.answer).table(HEADER, rows(report.material), names=2)
    for warning in report.contents.warnings:
        screen.line(f"warning: {warning}")
    for part in report.contents.parts:
        # of several questions, one sentence each
        for _, drawing in part.figures[:1] if report.contents.several else part.figures:
            screen.line(f"{part.title}: {drawing.sentence}" if report.contents.several else drawing.sentence)
    for kind in report.contents.left_out:
        screen.line(f"omitted: {kind.title.lower()}; it needs {kind.needs}")
    if report.written:
        typer.echo(str(report.written[0]))
    else:
        screen.line("for a page with figures: --out report.html")
