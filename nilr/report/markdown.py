"""The report as Markdown text, with its figures in a folder."""

import re
from collections.abc import Iterator

from nilr.report.contents import LEFT_OUT, SUMMARY, Contents, Part
from nilr.report.figures.figure import Table


def markdown(contents: Contents, *, figures: str, made_by: str) -> str:
    """Return the report as Markdown text."""
    return "\n".join(_lines(contents, figures, made_by)) + "\n"


def _lines(contents: Contents, figures: str, made_by: str) -> Iterator[str]:
    yield f"# {contents.title}\n"
    if contents.measured_on:
        yield f"Measured {contents.measured_on}.\n"
    yield from (f"**{plain(warning)}**\n" for warning in contents.warnings)
    for title, verdict in contents.verdict:
        yield f"## {title}\n"
        yield from _table(verdict)
    for part in contents.parts:
        yield from _part(part, figures, apart=len(contents.parts) > 1)
    if contents.left_out:
        yield f"## Figures left out\n\n{LEFT_OUT}:\n"
        yield from (f"- {kind.title}: {kind.needs}" for kind in contents.left_out)
        yield ""
    yield "## Models and files\n"
    yield from _table(contents.models)
    yield from _table(contents.files)
    yield f"Made by {plain(made_by)}."


def _part(part: Part, figures: str, *, apart: bool) -> Iterator[str]:
    if apart:
        yield f"## {plain(part.title)}\n"
    yield from (f"{plain(line)}\n" for line in (*part.measured, *part.notes))
    if part.summary:
        yield f"{'###' if apart else '##'} Summary\n"
        yield from _table(part.summary)
        yield f"*{plain(SUMMARY)}*\n"
    for kind, drawing in part.figures:
        yield f"{'###' if apart else '##'} {kind.title}\n"
        # the angle brackets allow spaces in the path
        yield f"![{plain(drawing.sentence)}](<{figures}/{part.name(kind)}.svg>)\n"
        yield f"{plain(drawing.sentence)}\n"
        if drawing.caution:
            yield f"*{plain(drawing.caution)}*\n"
        yield from _table(drawing.table)


def _table(table: Table) -> Iterator[str]:
    table = table.filled()
    yield f"| {' | '.join(plain(cell) for cell in table.header)} |"
    yield f"|{'---|' * len(table.header)}"
    yield from (f"| {' | '.join(plain(cell) for cell in row)} |" for row in table.rows)
    yield ""


def plain(text: str) -> str:
    """Return text with the characters of Markdown and HTML escaped."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", text)
