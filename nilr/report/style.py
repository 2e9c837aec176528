"""The look of figures: colours for colour-blind readers, and one drawing for paper and for light and dark screens.

The colours are those of Okabe and Ito (Color Universal Design, 2008), lighter on a dark background. Shapes and hatching
repeat whatever colours show.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from nilr.errors import NilrError

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# Strings: reports without figures need no matplotlib.
Axes: TypeAlias = "matplotlib.axes.Axes"
Figure: TypeAlias = "matplotlib.figure.Figure"

# name -> on a light background and on paper, on a dark background
COLOURS = {
    "paper": ("#ffffff", "#16191d"),
    "ink": ("#1c2126", "#e6e9ec"),
    "muted": ("#5a646e", "#a4aeb8"),
    "grid": ("#dde2e6", "#343b42"),
    "blue": ("#0072b2", "#5ab1ea"),
    "vermillion": ("#d55e00", "#ff8f4d"),
    "green": ("#009e73", "#3ccfa4"),
    "purple": ("#cc79a7", "#e6a0c6"),
    "orange": ("#e69f00", "#f2b63c"),
    "sky": ("#56b4e9", "#86ccf4"),
}


def colour(name: str) -> str:
    """Return a colour for a light background; `inline` replaces it with a variable of the page."""
    return COLOURS[name][0]


# protocol -> colour, marker
PROTOCOL_STYLE = {"meta-init": ("ink", "D"), "same-task": ("blue", "o"), "cross-task": ("vermillion", "s")}
# Lines of one panel: colour, line style.
LINES: tuple[tuple[str, Any], ...] = (
    ("blue", "-"),
    ("vermillion", (0, (5, 2))),
    ("green", (0, (1, 1.5))),
    ("purple", "-."),
    ("orange", "-"),
    ("sky", (0, (5, 2))),
    ("ink", (0, (1, 1.5))),
)

WIDE, NARROW = 820, 352
# Of a journal's column and page, in points.
WIDTHS = {"column": 3.35 * 72, "page": 7.0 * 72}

_FONTS = "DejaVu Sans"
_STYLE = Path(__file__).parent / "figures.mplstyle"
_PAPER_SCALE = 0.64  # 12.5 px of a screen become 8 pt
_LONGEST_LABEL = 110
_SETTINGS: dict[str, Any] = {
    "font.family": _FONTS,
    "text.color": colour("ink"),
    "axes.labelcolor": colour("muted"),
    "axes.titlecolor": colour("ink"),
    "axes.edgecolor": colour("grid"),
    "grid.color": colour("grid"),
    "xtick.color": colour("grid"),
    "ytick.color": colour("grid"),
    "xtick.labelcolor": colour("ink"),
    "ytick.labelcolor": colour("ink"),
    "savefig.facecolor": colour("paper"),
}

_SCALED = (
    "font.size",
    "axes.titlesize",
    "axes.labelsize",
    "xtick.labelsize",
    "ytick.labelsize",
    "legend.fontsize",
    "lines.linewidth",
    "lines.markersize",
    "grid.linewidth",
    "hatch.linewidth",
)
# Fonts are embedded in a PDF and drawn as paths in an SVG, so that a paper needs none of them.
_PAPER: dict[str, Any] = {
    "font.family": "STIXGeneral",
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "figure.constrained_layout.h_pad": 0.02,
    "figure.constrained_layout.w_pad": 0.02,
}


@dataclass(frozen=True)
class Frame:
    """The space for a figure."""

    width: float  # in pixels at 72 per inch, so that font sizes are in pixels too
    scale: float = 1.0  # of texts and heights

    @property
    def narrow(self) -> bool:
        """Whether panels are placed below one another, for a phone or a column of a paper."""
        return self.width / self.scale < 500

    def figure(self, height: float) -> Figure:
        """Return an empty figure of the frame's width and `height` pixels at full scale."""
        from matplotlib.figure import Figure

        return Figure(figsize=(self.width / 72, self.scale * height / 72), dpi=72, layout="constrained")

    def panels(
        self, n: int, columns: int, *, row: float, margin: float = 0, sharex: bool = False, sharey: bool = False
    ) -> tuple[Figure, list[Axes], list[Axes]]:
        """Return a figure with a grid of panels.

        Args:
            n: panels.
            columns: of the grid, at most; one in a narrow frame.
            row: height of a row, in pixels.
            margin: height of the rest, in pixels.
            sharex: whether panels share their horizontal axis.
            sharey: whether they share their vertical axis.

        Returns:
            The figure, its n panels row by row, and those of the first column.
        """
        columns = 1 if self.narrow else min(n, columns)
        rows = -(-n // columns)
        figure = self.figure(margin + rows * row)
        grid: Any = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)
        for axes in grid.flat[n:]:
            axes.set_visible(False)
        return figure, list(grid.flat[:n]), list(grid[:, 0])

    def label(self, text: str, longest: int | None = None) -> str:
        """Return a label in lines of at most `longest` characters, so that it leaves room for what it labels."""
        # matplotlib omits legend entries that begin with an underscore
        shown = f" {text}" if text.startswith("_") else text
        return wrapped(shown[:_LONGEST_LABEL], longest or (14 if self.narrow else 28))

    def title(self, text: str, columns: int) -> str:
        """Return the title of one of several panels side by side, in lines that fit."""
        return self.label(text, max(12, int(self.width / self.scale / (1 if self.narrow else columns) / 8.2)))

    def rows(self, labels: Iterable[str], least: float) -> float:
        """Return the height of rows with these labels: all as high as the highest, and at least `least` pixels each."""
        heights = [max(least, 17 * (1 + label.count("\n")) + 6) for label in labels]
        return len(heights) * max(heights, default=0)


def wrapped(text: str, longest: int) -> str:
    """Return a text in lines of at most `longest` characters, broken after `-_,. ` but for the dot of a number."""
    lines = [""]
    pieces = re.findall(r"(?:[^-_,. ]|\.(?=\d))*(?:[-_, ]|\.(?!\d))|(?:[^-_,. ]|\.(?=\d))+", text)
    for piece in (long[i : i + longest] for long in pieces for i in range(0, len(long), longest)):
        if lines[-1].strip() and len(lines[-1] + piece.rstrip()) > longest:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


Draw: TypeAlias = Callable[[Frame], Figure]


def check_matplotlib() -> None:
    """Check that matplotlib is installed; NilrError if it cannot be imported."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise NilrError(
            f"drawing figures needs matplotlib, which cannot be imported: {error}",
            hint="pip install 'matplotlib>=3.9'; the table on the terminal, without --out, needs no matplotlib",
        ) from error


@dataclass(frozen=True)
class Look:
    """How figures are drawn into files."""

    width: float = WIDE  # in points, 72 per inch
    paper: bool = False  # whether for a paper: 8 pt in a serif font, thinner lines


def svg(draw: Draw, width: float) -> str:
    """Return a figure as an SVG document for a light background and for print."""
    return picture(draw, "svg", Look(width)).decode()


def picture(draw: Draw, form: str, look: Look) -> bytes:
    """Return a figure as `svg`, `png` (200 pixels per inch, 400 for a paper) or `pdf`, for a light background."""
    metadata = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}, "pdf": {"CreationDate": None}}[form]
    buffer = io.BytesIO()
    dpi = 72 if form != "png" else 400 if look.paper else 200
    with report_style(look), warnings.catch_warnings():
        # The fonts of the page have glyphs that matplotlib's font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = draw(Frame(look.width, _PAPER_SCALE if look.paper else 1.0))
        figure.savefig(buffer, metadata=metadata, format=form, dpi=dpi)
    if form != "svg":
        return buffer.getvalue()
    return re.sub(rb"\s*<metadata>.*?</metadata>", b"", buffer.getvalue(), count=1, flags=re.DOTALL)


def inline(svg: str, *, look: str, prefix: str, described: str) -> str:
    """Return an SVG document as an element of a page, with the page's colour and font variables.

    Args:
        svg: the document.
        look: the element's class.
        prefix: of every id, so that ids are unique in the page.
        described: the text alternative, escaped.
    """
    text = re.sub(r"\bid=\"", f'id="{prefix}', svg[svg.index("<svg") :])
    text = re.sub(r"(href=\"#|url\(#)", rf"\g<1>{prefix}", text)
    for name, (light, _) in COLOURS.items():
        text = text.replace(light, f"var(--{name})")
    text = text.replace(f"'{_FONTS}'", "var(--sans)")
    head = f'<svg role="img" aria-label="{described}" class="{look}" viewBox='
    return re.sub(r"<svg [^>]*?viewBox=", lambda _: head, text, count=1, flags=re.DOTALL)


def make_figure(draw: Draw, width: int) -> Figure:
    """Return a figure in the style of a report."""
    with report_style(Look(width)):
        return draw(Frame(width))


@contextlib.contextmanager
def report_style(look: Look) -> Iterator[None]:
    """Set matplotlib's parameters to those of a look."""
    import matplotlib as mpl

    settings: Any = _SETTINGS
    with mpl.rc_context(settings, fname=_STYLE):
        if look.paper:
            rc: Any = mpl.rcParams
            rc.update({name: _PAPER_SCALE * rc[name] for name in _SCALED} | _PAPER)
        yield
