"""The share of negative rates during training."""

from collections.abc import Sequence
from typing import Any

from nilr.report.figures.figure import History, Kind, Table
from nilr.report.numbers import percent
from nilr.report.style import LINES, Axes, Figure, Frame, colour
from nilr.words import counted

_COLUMN = 3  # entries in a legend of one column
_POINTS = 250  # of a line that is 250 to 400 pixels wide
_CAUTION = "A dot marks the checkpoint that the results evaluate."


def sentence(found: Sequence[History]) -> str:
    """Return the share of negative rates at the end, and the layer with the largest share."""
    last = {history.label: history.share_negative[-1] for history in found}
    low, high = min(last, key=last.__getitem__), max(last, key=last.__getitem__)
    if not any(any(history.share_negative) for history in found):
        return "No rate is negative at any time."
    if len(last) == 1:
        history = found[0]
        text = (
            f"In {history.label}, {percent(history.share_negative[-1])} of the rates are negative after "
            f"{counted(history.steps[-1], 'update')} ({percent(history.share_negative[0])} after {history.steps[0]:,})"
        )
    elif percent(last[low]) == percent(last[high]):
        text = f"At the end of training, {percent(last[low])} of the rates of each model are negative"
    else:
        text = (
            f"At the end of training, between {percent(last[low])} ({low}) and {percent(last[high])} ({high}) of the "
            "rates are negative"
        )
    layers = {(h.label, name): shares[-1] for h in found for name, shares in h.by_layer.items() if shares}
    if layers:
        (label, layer), share = max(layers.items(), key=lambda item: item[1])
    if layers and share > 0:
        of = f" of {label}" if len(found) > 1 else ""
        text += f". The layer with the largest share is {layer}{of} ({percent(share)})"
    return f"{text}."


def table(found: Sequence[History]) -> Table:
    """Return the first, the largest and the last share of each model and layer."""
    rows = []
    for history in found:
        for name, shares in {"all rates": history.share_negative, **history.by_layer}.items():
            rows.append((history.label, name, percent(shares[0], 2), percent(max(shares), 2), percent(shares[-1], 2)))
    return Table(("model", "layer", "first", "largest", "last"), rows)


def draw(found: Sequence[History], frame: Frame) -> Figure:
    """Draw a panel with all models, and a panel with the layers of each model that has negative rates."""
    layered = [history for history in found if any(map(any, history.by_layer.values()))]
    figure, panels, _ = frame.panels(1 + len(layered), 2, row=240, margin=10)
    for history, (name, line) in zip(found, _cycled(len(found)), strict=True):
        style = {"color": colour(name), "linestyle": line, "label": frame.label(history.label)}
        _plot(panels[0], history.steps, history.share_negative, **style)
        evaluated = history.evaluated
        if evaluated is not None:
            nearest = min(range(len(history.steps)), key=lambda i: abs(history.steps[i] - evaluated))
            share = 100 * history.share_negative[nearest]
            panels[0].plot(evaluated, share, color=colour(name), marker="o", markersize=8)
    # a legend of more models would cover their lines; the table names them
    title = "all rates" if len(found) <= len(LINES) else f"all rates, {len(found)} models"
    _finish(panels[0], title, len(found))
    for axes, history in zip(panels[1:], layered, strict=True):
        for (layer, shares), (name, line) in zip(history.by_layer.items(), _cycled(len(history.by_layer)), strict=True):
            _plot(axes, history.steps[-len(shares) :], shares, color=colour(name), linestyle=line, label=layer)
        _finish(axes, frame.label(history.label), len(history.by_layer))
    return figure


def _plot(axes: Axes, steps: Sequence[int], shares: Sequence[float], **style: Any) -> None:  # noqa: ANN401 - Line2D's
    """Draw no more points than a line can show, with the last one."""
    stride = max(1, -(-len(shares) // _POINTS))
    shown = slice((len(shares) - 1) % stride, None, stride)
    axes.plot(steps[shown], [100 * share for share in shares[shown]], **style)


def _cycled(n: int) -> list[tuple[str, Any]]:
    return [LINES[i % len(LINES)] for i in range(n)]


def _finish(axes: Axes, title: str, lines: int) -> None:
    """Add title, labels and a legend above the lines."""
    axes.set_title(title)
    axes.set_xlabel("outer updates")
    axes.set_ylabel("negative rates, %")
    axes.set_ylim(bottom=0)
    if 1 < lines <= len(LINES):
        columns = 2 if lines > _COLUMN else 1
        rows = -(-lines // columns)
        axes.set_ylim(top=axes.get_ylim()[1] * (1 + rows / 8))  # room for the legend
        axes.legend(loc="upper left", ncols=columns, handlelength=2.4, columnspacing=1.0, labelspacing=0.2)


KIND = Kind("share-negative", "Negative rates during training",
            "the `history.jsonl` of a model with learned rates (such as metasgd), trained in this store (`--home`)",
            lambda material: material.histories, draw, sentence, table, _CAUTION)  # fmt: skip
