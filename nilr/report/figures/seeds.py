"""Several seeds side by side: each seed's difference, and what they say together."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nilr.inference import LEAST_SEEDS, SeedInference, over_seeds
from nilr.report.figures.figure import Drawing, Kind, Material, Table, quiet_spines
from nilr.report.figures.protocols import interval
from nilr.report.style import PROTOCOL_STYLE, Frame, colour
from nilr.report.subjects import ADAPTED, Measure, Subject, groups
from nilr.report.words import p_value, points, signed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CAUTION = (
    "Each seed counts once. The wide bar is a 95 % t interval over seeds, with one degree of freedom less than seeds; "
    "under three seeds the verdict is always undecided. Episodes of several seeds are never pooled."
)


@dataclass(frozen=True)
class Row:
    """One group of seeds under one protocol.

    Attributes:
        label: the algorithm; where several recipes have it, what the names of the models share.
        names: the models'.
        protocol: same-task or cross-task.
        seeds: each seed's difference.
        together: what they say.
    """

    label: str
    names: Sequence[str]
    protocol: str
    seeds: Sequence[Measure]
    together: SeedInference


def make(material: Material) -> Drawing | None:
    """Return the figure of all groups of at least two seeds."""
    found = rows(material.subjects)
    if not found:
        return None
    return Drawing(lambda frame: draw(found, frame), sentence(found), table(found), _CAUTION)


KIND = Kind(
    "seeds",
    "Over seeds",
    "probe results of models that differ in nothing but `meta-train --seed`, three or more for a verdict",
    make,
)


def rows(subjects: Sequence[Subject]) -> list[Row]:
    """Return what each group of two or more seeds says, protocol by protocol."""
    found = []
    several = [group for group in groups(subjects) if len(group) > 1]
    for group, label in zip(several, _labels(several), strict=True):
        for protocol in ADAPTED:
            deltas = {s.label: d for s in group if protocol in s.cells and (d := s.cells[protocol].delta)}
            if len(deltas) > 1:
                together = over_seeds([delta.mean for delta in deltas.values()])
                found.append(Row(label, list(deltas), protocol, list(deltas.values()), together))
    return found


def _labels(several: Sequence[Sequence[Subject]]) -> list[str]:
    """Return what each group is called: its algorithm, or what its models' names share where several have that one."""
    algorithms = [str(group[0].used.get("algo")) for group in several]
    shared = short_names([[str(subject.used.get("name")) for subject in group] for group in several])
    labels = [
        name if name and algorithms.count(algorithm) > 1 else algorithm
        for name, algorithm in zip(shared, algorithms, strict=True)
    ]
    return [
        label if labels.count(label) == 1 else f"{label} {labels[: i + 1].count(label)}"
        for i, label in enumerate(labels)
    ]


def short_names(several: Sequence[Sequence[str]]) -> list[str]:
    """Return what the names of each group share, less a word before a hyphen with which all groups begin.

    `demo-maml-s0`, `demo-maml-s1` and `demo-maml-1step-s0`, `demo-maml-1step-s1` are `maml` and `maml-1step`.
    """
    shared = [re.sub(r"[-_.](s|seed)?\d*[-_.]?$", "", _common(group)) for group in several]
    start = _common(shared)
    start = start[: start.rfind("-") + 1]
    return [name.removeprefix(start) for name in shared]


def _common(names: Sequence[str]) -> str:
    """Return the longest text with which all of them begin."""
    alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in alike)


def sentence(found: Sequence[Row]) -> str:
    """Say the verdict on each group, with the spread between seeds."""
    parts = []
    for row in found:
        together = row.together
        few = f", too few seeds for a verdict (at least {LEAST_SEEDS})" if together.n < LEAST_SEEDS else ""
        parts.append(
            f"{row.label} {row.protocol}, {together.n} seeds: {points(_measure(together))} points, with a spread of "
            f"{100 * (together.spread or 0):.2f} between seeds: {together.verdict}{few}"
        )
    return "; ".join(parts) + "."


def table(found: Sequence[Row]) -> Table:
    """Return the numbers."""
    header = ("models of", "protocol", "each seed, points", "mean over seeds", "spread", "p", "verdict", "models")
    return Table(
        header,
        [
            (
                row.label,
                row.protocol,
                ", ".join(signed(100 * seed.mean) for seed in row.seeds),
                points(_measure(row.together)),
                f"{100 * (row.together.spread or 0):.2f}",
                p_value(row.together.p),
                row.together.verdict,
                ", ".join(row.names),
            )
            for row in found
        ],
    )


def draw(found: Sequence[Row], frame: Frame) -> Figure:
    """Draw the seeds as small marks, and their mean with its interval over seeds below them."""
    figure = frame.figure(64 + 62 * len(found))
    axes = figure.subplots()
    quiet_spines(axes)
    for y, row in enumerate(found):
        name, marker = PROTOCOL_STYLE[row.protocol]
        step = 0.4 / len(row.seeds)
        for i, seed in enumerate(row.seeds):
            interval(axes, seed, y - 0.34 + i * step, (name, marker))
        together = _measure(row.together)
        if together.low is not None and together.high is not None:
            bar: dict[str, Any] = {"linewidth": 7, "alpha": 0.4, "solid_capstyle": "butt"}
            axes.plot((100 * together.low, 100 * together.high), (y + 0.25, y + 0.25), color=colour(name), **bar)
        axes.plot(100 * together.mean, y + 0.25, marker="|", markersize=15, markeredgewidth=2.4, color=colour("ink"))
    axes.axvline(0, color=colour("muted"), linewidth=1.2)
    labels = [f"{frame.label(row.label)}\n{row.protocol}" for row in found]
    axes.set_yticks(range(len(found)), labels)
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlabel("difference to meta-init, points")
    return figure


def _measure(together: SeedInference) -> Measure:
    if together.ci95 is None:
        return Measure(together.mean, None, None)
    return Measure(together.mean, together.mean - together.ci95, together.mean + together.ci95)
