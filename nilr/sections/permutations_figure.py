"""Accuracy over permutations of the labels: the mean, and the range from the worst to the best."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nilr.config.base import ADAPTED
from nilr.report.figures.figure import Drawing, Kind, Material, Style, Table, draw_estimate, name_rows, style_legend
from nilr.report.figures.seeds import by_recipe, combined
from nilr.report.numbers import Estimate, accuracy, joined, percent
from nilr.report.style import Figure, Frame, colour
from nilr.report.subjects import Subject
from nilr.results.probe import PermutationProbe

_READERS: Mapping[str, Style] = {"own-head": ("vermillion", "s"), "neighbours": ("blue", "o")}
_FIGURES = ("mean", "spread", "worst", "best")
_CAUTION = (
    "The mark is the mean over permutations with its interval; the thin line below it leads from the worst to the best "
    "permutation of each episode. Part of this range is chance, since an episode has few queries."
)


class Row(NamedTuple):
    """One model, or several seeds of one recipe, under one protocol and reader."""

    label: str
    protocol: str
    reader: str
    probes: Sequence[PermutationProbe]  # of each seed

    def estimate(self, figure: str) -> Estimate:
        """Return a figure of the probes."""
        return combined([getattr(probe, figure) for probe in self.probes])


def make(material: Material) -> Drawing | None:
    """Return the figure of all models that were probed with `--permutations`."""
    found = rows(material.subjects)
    if not found:
        return None
    return Drawing(lambda frame: draw(found, frame), sentence(found), table(found), _CAUTION)


KIND = Kind("permutations", "Permuted labels", "`nilr probe MODEL --permutations 20`", make)


def rows(subjects: Sequence[Subject]) -> list[Row]:
    """Return a row for each model or group of seeds, protocol and reader."""
    return [
        Row(label, protocol, reader, probes)
        for label, group in by_recipe([subject for subject in subjects if subject.probe.permutations])
        for protocol in ADAPTED
        for reader in _READERS
        if (probes := [of[protocol][reader] for p in group if reader in (of := p.permutations).get(protocol, {})])
    ]


def sentence(found: Sequence[Row]) -> str:
    """Return the spread over permutations, model by model."""
    return joined([_describe(row) for row in found])


def _describe(row: Row) -> str:
    worst, best = (percent(row.estimate(figure).mean) for figure in ("worst", "best"))
    return (
        f"{row.label}, {row.protocol}, {row.reader}: standard deviation over permutations of the labels "
        f"{100 * row.estimate('spread').mean:.2f} points, from {worst} with the worst to {best} with the best."
    )


def table(found: Sequence[Row]) -> Table:
    """Return a row for each model or group, protocol and reader."""
    cells = [
        (row.label, row.protocol, row.reader, str(len(row.probes)), *(accuracy(row.estimate(f)) for f in _FIGURES))
        for row in found
    ]
    return Table(("model", "protocol", "classified by", "seeds", *_FIGURES), cells)


def draw(found: Sequence[Row], frame: Frame) -> Figure:
    """Draw the mean over permutations on the range from the worst to the best."""
    figure = frame.figure(90 + 40 * len(found))
    axes = figure.subplots()
    for y, row in enumerate(found):
        ends = [100 * row.estimate(figure).mean for figure in ("worst", "best")]
        axes.plot(ends, (y + 0.2, y + 0.2), color=colour("muted"), linewidth=1, marker="|")
        draw_estimate(axes, row.estimate("mean"), y, _READERS[row.reader])
    name_rows(axes, [f"{frame.label(row.label)}\n{row.protocol}" for row in found])
    axes.set_xlabel("accuracy, %")
    style_legend(figure, _READERS, ncols=2)
    return figure
