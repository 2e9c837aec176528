"""The report as one HTML file, which loads nothing, follows the reader's light or dark scheme, and prints well."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files

from nilr.report.contents import LEFT_OUT, SUMMARY, Contents, Part
from nilr.report.figures.figure import Drawing, Kind, Table
from nilr.report.style import COLOURS, inline
from nilr.words import counted

# more of them follow the figures
_FEW_NOTES = 3
# a longer list of them is closed at first
_FEW_FILES = 20
_FEW_MODELS = 12


def page(contents: Contents, pictures: Mapping[str, tuple[str, str]], *, made_by: str) -> str:
    """Return the page as HTML text."""
    return "\n".join(
        [
            *_head(contents),
            *_toc(contents),
            *_body(contents, pictures),
            *_foot(contents, made_by),
            "</main></body></html>",
            "",
        ]
    )


def _head(contents: Contents) -> Iterator[str]:
    title = contents.title
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield (
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
    )
    yield '<meta name="referrer" content="no-referrer"><link rel="icon" href="data:,">'
    yield f"<title>{escape(title)}</title><style>{_css()}</style></head><body><main>"
    yield f"<h1>{escape(title)}</h1>"
    if contents.measured_on:
        yield f'<p class="caution">Measured {contents.measured_on}</p>'
    names = list(dict.fromkeys(row[0] for row in contents.models.rows))
    if names:
        more = f' and <a href="#sources">{len(names) - _FEW_MODELS} more</a>' if len(names) > _FEW_MODELS else ""
        yield f'<p class="measured">Models: {escape(", ".join(names[:_FEW_MODELS]))}{more}</p>'


def _toc(contents: Contents) -> Iterator[str]:
    """Yield the table of contents."""
    yield '<nav aria-label="Contents"><h2>Contents</h2><ol>'
    for number, (title, _) in enumerate(contents.verdict, start=1):
        yield f'<li><a href="#finding-{number}">{escape(title)}</a></li>'
    several = len(contents.parts) > 1
    for number, part in enumerate(contents.parts, start=1):
        if several:
            yield f'<li><a href="#part-{number}">{escape(part.title)}</a><ol>'
        if part.summary:
            yield f'<li><a href="#summary-{number}">Summary</a></li>'
        yield from (f'<li><a href="#{part.name(kind)}">{escape(kind.title)}</a></li>' for kind, _ in part.figures)
        yield "</ol></li>" if several else ""
    if contents.left_out:
        yield '<li><a href="#left-out">Figures left out</a></li>'
    yield '<li><a href="#sources">Models and files</a></li></ol></nav>'


def _body(contents: Contents, pictures: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    yield from _notes(contents.warnings)
    for number, (title, verdict) in enumerate(contents.verdict, start=1):
        yield f'<section class="verdict" id="finding-{number}"><h2>{escape(title)}</h2>{_table(verdict)}</section>'
    if len(contents.parts) == 1:
        yield from _part(contents.parts[0], 1, pictures)
        return
    for number, part in enumerate(contents.parts, start=1):
        first = " open" if part is contents.parts[0] else ""
        lead = escape(part.figures[0][1].sentence) if part.figures else ""
        yield f'<details class="part"{first}><summary><h2 id="part-{number}">{escape(part.title)}</h2>{lead}</summary>'
        yield from _part(part, number, pictures)
        yield "</details>"


def _part(part: Part, number: int, pictures: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    for line in part.measured:
        yield f'<p class="measured">{escape(line)}</p>'
    few = len(part.notes) <= _FEW_NOTES
    if few:
        yield from _notes(part.notes)
    if part.summary:
        yield f'<section id="summary-{number}"><h2>Summary</h2>{_table(part.summary)}'
        yield f'<p class="caution">{SUMMARY}</p></section>'
    for kind, drawing in part.figures:
        yield from _section(part.name(kind), kind, drawing, pictures[part.name(kind)])
    if not few:
        yield f"<details><summary>{counted(len(part.notes), 'note')} in the results</summary>"
        yield from _notes(part.notes)
        yield "</details>"


def _notes(notes: Sequence[str]) -> Iterator[str]:
    yield from (f'<p class="note">{escape(note)}</p>' for note in notes)


def _section(name: str, kind: Kind, drawing: Drawing, pictures: tuple[str, str]) -> Iterator[str]:
    sentence = escape(drawing.sentence)
    yield f'<section id="{name}"><h2>{escape(kind.title)}</h2><figure>'
    for look, svg in zip(("wide", "narrow"), pictures, strict=True):
        yield inline(svg, look=look, prefix=f"{name}-{look}-", described=sentence)
    yield f"<figcaption>{sentence}"
    if drawing.caution:
        yield f' <span class="caution">{escape(drawing.caution)}</span>'
    yield "</figcaption></figure>"
    yield f"<details{' open' if drawing.open else ''}><summary>Numbers</summary>{_table(drawing.table)}</details>"
    yield "</section>"


def _foot(contents: Contents, made_by: str) -> Iterator[str]:
    if contents.left_out:
        yield '<section id="left-out"><h2>Figures left out</h2>'
        yield f"<details><summary>{LEFT_OUT}</summary><dl>"
        for kind in contents.left_out:
            yield f"<dt>{escape(kind.title)}</dt><dd>{_code(kind.needs)}</dd>"
        yield "</dl></details></section>"
    shown = " open" if len(contents.files.rows) <= _FEW_FILES else ""
    files = f"{counted(len(contents.models.rows), 'model')}, {counted(len(contents.files.rows), 'file')}"
    yield f'<section id="sources"><h2>Models and files</h2><details{shown}><summary>{files}</summary>'
    yield f"{_table(contents.models)}{_table(contents.files)}</details>"
    yield f'<p class="caution">Made by {escape(made_by)}.</p></section>'


def _code(text: str) -> str:
    """Return escaped text, with text between backticks as code."""
    parts = [escape(part) for part in text.split("`")]
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


def _table(table: Table) -> str:
    table = table.filled()
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    rows = "".join(f"<tr>{''.join(map(_cell, table.header, row))}</tr>" for row in table.rows)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cell(header: str, cell: str) -> str:
    """Return a cell; on a narrow screen its header precedes it."""
    word = ' class="word"' if cell in ("confirmed", "refuted") else ""
    return f'<td{word} data-of="{escape(header)}">{escape(cell)}</td>'


def _css() -> str:
    light, dark = (";".join(f"--{name}:{pair[i]}" for name, pair in COLOURS.items()) for i in (0, 1))
    return (
        f":root{{color-scheme:light dark;{light};--sans:{_SANS}}}"
        f"@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
        f"@media print{{:root{{{light}}}}}\n{files('nilr.report').joinpath('page.css').read_text('utf-8')}"
    )


_SANS = "system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans','DejaVu Sans',sans-serif"
