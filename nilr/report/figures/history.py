"""The share of negative rates over training, of models whose history is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nilr.report.figures.figure import Drawing, History, Kind, Material, Table
from nilr.report.style import LINES, Frame, colour
from nilr.report.words import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_FEW = 3  # lines whose legend stands in one column
_POINTS = 250  # of a line that is 250 to 400 pixels wide
_CAUTION = "A dot marks the checkpoint that was judged."


def make(material: Material) -> Drawing | None:
    """Return the figure of all histories of learned rates."""
    found = material.histories
    if not found:
        return None
    return Drawing(lambda frame: draw(found, frame), sentence(found), table(found), _CAUTION)


KIND = Kind(
    "share-negative",
    "Negative rates over training",
    "a model that learns its rates (metasgd), trained in this store (--home): its history.jsonl is read",
    make,
)


def sentence(found: Sequence[History]) -> str:
    """Say where the share of negative rates ends, and in which layer it is largest."""
    last = {history.label: history.share_negative[-1] for history in found}
    if len(last) == 1:
        history = found[0]
        said = f"In {history.label} {percent(history.share_negative[-1])} of the rates are negative"
        said += (
            f" after {history.steps[-1]:,} updates, from {percent(history.share_negative[0])} at {history.steps[0]:,}"
        )
    else:
        low, high = min(last, key=last.__getitem__), max(last, key=last.__getitem__)
        said = (
            f"At the end of training between {percent(last[low])} ({low}) and {percent(last[high])} ({high}) of the "
            "rates are negative"
        )
    layers = {(h.label, name): shares[-1] for h in found for name, shares in h.by_layer.items() if shares}
    if layers:
        (label, layer), share = max(layers.items(), key=lambda item: item[1])
        where = f" of {label}" if len(found) > 1 else ""
        said += f"; most of all in {layer}{where} ({percent(share)})"
    return f"{said}."


def table(found: Sequence[History]) -> Table:
    """Return first, largest and last share, for each model and layer."""
    rows = []
    for history in found:
        for name, shares in {"all rates": history.share_negative, **history.by_layer}.items():
            rows.append((history.label, name, percent(shares[0], 2), percent(max(shares), 2), percent(shares[-1], 2)))
    return Table(("model", "layer", "first", "largest", "last"), rows)


def draw(found: Sequence[History], frame: Frame) -> Figure:
    """Draw the models beside one another; and a panel for the layers of each of which some were negative."""
    layered = [history for history in found if any(map(any, history.by_layer.values()))]
    columns = 1 if frame.narrow else 2
    deep = -(-(1 + len(layered)) // columns)
    figure = frame.figure(deep * 240 + 10)
    grid = figure.subplots(deep, columns if layered else 1, squeeze=False)
    axes = grid.flat[0]
    for history, (name, line) in zip(found, _cycled(len(found)), strict=True):
        label = frame.label(history.label)
        _plot(axes, history.steps, history.share_negative, color=colour(name), linestyle=line, label=label)
        judged = history.judged
        if judged is not None:
            nearest = min(range(len(history.steps)), key=lambda i: abs(history.steps[i] - judged))
            axes.plot(judged, 100 * history.share_negative[nearest], color=colour(name), marker="o", markersize=8)
    named = len(found) <= len(LINES)  # the names of more would hide their lines; the table has them
    _dress(axes, "all rates" if named else f"all rates, {len(found)} models", len(found))
    for axes, history in zip(grid.flat[1:], layered, strict=False):
        for (layer, shares), (name, line) in zip(history.by_layer.items(), _cycled(len(history.by_layer)), strict=True):
            _plot(axes, history.steps[-len(shares) :], shares, color=colour(name), linestyle=line, label=layer)
        _dress(axes, frame.label(history.label), len(history.by_layer))
    for axes in grid.flat[1 + len(layered) :]:
        axes.set_visible(False)
    return figure


def _plot(axes: Any, steps: Sequence[int], shares: Sequence[float], **style: Any) -> None:  # noqa: ANN401 - Axes
    """Draw no more points than a line can show, the last among them."""
    apart = max(1, -(-len(shares) // _POINTS))
    shown = slice((len(shares) - 1) % apart, None, apart)
    axes.plot(steps[shown], [100 * share for share in shares[shown]], **style)


def _cycled(n: int) -> list[tuple[str, Any]]:
    return [LINES[i % len(LINES)] for i in range(n)]


def _dress(axes: Any, title: str, lines: int) -> None:  # noqa: ANN401 - Axes
    axes.set_title(title)
    axes.set_xlabel("outer updates")
    axes.set_ylabel("negative rates, %")
    axes.set_ylim(bottom=0)
    if 1 < lines <= len(LINES):
        columns = 2 if lines > _FEW else 1
        rows = -(-lines // columns)
        axes.set_ylim(top=axes.get_ylim()[1] * (1 + rows / 8))  # room for the legend above the lines
        axes.legend(loc="upper left", ncols=columns, handlelength=2.4, columnspacing=1.0, labelspacing=0.2)
