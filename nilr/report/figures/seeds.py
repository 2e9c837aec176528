"""Several seeds: each seed's difference, and the inference over all of them."""

import itertools
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from nilr.claims.over_seeds import adjusted, combine_seeds, direction
from nilr.config.base import ADAPTED
from nilr.inference import LEAST_SEEDS, over_seeds
from nilr.report.figures.figure import Kind, Table, draw_interval, name_rows
from nilr.report.numbers import Estimate, bounds, is_unchanged, p_value, percent, points
from nilr.report.style import PROTOCOL_STYLE, Figure, Frame, colour
from nilr.report.subjects import Subject, by_protocol, groups
from nilr.results.probe import ModelProbe
from nilr.results.records import Delta, ModelUsed
from nilr.results.reproduce import OverSeeds
from nilr.words import counted, signed

_CAUTION = (
    "Each seed counts once; episodes of different seeds are never pooled. The wide bar is the 95 % interval for new "
    "seeds (Student's t, seeds - 1 degrees of freedom), the thin line that for new seeds and new classes (crossed "
    "random effects); where there is one, it decides. Verdicts are exploratory, with Holm's correction for this table; "
    "with fewer than three seeds they are always undecided. Gains from different levels before adaptation do not "
    "compare; the levels after it do."
)

_FEW = 4  # rows that a sentence names


@dataclass(frozen=True)
class Row:
    """A group of seeds under one protocol."""

    label: str  # the algorithm; if several groups have that algorithm, the common part of the models' names
    protocol: str  # same-task or cross-task
    deltas: dict[str, Delta]  # each seed's difference, by model
    before: float  # mean accuracy over seeds before adaptation
    together: OverSeeds  # the inference over seeds

    @property
    def verdict(self) -> str:
        """Whether the mean is positive or negative, with p corrected for all rows, or undecided."""
        return {1: "positive", -1: "negative", 0: "undecided"}[direction(self.together)]

    @property
    def levels(self) -> str:
        """The mean accuracy before and after adaptation."""
        return f"{100 * self.before:.1f} to {percent(self.before + self.together.mean)}"


def rows(subjects: Sequence[Subject]) -> list[Row]:
    """Return a row for each protocol and group of two or more seeds."""
    found = []
    several = [group for group in groups(subjects) if len(group) > 1]
    labels = group_labels([[model for _, model in group] for group in several])
    for group, label in zip(several, labels, strict=True):
        for protocol in ADAPTED:
            measured = {s.label: by_protocol(s.probe).get(protocol) for s, _ in group}
            deltas = {name: metrics.delta for name, metrics in measured.items() if metrics and metrics.delta}
            if len(deltas) > 1:
                before = statistics.fmean(s.probe.meta_init.accuracy.mean for s, _ in group if s.label in deltas)
                together = combine_seeds(
                    {name: delta.mean for name, delta in deltas.items()},
                    [s.episodes.delta(protocol) if s.episodes else None for s, _ in group],
                    protocol,
                )
                found.append(Row(label, protocol, deltas, before, together))
    corrected = adjusted([row.together for row in found])
    return [replace(row, together=together) for row, together in zip(found, corrected, strict=True)]


def by_recipe(subjects: Sequence[Subject]) -> list[tuple[str, list[ModelProbe]]]:
    """Return label and probes of each group of seeds; a single seed has the label of its subject."""
    found = groups(subjects)
    names = iter(group_labels([[model for _, model in group] for group in found if len(group) > 1]))
    return [
        (next(names) if len(group) > 1 else group[0][0].label, [subject.probe for subject, _ in group])
        for group in found
    ]


def combined(estimates: Sequence[Estimate]) -> Estimate:
    """Return the estimate of one model with its own interval, or the mean of several with that over seeds."""
    return estimates[0] if len(estimates) == 1 else over_seeds([estimate.mean for estimate in estimates])


def group_labels(several: Sequence[Sequence[ModelUsed]]) -> list[str]:
    """Return a label for each group of seeds: its algorithm, or the common part of its models' names."""
    algorithms = [group[0].algo for group in several]
    shared = short_names([[model.name for model in group] for group in several])
    labels = [
        name if name and algorithms.count(algorithm) > 1 else algorithm
        for name, algorithm in zip(shared, algorithms, strict=True)
    ]
    return [
        label if labels.count(label) == 1 else f"{label} {labels[: i + 1].count(label)}"
        for i, label in enumerate(labels)
    ]


def short_names(several: Sequence[Sequence[str]]) -> list[str]:
    """Return the common start of each group's names, without the first words if all groups begin with them.

    `demo-maml-s0`, `demo-maml-s1` and `demo-maml-1step-s0`, `demo-maml-1step-s1` become `maml` and `maml-1step`.
    """
    shared = [re.sub(r"[-_.](s|seed)?\d*[-_.]?$", "", _common(group)) for group in several]
    start = _common(shared)
    start = start[: start.rfind("-") + 1]
    return [name.removeprefix(start) for name in shared]


def _common(names: Sequence[str]) -> str:
    """Return the longest text that all names begin with."""
    alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in alike)


def sentence(found: Sequence[Row]) -> str:
    """Return the verdict on each group, with the standard deviation between seeds."""
    parts = []
    for row in found:
        together, seeds = row.together, counted(row.together.n_seeds, "seed")
        if all(map(is_unchanged, row.deltas.values())):
            parts.append(f"{row.label}, {row.protocol}, {seeds}: accuracy changes in no episode")
            continue
        few = f" (a verdict needs at least {LEAST_SEEDS} seeds)" if together.n_seeds < LEAST_SEEDS else ""
        parts.append(
            f"{row.label}, {row.protocol}, {seeds}: from {row.levels}, {points(together)} points"
            f"{_of_new_classes(together)}, standard deviation {100 * (together.spread or 0):.2f}, {row.verdict}{few}"
        )
    more = len(parts) - _FEW
    rest = [f"the table has {counted(more, 'more row')}"] if more > 0 else []
    return "; ".join([*parts[:_FEW], *rest]) + "."


def _of_new_classes(together: OverSeeds) -> str:
    classes = together.new_classes
    return "" if classes is None else f" (± {100 * classes.ci95:.2f} for new classes too)"


def table(found: Sequence[Row]) -> Table:
    """Return a row for each group and protocol."""
    header = (
        "group",
        "protocol",
        "accuracy before to after",
        "delta of each seed, points",
        "mean, new seeds, points",
        "mean, new seeds and classes, points",
        "standard deviation",
        "p (Holm)",
        "verdict",
        "models",
    )
    rows = [
        (
            row.label,
            row.protocol,
            row.levels,
            ", ".join(signed(100 * delta.mean) for delta in row.deltas.values()),
            points(row.together),
            points(row.together.new_classes),
            f"{100 * (row.together.spread or 0):.2f}",
            p_value(row.together.p_holm),
            row.verdict,
            ", ".join(row.deltas),
        )
        for row in found
    ]
    return Table(header, rows)


def draw(found: Sequence[Row], frame: Frame) -> Figure:
    """Draw the seeds as small markers, and below them their mean with its interval over seeds."""
    labels = [f"{frame.label(row.label)}\n{row.protocol}\n{row.levels}" for row in found]
    figure = frame.figure(64 + frame.rows(labels, 62))
    axes = figure.subplots()
    for y, row in enumerate(found):
        for i, delta in enumerate(row.deltas.values()):
            draw_interval(axes, delta, y - 0.34 + i * 0.4 / len(row.deltas), row.protocol)
        if interval := bounds(row.together):
            bar: dict[str, Any] = {"linewidth": 7 * frame.scale, "alpha": 0.4, "solid_capstyle": "butt"}
            name, _ = PROTOCOL_STYLE[row.protocol]
            axes.plot([100 * bound for bound in interval], (y + 0.25, y + 0.25), color=colour(name), **bar)
        if row.together.new_classes and (interval := bounds(row.together.new_classes)):
            axes.plot([100 * bound for bound in interval], (y + 0.25, y + 0.25), color=colour("ink"), linewidth=1.2)
        mean = 100 * row.together.mean
        axes.plot(
            mean,
            y + 0.25,
            marker="|",
            markersize=15 * frame.scale,
            markeredgewidth=2.4 * frame.scale,
            color=colour("ink"),
        )
    axes.axvline(0, color=colour("muted"), linewidth=1.2)
    name_rows(axes, labels)
    axes.set_xlabel("delta to meta-init, points")
    return figure


KIND = Kind("seeds", "Over seeds",
            "results of `probe` for models that differ only in `meta-train --seed`, at least three for a verdict",
            lambda material: rows(material.subjects), draw, sentence, table, _CAUTION)  # fmt: skip
