"""What `nilr report` shows: the table, the sentence of each figure, and the main file."""

import itertools

import typer

from nilr.cli.console import Screen
from nilr.recipes.report import Report
from nilr.report.summary import HEADER, rows


def show(report: Report, screen: Screen) -> None:
    """Write a table for each question and the sentences; without `--out` the tables are the answer, on stdout."""
    answer = screen if report.written else screen.answer
    for question, of_question in itertools.groupby(rows(report.material), lambda row: row[0]):
        # only a table that is one of several needs a title for scripts
        titled = answer if report.contents.several else screen
        titled.line(f"question: {question}" if question else "histories alone:")
        answer.table(HEADER[1:], [row[1:] for row in of_question], names=1)
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
