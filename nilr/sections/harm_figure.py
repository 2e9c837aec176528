"""The shares of episodes that adaptation harms and helps, beyond chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nilr.config.base import ADAPTED
from nilr.report.figures.figure import Drawing, Kind, Material, Style, Table, draw_estimate, name_rows, style_legend
from nilr.report.figures.seeds import by_recipe, combined
from nilr.report.numbers import Estimate, joined, percent, points
from nilr.report.style import Figure, Frame, colour
from nilr.report.subjects import Subject
from nilr.results.probe import EpisodeShare, HarmProbe

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


def make(material: Material) -> Drawing | None:
    """Return the figure of all models that were probed with `--harm`."""
    found = rows(material.subjects)
    if not found:
        return None
    return Drawing(lambda frame: draw(found, frame), sentence(found), table(found), _CAUTION)


KIND = Kind("harm", "Episodes that adaptation harms", "`nilr probe MODEL --harm`", make)


def rows(subjects: Sequence[Subject]) -> list[Row]:
    """Return a row for each model or group of seeds and protocol."""
    return [
        Row(label, protocol, probes)
        for label, group in by_recipe([subject for subject in subjects if subject.probe.harm])
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
    figure = frame.figure(90 + 40 * len(found))
    axes = figure.subplots()
    for y, row in enumerate(found):
        for offset, (outcome, style) in zip((-0.15, 0.15), _OUTCOMES.items(), strict=True):
            draw_estimate(axes, row.estimate(outcome, "excess"), y + offset, style)
    axes.axvline(0, color=colour("muted"), linewidth=1.2)
    name_rows(axes, [f"{frame.label(row.label)}\n{row.protocol}" for row in found])
    axes.set_xlabel("share of episodes beyond chance, points")
    style_legend(figure, _OUTCOMES, ncols=2)
    return figure
