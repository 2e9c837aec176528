"""The look of figures: colours for colour-blind readers, and one drawing for paper and for light and dark screens.

The colours are those of Okabe and Ito (Color Universal Design, 2008), lighter on a dark background. Shapes and hatching
repeat whatever colours show.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Iterator
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

_FONTS = "DejaVu Sans"
_STYLE = Path(__file__).parent / "figures.mplstyle"
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


@dataclass(frozen=True)
class Frame:
    """The space for a figure."""

    width: int  # in pixels at 72 per inch, so that font sizes are in pixels too

    @property
    def narrow(self) -> bool:
        """Whether panels are placed below one another, for a phone."""
        return self.width < 500

    def figure(self, height: float) -> Figure:
        """Return an empty figure of the frame's width and `height` pixels."""
        from matplotlib.figure import Figure

        return Figure(figsize=(self.width / 72, height / 72), dpi=72, layout="constrained")

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

    def label(self, text: str) -> str:
        """Return a label, shortened so that it leaves room for what it labels."""
        longest = 14 if self.narrow else 30
        # matplotlib omits legend entries that begin with an underscore
        shown = f" {text}" if text.startswith("_") else text
        return shown if len(shown) <= longest else f"{shown[: longest - 5]}…{shown[-4:]}"


Draw: TypeAlias = Callable[[Frame], Figure]


def check_matplotlib() -> None:
    """Check that matplotlib is installed; NilrError if it cannot be imported."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise NilrError(
            f"drawing figures needs matplotlib, which cannot be imported: {error}",
            hint="pip install 'matplotlib>=3.9', or omit --out: the table on the terminal needs no matplotlib",
        ) from error


def svg(draw: Draw, width: int) -> str:
    """Return a figure as an SVG document for a light background and for print."""
    text = _saved(draw, width, format="svg").decode()
    return re.sub(r"\s*<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)


def png(draw: Draw) -> bytes:
    """Return a figure as a PNG image for a light background and for print, at 200 pixels per inch."""
    return _saved(draw, WIDE, format="png", dpi=200)


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
    with _style():
        return draw(Frame(width))


def _saved(draw: Draw, width: int, **how: Any) -> bytes:  # noqa: ANN401 - savefig's keywords
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if how["format"] == "svg" else {"Software": None}
    with _style(), warnings.catch_warnings():
        # The fonts of the page have glyphs that matplotlib's font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        draw(Frame(width)).savefig(buffer, metadata=metadata, **how)
    return buffer.getvalue()


@contextlib.contextmanager
def _style() -> Iterator[None]:
    import matplotlib as mpl

    settings: Any = _SETTINGS
    with mpl.rc_context(settings, fname=_STYLE):
        yield
