"""How adaptation changes the evaluated loss: to first order by sign of the rates and by layer, and in fact."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nilr.config.base import ADAPTED
from nilr.report.figures.figure import Drawing, Kind, Material, Table, draw_signs, name_rows, sign_legend
from nilr.report.numbers import NOTHING, bounds, interval_sign, listed, loss_change
from nilr.report.style import Axes, Figure, Frame, colour
from nilr.report.subjects import Subject
from nilr.results.probe import LossParts, TransferProbe
from nilr.results.records import Mean
from nilr.words import counted

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


def make(material: Material) -> Drawing | None:
    """Return the figure of all models that have these changes."""
    found = transfers(material.subjects)
    if not found:
        return None
    return Drawing(lambda frame: draw(found, frame), sentence(found), table(found), _CAUTION, open=len(found) <= 2)


KIND = Kind("transfer", "First-order transfer", "`nilr probe MODEL --transfer`", make)


def transfers(subjects: Sequence[Subject]) -> list[Transfer]:
    """Return the changes, by model and protocol."""
    return [Transfer(s.label, protocol, found) for s in subjects for protocol, found in s.probe.transfer.items()]


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
        network.set_title(f"{frame.label(one.label)}, {one.protocol}")
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
