"""`permutations`: how much adaptation depends on which label each class of an episode has.

Ye, Chao: How to Train Your MAML to Excel in Few-Shot Classification, 2022 (UNICORN-MAML).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from nilr.config.base import ADAPTED
from nilr.probes.conditions import Condition, Quantity
from nilr.probes.readings import HeadAccuracy
from nilr.probes.tasks import draw_permutations
from nilr.report.figures.figure import Kind, Material, Style, Table, draw_estimate, name_rows, style_legend
from nilr.report.figures.seeds import by_recipe, combined
from nilr.report.numbers import Estimate, accuracy, joined, percent
from nilr.report.style import Figure, Frame, colour
from nilr.results.probe import ModelProbe, PermutationProbe
from nilr.sections.section import Cell, Format, Request, Section, table_of
from nilr.sections.values import Values, mean_of

Readers = dict[str, dict[str, Quantity]]
"""Quantities by who classifies, `neighbours` or `own-head`, and permutation."""


def _plan(request: Request) -> dict[str, Readers]:
    """Return by protocol; the head is never evaluated in cross-task, since it distinguishes the classes of A."""
    identity, *others = draw_permutations(request.n_way, request.settings.permutations or 0, request.settings.seed)

    def permuted(condition: Condition) -> dict[str, Condition]:
        changed = {permutation: replace(condition, permutation=permutation) for permutation in others}
        found = {identity: condition, **changed}
        return {"-".join(map(str, permutation)): one for permutation, one in found.items()}

    plan: dict[str, Readers] = {}
    for protocol in request.adapted:
        conditions = permuted(request.conditions[protocol])
        plan[protocol] = {"neighbours": {name: request.accuracy(one) for name, one in conditions.items()}}
        if protocol == "same-task":
            plan[protocol]["own-head"] = {name: Quantity(one, HeadAccuracy()) for name, one in conditions.items()}
    return plan


def _build(readers: Readers, values: Values) -> dict[str, PermutationProbe]:
    return {reader: _spread(entry, values) for reader, entry in readers.items()}


def _spread(entry: Mapping[str, Quantity], values: Values) -> PermutationProbe:
    accuracies = torch.stack([values[quantity] for quantity in entry.values()])
    return PermutationProbe(
        mean=mean_of(accuracies.mean(0)),
        spread=mean_of(accuracies.std(0, correction=1)),
        best=mean_of(accuracies.amax(0)),
        worst=mean_of(accuracies.amin(0)),
    )


def _cells(model: ModelProbe, text: Format) -> Iterator[Sequence[Cell]]:
    for protocol, readers in model.permutations.items():
        for reader, found in readers.items():
            yield protocol, reader, *map(text.mean, (found.mean, found.spread, found.worst, found.best))


_TABLE = table_of(("protocol", "classified by", "mean over labels", "spread", "worst", "best"), _cells, names=3)


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


def rows(material: Material) -> list[Row]:
    """Return a row for each model or group of seeds, protocol and reader."""
    return [
        Row(label, protocol, reader, probes)
        for label, group in by_recipe([subject for subject in material.subjects if subject.probe.permutations])
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
    labels = [f"{frame.label(row.label)}\n{row.protocol}" for row in found]
    figure = frame.figure(90 + frame.rows(labels, 40))
    axes = figure.subplots()
    for y, row in enumerate(found):
        ends = [100 * row.estimate(figure).mean for figure in ("worst", "best")]
        axes.plot(ends, (y + 0.2, y + 0.2), color=colour("muted"), linewidth=1, marker="|")
        draw_estimate(axes, row.estimate("mean"), y, _READERS[row.reader])
    name_rows(axes, labels)
    axes.set_xlabel("accuracy, %")
    style_legend(figure, _READERS, ncols=2)
    return figure


KIND = Kind("permutations", "Permuted labels", "`nilr probe MODEL --permutations 20`",
            rows, draw, sentence, table, _CAUTION)  # fmt: skip
SECTION = Section("permutations", "permutations", _plan, _build, _TABLE, KIND, ADAPTED)
