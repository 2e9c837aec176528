"""`harm`: the episodes that adaptation harms, beyond what chance in single queries gives.

Deleu, Bengio: The Effects of Negative Adaptation in Model-Agnostic Meta-Learning, 2018.
"""

from collections.abc import Mapping

from torch import Tensor

from nilr.config.base import ADAPTED
from nilr.inference import outcomes_by_chance
from nilr.probes.conditions import Quantity
from nilr.probes.readings import NeighbourAccuracy, TurnedQueries
from nilr.results.probe import EpisodeShare, HarmProbe, ProbeMetrics
from nilr.sections import harm_figure
from nilr.sections.section import Format, Request, Section, Table
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


def _table(metrics: ProbeMetrics, text: Format) -> Table | None:
    """Return a row for each model and protocol."""

    def cells(one: EpisodeShare) -> tuple[str | None, ...]:
        return text.share(one.share.mean), text.share(one.chance.mean), text.delta(one.excess)

    rows = [
        (name, protocol, *cells(found.harmed), *cells(found.helped))
        for name, model in metrics.items()
        for protocol, found in model.harm.items()
    ]
    header = ("model", "protocol", "episodes harmed", "by chance", "excess", "helped", "by chance", "excess")
    return Table(header, rows, names=2) if rows else None


SECTION = Section("harm", "harm", _plan, _build, _table, harm_figure.KIND, ADAPTED)
