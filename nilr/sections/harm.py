"""`harm`: the episodes that adaptation harms, beyond what chance in single queries gives.

Deleu, Bengio: The Effects of Negative Adaptation in Model-Agnostic Meta-Learning, 2018.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from torch import Tensor

from nilr.config.base import ADAPTED
from nilr.inference import outcomes_by_chance
from nilr.probes.conditions import Quantity
from nilr.probes.readings import NeighbourAccuracy, TurnedQueries
from nilr.report.figures.figure import Kind, Material, Style, Table, draw_estimate, name_rows, style_legend
from nilr.report.figures.seeds import by_recipe, combined
from nilr.report.numbers import Estimate, joined, percent, points
from nilr.report.style import Figure, Frame, colour
from nilr.results.probe import EpisodeShare, HarmProbe, ModelProbe
from nilr.sections.section import Cell, Format, Request, Section, table_of
from nilr.sections.values import Values, mean_of


def _plan(request: Request) -> dict[str, dict[str, Quantity]]:
    """Return by protocol: the queries that turn to right and to wrong."""
    accuracy = NeighbourAccuracy(request.rules[0], request.settings.distance)
    readings = {"turned-right": TurnedQueries(accuracy, "right"), "turned-wrong": TurnedQueries(accuracy, "wrong")}
    return {
        protocol: {name: Quantity(request.conditions[protocol], reading) for name, reading in readings.items()}
        for protocol in request.adapted
    }


def _build(entry: Mapping[str, Quantity], values: Values) -> HarmProbe:
    right, wrong = (values[quantity] for quantity in entry.values())
    most, tie = outcomes_by_chance(right + wrong)
    return HarmProbe(
        turned_right=mean_of(right),
        turned_wrong=mean_of(wrong),
        harmed=_share(wrong > right, most),
        helped=_share(wrong < right, most),
        unchanged=_share(wrong == right, tie),
    )


def _share(found: Tensor, chance: Tensor) -> EpisodeShare:
    """Compare whether episodes have an outcome with their probability by chance, both (n_episodes,)."""
    return EpisodeShare(share=mean_of(found.double()), chance=mean_of(chance), excess=mean_of(found.double() - chance))


def _cells(model: ModelProbe, text: Format) -> Iterator[Sequence[Cell]]:
    for protocol, found in model.harm.items():
        shares = (found.harmed, found.helped)
        figures = ((text.share(s.share.mean), text.share(s.chance.mean), text.delta(s.excess)) for s in shares)
        yield protocol, *chain.from_iterable(figures)


_TABLE = table_of(("protocol", "episodes harmed", "by chance", "excess", "helped", "by chance", "excess"), _cells)


_OUTCOMES: Mapping[str, Style] = {"harmed": ("vermillion", "v"), "helped": ("blue", "^")}
_CAUTION = (
    "By chance, each query whose classification changes turns to right or wrong with probability 1/2, independently. "
    "Queries of an episode turn together, because they share the support and the step; then more episodes are harmed "
    "and more are helped than by chance."
)


@dataclass(frozen=True)
class Row:
    """One model, or several seeds of one recipe, under one protocol."""

    label: str
    protocol: str
    probes: Sequence[HarmProbe]  # of each seed

    def estimate(self, outcome: str, figure: str) -> Estimate:
        """Return a figure of an outcome: `share`, `chance` or `excess`."""
        shares: list[EpisodeShare] = [getattr(probe, outcome) for probe in self.probes]
        return combined([getattr(share, figure) for share in shares])


def rows(material: Material) -> list[Row]:
    """Return a row for each model or group of seeds and protocol."""
    return [
        Row(label, protocol, probes)
        for label, group in by_recipe([subject for subject in material.subjects if subject.probe.harm])
        for protocol in ADAPTED
        if (probes := [probe.harm[protocol] for probe in group if protocol in probe.harm])
    ]


def sentence(found: Sequence[Row]) -> str:
    """Return the shares of harmed and helped episodes, model by model."""
    return joined([_describe(row) for row in found])


def _describe(row: Row) -> str:
    if all(probe.unchanged.share.mean == 1 for probe in row.probes):
        return f"{row.label}, {row.protocol}: accuracy changes in no episode."
    parts = [
        f"{outcome} {percent(row.estimate(outcome, 'share').mean)} of the episodes, "
        f"{points(row.estimate(outcome, 'excess'))} points compared with chance"
        for outcome in _OUTCOMES
    ]
    return f"{row.label}, {row.protocol}: {'; '.join(parts)}."


def table(found: Sequence[Row]) -> Table:
    """Return a row for each model or group and protocol."""
    cells = [
        (
            row.label,
            row.protocol,
            str(len(row.probes)),
            *(
                cell
                for outcome in (*_OUTCOMES, "unchanged")
                for cell in (
                    percent(row.estimate(outcome, "share").mean),
                    percent(row.estimate(outcome, "chance").mean),
                    points(row.estimate(outcome, "excess")),
                )
            ),
        )
        for row in found
    ]
    outcomes = [f"{o}{rest}" for o in (*_OUTCOMES, "unchanged") for rest in ("", " by chance", " excess, points")]
    return Table(("model", "protocol", "seeds", *outcomes), cells)


def draw(found: Sequence[Row], frame: Frame) -> Figure:
    """Draw the excess of both outcomes over chance, with intervals."""
    labels = [f"{frame.label(row.label)}\n{row.protocol}" for row in found]
    figure = frame.figure(90 + frame.rows(labels, 40))
    axes = figure.subplots()
    for y, row in enumerate(found):
        for offset, (outcome, style) in zip((-0.15, 0.15), _OUTCOMES.items(), strict=True):
            draw_estimate(axes, row.estimate(outcome, "excess"), y + offset, style)
    axes.axvline(0, color=colour("muted"), linewidth=1.2)
    name_rows(axes, labels)
    axes.set_xlabel("share of episodes beyond chance, points")
    style_legend(figure, _OUTCOMES, ncols=2)
    return figure


KIND = Kind("harm", "Episodes that adaptation harms", "`nilr probe MODEL --harm`",
            rows, draw, sentence, table, _CAUTION)  # fmt: skip
SECTION = Section("harm", "harm", _plan, _build, _TABLE, KIND, ADAPTED)
