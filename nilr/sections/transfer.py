"""`transfer`: the change of the evaluated loss, to first order by sign of the rates and by layer, and in fact."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nilr.config.base import ADAPTED
from nilr.probes.conditions import META_INIT, Condition, Quantity
from nilr.probes.readings import LossChange, PredictedLossChange
from nilr.report.figures.figure import Kind, Material, Table, draw_signs, name_rows, sign_legend
from nilr.report.numbers import NOTHING, bounds, interval_sign, listed, loss_change
from nilr.report.style import Axes, Figure, Frame, colour
from nilr.results.probe import LossParts, ModelProbe, TransferProbe
from nilr.results.records import Mean
from nilr.sections.section import Cell, Format, Request, Section, table_of
from nilr.sections.values import Values, mean_of
from nilr.words import counted

Tree = Mapping[str, Any]
"""Quantities in the layout of `TransferProbe`."""


def _plan(request: Request) -> dict[str, Tree]:
    """Return by protocol."""

    def predicted(condition: Condition, where: str) -> dict[str, Quantity]:
        return {
            "predicted": Quantity(condition, PredictedLossChange(None, where)),
            "predicted_positive": Quantity(condition, PredictedLossChange("positive", where)),
            "predicted_negative": Quantity(condition, PredictedLossChange("negative", where)),
        }

    return {
        protocol: {
            **predicted(condition, "all"),
            "actual": Quantity(condition, LossChange()),
            "parts": {where: predicted(condition, where) for where in ("body", *request.layers, "head")},
        }
        for protocol, condition in request.conditions.items()
        if condition != META_INIT
    }


def _build(tree: Tree, values: Values) -> TransferProbe:
    def means(branch: Any) -> Any:  # noqa: ANN401 - quantities, as deep as they are
        if isinstance(branch, Quantity):
            return mean_of(values[branch])
        return {name: means(below) for name, below in branch.items()}

    return TransferProbe.model_validate(means(tree))


def _cells(model: ModelProbe, _text: Format) -> Iterator[Sequence[Cell]]:
    for protocol, found in model.transfer.items():
        for where, change in {"all": found, **found.parts}.items():
            predicted = (change.predicted, change.predicted_positive, change.predicted_negative)
            yield protocol, where, *map(loss_change, predicted), loss_change(found.actual) if where == "all" else None


_TABLE = table_of(("protocol", "part", "predicted loss", "by rates > 0", "by rates < 0", "actual"), _cells, names=3)


_FEW = 3  # models that a sentence names
_CAUTION = (
    "Bars are the change that the loss's gradient at the meta-initialisation predicts; below zero, the loss falls. "
    "Compare their sum with the actual change to see how far first order holds. In cross-task, read the body: the "
    "labels of two tasks have nothing in common, so the head's part says nothing about features."
)


@dataclass(frozen=True)
class Transfer:
    """One model under one protocol."""

    label: str
    protocol: str
    found: TransferProbe

    @property
    def rows(self) -> dict[str, LossParts]:
        """All elements, and each part of the network."""
        return {"all": self.found, **self.found.parts}


def transfers(material: Material) -> list[Transfer]:
    """Return the changes, by model and protocol."""
    return [
        Transfer(s.label, protocol, found) for s in material.subjects for protocol, found in s.probe.transfer.items()
    ]


def sentence(found: Sequence[Transfer]) -> str:
    """Describe, for each protocol, how the steps of negative rates in the body change the loss to first order."""
    return " ".join(
        _effect(protocol, {one.label: one.found.parts["body"].predicted_negative for one in of_protocol})
        for protocol in ADAPTED
        if (of_protocol := [one for one in found if one.protocol == protocol and "body" in one.found.parts])
    )


def _effect(protocol: str, changes: dict[str, Mean]) -> str:
    moved = {label: change for label, change in changes.items() if bounds(change) != (0, 0)}
    if not moved:
        return f"{protocol.capitalize()}: no negative rate moves the body."
    head = f"{protocol.capitalize()}: to first order, negative rates in the body"
    if len(moved) <= _FEW:
        parts = [f"{loss_change(change)} in {label}" for label, change in moved.items()]
        return f"{head} change the evaluated loss by {listed(parts)} (below zero, it falls)."
    signs = [interval_sign(change) for change in moved.values()]
    return (
        f"{head} lower the evaluated loss in {signs.count(-1)} of {counted(len(moved), 'model')} and raise it in "
        f"{signs.count(1)}; in {signs.count(0)} the interval includes zero."
    )


def table(found: Sequence[Transfer]) -> Table:
    """Return a row for each model, protocol and part of the network."""
    rows = [
        (
            one.label,
            one.protocol,
            where,
            *map(loss_change, (change.predicted, change.predicted_positive, change.predicted_negative)),
            loss_change(one.found.actual) if where == "all" else NOTHING,
        )
        for one in found
        for where, change in one.rows.items()
    ]
    header = ("model", "protocol", "part", "predicted change of loss", "by rates > 0", "by rates < 0", "actual change")
    return Table(header, rows)


def draw(found: Sequence[Transfer], frame: Frame) -> Figure:
    """Draw, for each model and protocol, the change by positive and by negative rates: the network's, the body's."""
    from matplotlib.lines import Line2D

    longest = max(len(one.rows) for one in found)
    figure, panels, _ = frame.panels(2 * len(found), 2, row=66 + 26 * longest, margin=34)
    for i, one in enumerate(found):
        network, body = panels[2 * i : 2 * i + 2]
        network.set_title(frame.title(f"{one.label}, {one.protocol}", 2))
        body.set_title("its body")
        whole = {name: change for name, change in one.rows.items() if name in ("all", "head")}
        _panel(network, whole)
        network.plot(one.found.actual.mean, 0, marker="D", color=colour("ink"), linestyle="none")
        _panel(body, {name: change for name, change in one.rows.items() if name not in whole})
    actual = Line2D([], [], color=colour("ink"), marker="D", linestyle="none", label="actual")
    sign_legend(figure, actual)
    return figure


def _panel(axes: Axes, rows: Mapping[str, LossParts]) -> None:
    from matplotlib.ticker import MaxNLocator

    for y, change in enumerate(rows.values()):
        draw_signs(axes, {"positive": change.predicted_positive, "negative": change.predicted_negative}, y)
    axes.axvline(0, color=colour("muted"), linewidth=1.2)
    name_rows(axes, list(rows))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.set_xlabel("change of the loss, nats")


KIND = Kind("transfer", "First-order transfer", "`nilr probe MODEL --transfer`",
            transfers, draw, sentence, table, _CAUTION, lambda found: len(found) <= 2)  # fmt: skip
SECTION = Section("transfer", "transfer", _plan, _build, _TABLE, KIND, ADAPTED)
