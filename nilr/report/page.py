"""The report as one HTML file, which loads nothing, follows the reader's light or dark scheme, and prints well."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from nilr.report.contents import Contents
from nilr.report.figures.figure import Drawing, Kind, Table
from nilr.report.style import COLOURS, inline

# more of them follow the figures
_FEW_NOTES = 3


def page(contents: Contents, pictures: Mapping[str, tuple[str, str]], *, made_by: str) -> str:
    """Return the page as HTML text.

    Args:
        contents: of the report.
        pictures: each figure as SVG documents, wide and narrow, by its kind's name.
        made_by: the program and its version.
    """
    return "\n".join(
        [*_head(contents.title), *_body(contents, pictures), *_foot(contents, made_by), "</main></body></html>", ""]
    )


def _head(title: str) -> Iterator[str]:
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


def _body(contents: Contents, pictures: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    for line in contents.measured:
        yield f'<p class="measured">{escape(line)}</p>'
    for title, verdict in contents.verdict:
        yield f'<section class="verdict"><h2>{escape(title)}</h2>{_table(verdict)}</section>'
    few = len(contents.notes) <= _FEW_NOTES
    if few:
        yield from _notes(contents.notes)
    for kind, drawing in contents.figures:
        yield from _section(kind, drawing, pictures[kind.name])
    if not few:
        yield '<section id="notes"><h2>Notes in the results</h2>'
        yield from _notes(contents.notes)
        yield "</section>"


def _notes(notes: Sequence[str]) -> Iterator[str]:
    yield from (f'<p class="note">{escape(note)}</p>' for note in notes)


def _section(kind: Kind, drawing: Drawing, pictures: tuple[str, str]) -> Iterator[str]:
    sentence = escape(drawing.sentence)
    yield f'<section id="{kind.name}"><h2>{escape(kind.title)}</h2><figure>'
    for look, svg in zip(("wide", "narrow"), pictures, strict=True):
        yield inline(svg, look=look, prefix=f"{kind.name}-{look}-", described=sentence)
    yield f"<figcaption>{sentence}"
    if drawing.caution:
        yield f' <span class="caution">{escape(drawing.caution)}</span>'
    yield "</figcaption></figure>"
    yield f"<details{' open' if drawing.open else ''}><summary>Numbers</summary>{_table(drawing.table)}</details>"
    yield "</section>"


def _foot(contents: Contents, made_by: str) -> Iterator[str]:
    if contents.left_out:
        yield '<section id="left-out"><h2>Figures left out</h2>'
        yield "<p>The results lack the numbers for these figures. They need:</p><dl>"
        for kind in contents.left_out:
            yield f"<dt>{escape(kind.title)}</dt><dd>{_code(kind.needs)}</dd>"
        yield "</dl></section>"
    yield f'<section id="sources"><h2>Models and files</h2>{_table(contents.models)}{_table(contents.files)}'
    yield f'<p class="caution">Made by {escape(made_by)}.</p></section>'


def _code(text: str) -> str:
    """Return escaped text, with text between backticks as code."""
    parts = [escape(part) for part in text.split("`")]
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _css() -> str:
    light, dark = (";".join(f"--{name}:{pair[i]}" for name, pair in COLOURS.items()) for i in (0, 1))
    return (
        f":root{{color-scheme:light dark;{light};--sans:{_SANS}}}"
        f"@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
        f"@media print{{:root{{{light}}}}}{_RULES}"
    )


_SANS = "system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans','DejaVu Sans',sans-serif"

_RULES = """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 var(--sans);-webkit-text-size-adjust:100%}
main{max-width:868px;margin:0 auto;padding:32px 24px 64px;overflow-wrap:anywhere}
h1{font-size:28px;line-height:1.2;margin:0 0 12px;letter-spacing:-.01em}
h2{font-size:20px;line-height:1.3;margin:0 0 10px}
p{margin:0 0 10px}
.measured,.caution{color:var(--muted)}
.note{border-left:3px solid var(--blue);padding-left:12px}
section{margin-top:44px}
figure{margin:0}
figure svg{display:block;width:100%;height:auto;margin:0 auto}
svg.wide{max-width:820px}
svg.narrow{max-width:520px;display:none}
figcaption{margin-top:10px}
details{margin-top:10px}
summary{cursor:pointer;color:var(--muted)}
.table{overflow-x:auto;margin:8px 0}
table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums;overflow-wrap:normal}
th,td{text-align:left;padding:5px 12px 5px 0;border-bottom:1px solid var(--grid);white-space:nowrap}
th{color:var(--muted);font-weight:500;white-space:normal;vertical-align:bottom;line-height:1.3}
dt{font-weight:600}dd{margin:0 0 8px}
code{font-family:ui-monospace,'SF Mono',Menlo,Consolas,'DejaVu Sans Mono',monospace;font-size:.9em}
@media (max-width:700px){
main{padding:20px 16px 48px}h1{font-size:24px}
figure svg.wide{display:none}figure svg.narrow{display:block}
}
@media print{
main{max-width:none;padding:0}section,figure{break-inside:avoid}
figure svg.wide{display:block}figure svg.narrow{display:none}
}
"""
