"""What a section of a probe's result is, and what it is made from."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from nilr.config.base import ADAPTED, PROTOCOLS
from nilr.config.evaluation import ProbeSettings
from nilr.errors import UsageError
from nilr.probes.conditions import META_INIT, Condition, Quantity
from nilr.probes.readings import NeighbourAccuracy
from nilr.report.figures.figure import Kind
from nilr.results.probe import ModelProbe, ProbeMetrics
from nilr.results.records import Delta, Mean
from nilr.sections.values import Values
from nilr.words import as_flag

Cell = str | None
Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Request:
    """A probe's settings, resolved for one model."""

    settings: ProbeSettings
    # of the inner rates; the first is the main one, and `learned`, which differences refer to, is included
    edits: Sequence[str]
    rules: Sequence[str]  # of the neighbours; the first is the main one
    layers: Sequence[str]
    moved: Sequence[str]  # the layers, and the head, that the inner loop moves
    n_way: int
    inner_steps: int

    @property
    def conditions(self) -> dict[str, Condition]:
        """The conditions with the main edit, by protocol; meta-init is always included."""
        return {"meta-init": META_INIT} | {protocol: Condition(protocol, self.edits[0]) for protocol in self.adapted}

    @property
    def adapted(self) -> list[str]:
        """The requested protocols that adapt."""
        return [p for p in ADAPTED if self.settings.protocol in ("all", p)]

    def accuracy(self, condition: Condition, *, rule: str | None = None, layer: str | None = None) -> Quantity:
        """Return the neighbours' accuracy under a condition, by default with the main rule on the features."""
        return Quantity(condition, NeighbourAccuracy(rule or self.rules[0], self.settings.distance, layer))

    def accuracies(self, *, rule: str | None = None, layer: str | None = None) -> dict[str, Quantity]:
        """Return the same by protocol, with the main edit."""
        return {p: self.accuracy(condition, rule=rule, layer=layer) for p, condition in self.conditions.items()}


class Format(Protocol):
    """Formats fractions as cells of a table, for example in percent; None stays None."""

    def share(self, value: float | None) -> Cell: ...  # noqa: D102 - described by the class
    def mean(self, mean: Mean | None) -> Cell: ...  # noqa: D102
    def delta(self, delta: Delta | Mean | None) -> Cell: ...  # noqa: D102


@dataclass(frozen=True)
class Table:
    """Cells of text under a header; None is an unknown value. The first `names` columns hold names."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    names: int


def table_of(
    header: Sequence[str], cells: Callable[[ModelProbe, Format], Iterable[Sequence[Cell]]], *, names: int = 2
) -> Callable[[ProbeMetrics, Format], Table | None]:
    """Return what makes the terminal's table of a section from the rows of each model, which its name begins."""

    def make(metrics: ProbeMetrics, text: Format) -> Table | None:
        rows = [(name, *row) for name, model in metrics.items() for row in cells(model, text)]
        return Table(("model", *header), rows, names) if rows else None

    return make


@dataclass(frozen=True, eq=False)
class Section(Generic[Entry]):
    """One section of a probe's result."""

    field: str  # its name in `ModelProbe` and `per_episode`
    flag: str  # the setting that requests it
    # returns the quantities that it measures, in the layout of the result; empty if it is not requested
    plan: Callable[[Request], Mapping[str, Entry]]
    build: Callable[[Entry, Values], object]  # returns the result of one entry of the plan
    # returns its table for the terminal; None if no model has this section
    table: Callable[[ProbeMetrics, Format], Table | None]
    figure: Kind | None = None  # its figure in the report
    protocols: Sequence[str] = PROTOCOLS  # the protocols that it evaluates, at least one of which must be requested
    of_controls: bool = False  # whether controls have it too, as far as it needs no adaptation

    def entries(self, request: Request) -> dict[str, Entry]:
        """Return the plan of a model if the section is requested."""
        plan = self.plan(request) if getattr(request.settings, self.flag) else {}
        return {name: entry for name, entry in plan.items() if entry}

    def check(self, settings: ProbeSettings) -> None:
        """Check that the section can be measured; UsageError if none of its protocols is requested."""
        if getattr(settings, self.flag) and settings.protocol not in ("all", *self.protocols):
            raise UsageError(
                f"{as_flag(self.flag)} evaluates {' and '.join(self.protocols)}, and --protocol is {settings.protocol}",
                hint="omit --protocol",
            )
