"""Trainings: loss and validation, and the share of negative rates."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from nilr.report.figures.figure import History, Kind, Table, draw_chance
from nilr.report.figures.seeds import short_names
from nilr.report.numbers import NOTHING, percent
from nilr.report.style import LINES, Axes, Figure, Frame, colour
from nilr.words import counted

_COLUMN = 3  # entries in a legend of one column
_FEW = 3  # models that a sentence names
_POINTS = 250  # of a line that is 250 to 400 pixels wide
_CAUTION = "A dot marks the checkpoint that the results evaluate. Layers are those of the first of several seeds."


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
    """Draw a panel with all models, and one with the layers of each recipe with negative rates."""
    layered, drawn = [], set()
    for history in found:  # the first one of several seeds
        if any(map(any, history.by_layer.values())) and (history.recipe or history.label) not in drawn:
            layered.append(history)
            drawn.add(history.recipe or history.label)
    figure, panels, _ = frame.panels(1 + len(layered), 2, row=240, margin=10)
    for history, (name, line) in zip(found, _cycled(len(found)), strict=True):
        style = {"color": colour(name), "linestyle": line, "label": frame.label(history.label, 20)}
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
        _finish(axes, frame.title(history.label, 2), len(history.by_layer))
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
            lambda material: [history for history in material.histories if len(history.steps) > 1],
            draw, sentence, table, _CAUTION)  # fmt: skip

_TRAINING_CAUTION = (
    "The loss is that of the query images after adaptation, a running mean over a twentieth of the training; the "
    "validation accuracy is that of the model's own head on other classes. A dot marks the evaluated checkpoint, the "
    "dashed line what guessing gives. Models that differ only in their seed have the same line."
)


def training_sentence(found: Sequence[History]) -> str:
    """Return the best validation of each model."""
    best = {history.label: max(history.validations, key=_accuracy) for history in found if history.validations}
    parts = [
        f"In {label}, validation accuracy is highest after {counted(step, 'update')} ({percent(accuracy)})."
        for label, (step, accuracy) in best.items()
    ]
    if len(best) > _FEW:
        steps, accuracies = zip(*best.values(), strict=True)
        between = f"{percent(min(accuracies))} and {percent(max(accuracies))}"
        parts = [
            f"The highest validation accuracy of {len(best)} models is between {between}, after {min(steps):,} to "
            f"{max(steps):,} updates."
        ]
    losses = [history.losses[-1][1] for history in found if history.losses]
    ends = sorted({f"{loss:.2f}" for loss in (min(losses), max(losses))}) if losses else []
    return " ".join([*parts, *([f"The query loss ends at {' to '.join(ends)}."] if ends else [])])


def _accuracy(validation: tuple[int, float]) -> float:
    return validation[1]


def training_table(found: Sequence[History]) -> Table:
    """Return a row for each model."""
    rows = []
    for history in found:
        losses = [f"{loss:.3f}" for _, loss in history.losses] or [NOTHING]
        step, best = max(history.validations, key=_accuracy, default=(None, None))
        last = percent(history.validations[-1][1], 2) if history.validations else NOTHING
        rows.append(
            (
                history.label,
                losses[0],
                losses[-1],
                NOTHING if best is None else percent(best, 2),
                NOTHING if step is None else f"{step:,}",
                last,
                NOTHING if history.evaluated is None else f"{history.evaluated:,}",
            )
        )
    header = ("model", "first loss", "last loss", "best validation", "at update", "last validation", "evaluated update")
    return Table(header, rows)


def draw_training(found: Sequence[History], frame: Frame) -> Figure:
    """Draw a panel with the loss and one with the validation accuracy; a line for each model."""
    recipes = list(dict.fromkeys(history.recipe or history.label for history in found))
    labels = _recipe_labels(found)
    validated = any(history.validations for history in found)
    _, panels, _ = made = frame.panels(1 + validated, 2, row=240, margin=30 + 17 * -(-len(recipes) // 4))
    for history in found:
        name, line = LINES[recipes.index(history.recipe or history.label) % len(LINES)]
        style = {"color": colour(name), "linestyle": line, "linewidth": 1.3}
        smooth = _running_mean(history.losses)
        _line(panels[0], smooth, **style)
        if validated:
            shown = [(step, 100 * accuracy) for step, accuracy in history.validations]
            _line(panels[1], shown, **style)
            for step, accuracy in shown:
                if step == history.evaluated:
                    panels[1].plot(step, accuracy, color=colour(name), marker="o")
    for axes, title in zip(panels, ("query loss", "validation accuracy, %"), strict=False):
        axes.set_title(title)
        axes.set_xlabel("outer updates")
    if validated:
        draw_chance(panels[1], (history.n_way for history in found))
    if len(recipes) > 1:
        _recipe_legend(made[0], [labels[recipe] for recipe in recipes], frame)
    else:
        panels[0].set_title(f"{frame.title(labels[recipes[0]], 2)}\nquery loss")
    return made[0]


def _recipe_legend(figure: Figure, labels: Sequence[str], frame: Frame) -> None:
    from matplotlib.lines import Line2D

    lines = zip(labels, _cycled(len(labels)), strict=True)
    handles = [
        Line2D([], [], color=colour(name), linestyle=line, label=frame.label(label)) for label, (name, line) in lines
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2 if frame.narrow else 4, columnspacing=1.2)


def _recipe_labels(found: Sequence[History]) -> dict[str, str]:
    """Return the label of each recipe: its model's name, or what the names of its seeds have in common."""
    names: dict[str, list[str]] = {}
    for history in found:
        names.setdefault(history.recipe or history.label, []).append(history.label)
    several = {recipe: of for recipe, of in names.items() if len(of) > 1}
    short = dict(zip(several, short_names(list(several.values())), strict=True)) if several else {}
    return {
        recipe: f"{short[recipe] or of[0]}, {counted(len(of), 'seed')}" if recipe in short else of[0]
        for recipe, of in names.items()
    }


def _running_mean(pairs: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    width = max(1, len(pairs) // 20)
    values = [value for _, value in pairs]
    return [(step, fmean(values[max(0, i + 1 - width) : i + 1])) for i, (step, _) in enumerate(pairs)]


def _line(axes: Axes, pairs: Sequence[tuple[int, float]], **style: Any) -> None:  # noqa: ANN401 - Line2D's
    stride = max(1, -(-len(pairs) // _POINTS))
    shown = pairs[(len(pairs) - 1) % stride :: stride] if pairs else ()
    axes.plot([step for step, _ in shown], [value for _, value in shown], **style)


TRAINING_KIND = Kind("training", "Training",
                     "the `history.jsonl` of a model, trained in this store (`--home`) or beside the result",
                     lambda material: [h for h in material.histories if h.losses or h.validations],
                     draw_training, training_sentence, training_table, _TRAINING_CAUTION)  # fmt: skip
