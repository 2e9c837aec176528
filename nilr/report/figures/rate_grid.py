"""Rate grids of an experiment: training rate against adaptation rate."""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from nilr.report.figures.figure import Kind, Material, Table
from nilr.report.numbers import NOTHING, percent, plain, points
from nilr.report.style import Axes, Figure, Frame
from nilr.results.reproduce import GridCell, GridOptimum, OverSeeds, RateGrid
from nilr.words import counted, number

_CAUTION = (
    "Colours are differences to meta-init, numbers accuracies after adaptation in percent, means over seeds; a box "
    "marks the highest accuracy. Intervals are over the best cells of the seeds. The accuracy of a best cell is too "
    "high by selection, and rates between those of the grid were not tried."
)


class Map(NamedTuple):
    """One reading of one grid."""

    name: str  # of the grid's trainings
    reading: str  # same-task, cross-task or own-head
    grid: RateGrid

    @property
    def cells(self) -> Sequence[GridCell]:
        """The cells of this reading."""
        return self.grid.cells[self.reading]

    @property
    def optimum(self) -> GridOptimum:
        """The best of them."""
        return self.grid.optimum[self.reading]


def maps(material: Material) -> list[Map]:
    """Return the maps of all experiments with rate grids."""
    return [
        Map(name, reading, grid)
        for source in material.sources
        if source.command == "reproduce"
        for name, grid in source.result.metrics.grids.items()
        for reading in grid.cells
    ]


def sentence(found: Sequence[Map]) -> str:
    """Return the best cell of each map, with the intervals over the best cells of the seeds."""
    return "; ".join(f"{one.name}, {one.reading}: {describe_optimum(one.optimum)}" for one in found) + "."


def describe_optimum(optimum: GridOptimum) -> str:
    """Return an optimum in words."""
    return (
        f"best at training rate {optimum.training_rate:g} and adaptation rate {optimum.adaptation_rate:g} with "
        f"{percent(optimum.accuracy.mean)} (best cells of {counted(optimum.accuracy.n_seeds, 'seed')}: training rate "
        f"{rate(optimum.training_rates)}, adaptation rate {rate(optimum.adaptation_rates)})"
    )


def rate(found: OverSeeds) -> str:
    """Return a mean rate with its interval over seeds."""
    return f"{number(found.mean, 3)} in each" if found.ci95 == 0 else plain(found)


def table(found: Sequence[Map]) -> Table:
    """Return a row for each cell, with the accuracy in validation at the training rate."""
    header = (
        "grid",
        "reading",
        "training rate",
        "adaptation rate",
        "accuracy",
        "delta to meta-init, points",
        "validation",
    )
    rows = [
        (
            one.name,
            one.reading,
            f"{cell.training_rate:g}",
            f"{cell.adaptation_rate:g}",
            percent(fmean(cell.accuracy.values())),
            points(cell.to_meta_init),
            percent(fmean(validation)) if validation else NOTHING,
        )
        for one in found
        for cell in one.cells
        for validation in [one.grid.validation.get(str(cell.training_rate), {}).values()]
    ]
    return Table(header, rows)


def draw(found: Sequence[Map], frame: Frame) -> Figure:
    """Draw a map for each reading of each grid: a row for each training rate, a column for each adaptation rate."""
    rows = max(len({cell.training_rate for cell in one.cells}) for one in found)
    figure, panels, _ = frame.panels(len(found), 2, row=96 + 26 * rows)
    for axes, one in zip(panels, found, strict=True):
        _map(axes, one, frame)
    return figure


def _map(axes: Axes, one: Map, frame: Frame) -> None:
    from matplotlib.patches import Rectangle

    training = list(dict.fromkeys(cell.training_rate for cell in one.cells))
    adaptation = list(dict.fromkeys(cell.adaptation_rate for cell in one.cells))
    values = [[0.0] * len(adaptation) for _ in training]
    largest = max(abs(cell.to_meta_init.mean) for cell in one.cells) or 1.0
    axes.grid(visible=False)
    for cell in one.cells:
        y, x = training.index(cell.training_rate), adaptation.index(cell.adaptation_rate)
        values[y][x] = cell.to_meta_init.mean
        # not quite black and white: cells keep their colours in a dark page, and so do their numbers
        ink = "#000001" if abs(cell.to_meta_init.mean) < 0.6 * largest else "#fffffe"
        level = f"{100 * fmean(cell.accuracy.values()):.0f}"
        axes.text(x + 0.5, y + 0.5, level, ha="center", va="center", color=ink, fontsize=11.5 * frame.scale)
    axes.pcolormesh(values, cmap="PuOr_r", vmin=-largest, vmax=largest, edgecolors="none", linewidth=0)
    best = adaptation.index(one.optimum.adaptation_rate), training.index(one.optimum.training_rate)
    axes.add_patch(Rectangle(best, 1, 1, fill=False, edgecolor="#000001", linewidth=2, clip_on=False))
    axes.set_xticks([x + 0.5 for x in range(len(adaptation))], [f"{value:g}" for value in adaptation], rotation=45)
    axes.set_yticks([y + 0.5 for y in range(len(training))], [f"{value:g}" for value in training])
    axes.set_title(frame.title(f"{one.name}, {one.reading}", 2))
    axes.set(xlabel="adaptation rate", ylabel="training rate")
    for spine in axes.spines.values():
        spine.set_visible(False)


KIND = Kind("rate-grid", "Training rate against adaptation rate", "`nilr reproduce --preset grid --name NAME`",
            maps, draw, sentence, table, _CAUTION)  # fmt: skip
