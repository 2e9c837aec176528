"""What a figure is, what it is made from, and parts that several figures draw."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from nilr.report.numbers import NOTHING, Estimate, bounds
from nilr.report.reading import Source
from nilr.report.style import PROTOCOL_STYLE, Axes, Draw, Figure, Frame, colour
from nilr.report.subjects import Subject

Style = tuple[str, str]
"""A colour of `nilr.report.style` and a marker."""


@dataclass(frozen=True)
class History:
    """A training, from the model's `history.jsonl`."""

    label: str  # the model's name
    steps: Sequence[int] = ()  # outer updates with a share of negative rates
    share_negative: Sequence[float] = ()  # a fraction for each of them
    # the same for each layer, for the last of the steps
    by_layer: Mapping[str, Sequence[float]] = field(default_factory=dict)
    evaluated: int | None = None  # the update of the checkpoint that the results evaluate
    losses: Sequence[tuple[int, float]] = ()  # query loss of an update's episodes, by update
    validations: Sequence[tuple[int, float]] = ()  # accuracy in validation, by update
    n_way: int | None = None
    recipe: str | None = None  # what models that differ only in the seed have in common


@dataclass(frozen=True)
class Material:
    """What a report is made from."""

    sources: Sequence[Source[Any]]  # the results
    subjects: Sequence[Subject]  # the models and controls in results of probes
    histories: Sequence[History] = ()  # of the models, as far as they are found


@dataclass(frozen=True)
class Table:
    """Cells of text under a header."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def filled(self) -> "Table":
        """Return the table without columns that have nothing in any row."""
        kept = [x for x in range(len(self.header)) if any(row[x] != NOTHING for row in self.rows)]
        return Table([self.header[x] for x in kept], [[row[x] for x in kept] for row in self.rows])


@dataclass(frozen=True)
class Drawing:
    """A figure of given material."""

    draw: Draw  # draws it into a frame
    sentence: str  # what it shows
    table: Table  # its numbers
    caution: str | None = None  # how to read it, and its limits
    open: bool = False  # whether the page shows the table at first


@dataclass(frozen=True)
class Kind:
    """A kind of figure: what it finds in the material, and what it makes of that."""

    name: str  # of its files
    title: str  # above it
    needs: str  # what provides its numbers
    find: Callable[[Material], Any]  # returns its numbers; empty if the material lacks them
    draw: Callable[[Any, Frame], Figure]
    sentence: Callable[[Any], str]
    table: Callable[[Any], Table]
    caution: str | None = None
    is_open: Callable[[Any], bool] = lambda _: False  # whether the page shows the table at first

    def make(self, material: Material) -> Drawing | None:
        """Return the figure of given material; None if it lacks the numbers."""
        found = self.find(material)
        if not found:
            return None
        draw, is_open = partial(self.draw, found), self.is_open(found)
        return Drawing(draw, self.sentence(found), self.table(found), self.caution, is_open)


RATE_SIGNS: dict[str, dict[str, Any]] = {
    "positive": {"facecolor": colour("sky")},
    "negative": {"facecolor": colour("vermillion"), "edgecolor": colour("paper"), "hatch": "////"},
}
"""The look of what positive and what negative rates do."""


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows of a vertical axis, the first one on top, without grid and ticks."""
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)


def label_lowest(panels: Sequence[Axes], frame: Frame, label: str) -> None:
    """Label the shared horizontal axis below the lowest panel of each of two columns, of one in a narrow frame."""
    for axes in panels[-2:] if not frame.narrow else panels[-1:]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel(label)


def draw_chance(axes: Axes, n_ways: Iterable[int | None], *, upright: bool = False) -> None:
    """Draw a labelled line at the accuracy by chance, in percent, if all episodes have the same number of classes."""
    ways = set(n_ways)
    n_way = ways.pop() if len(ways) == 1 else None
    if n_way:
        line = axes.axvline if upright else axes.axhline
        line(100 / n_way, color=colour("muted"), linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
        if upright:
            axes.text(100 / n_way, 1, " chance", transform=axes.get_xaxis_transform(), va="top", color=colour("muted"))
        else:
            axes.text(
                1,
                100 / n_way,
                "chance",
                transform=axes.get_yaxis_transform(),
                ha="right",
                va="bottom",
                color=colour("muted"),
            )


def draw_interval(axes: Axes, estimate: Estimate, y: float, protocol: str) -> None:
    """Draw a mean and its interval at height y, in percent, in the style of a protocol."""
    draw_estimate(axes, estimate, y, PROTOCOL_STYLE[protocol])


def draw_estimate(axes: Axes, estimate: Estimate, y: float, style: Style, *, scale: float = 100) -> None:
    """Draw a mean and its interval at height y, times `scale`."""
    name, marker = style
    if interval := bounds(estimate):
        axes.plot([scale * bound for bound in interval], (y, y), color=colour(name), solid_capstyle="butt")
    axes.plot(scale * estimate.mean, y, marker=marker, color=colour(name), linestyle="none")


def draw_signs(axes: Axes, signs: Mapping[str, Estimate], y: float, *, scale: float = 1) -> None:
    """Draw what positive and what negative rates do, as bars with intervals around height y."""
    for sign, shift in (("positive", -0.19), ("negative", 0.19)):
        if (estimate := signs.get(sign)) is not None:
            axes.barh(y + shift, scale * estimate.mean, height=0.34, **RATE_SIGNS[sign])
            if interval := bounds(estimate):
                ends = [scale * bound for bound in interval]
                axes.plot(ends, (y + shift, y + shift), color=colour("ink"), linewidth=1.5)


def sign_legend(figure: Figure, *others: Any) -> None:  # noqa: ANN401 - artists
    """Draw a legend of the signs of rates above the panels, and of other artists."""
    from matplotlib.patches import Patch

    bars = [Patch(**look, label=f"{sign} rates") for sign, look in RATE_SIGNS.items()]
    figure.legend(
        handles=[*bars, *others], loc="outside upper left", ncols=2 + len(others), columnspacing=1.0, handlelength=1.6
    )


def protocol_legend(figure: Figure, protocols: Iterable[str], *others: Any, ncols: int, **layout: float) -> None:  # noqa: ANN401 - artists
    """Draw a legend of protocols above the panels, and of other artists."""
    styles = {protocol: PROTOCOL_STYLE[protocol] for protocol in protocols}
    style_legend(figure, styles, *others, ncols=ncols, **layout)


def style_legend(figure: Figure, styles: Mapping[str, Style], *others: Any, ncols: int, **layout: float) -> None:  # noqa: ANN401 - artists
    """Draw a legend of styles by their label above the panels, and of other artists."""
    from matplotlib.lines import Line2D

    named = [(label, *style) for label, style in styles.items()]
    handles = [Line2D([], [], color=colour(name), marker=marker, label=label) for label, name, marker in named]
    figure.legend(handles=[*handles, *others], loc="outside upper left", ncols=ncols, **layout)
