"""The result of `nilr adapt` on a screen."""

from nilr.cli.console import Screen
from nilr.results.commands import AdaptMetrics
from nilr.results.result import Result
from nilr.words import counted, number

MOST_ROWS = 20


def show(result: Result[AdaptMetrics], screen: Screen) -> None:
    """Write accuracy before and after, and the first predictions."""
    m = result.metrics
    losses = (None if m.support_loss_before is None else number(m.support_loss_before), number(m.support_loss_after))
    own = (screen.share(m.accuracy_before), screen.share(m.accuracy_after))
    nearest = (screen.share(m.nearest_accuracy_before), screen.share(m.nearest_accuracy_after))
    subject = ", ".join(f"{model.name}@{model.checkpoint}" for model in result.models)
    rows = [("support loss", *losses), ("query accuracy, head", *own), ("query accuracy, nearest", *nearest)]
    screen.table((subject, "before", "after"), rows)
    shown = m.predictions[:MOST_ROWS]
    if shown:
        header = ("image", "label", "head before", "head after", "probability", "nearest before", "nearest after")
        readings = [(screen.share(p.probabilities.get(p.after)), p.nearest_before, p.nearest_after) for p in shown]
        screen.table(
            header, [(p.image, p.label, p.before, p.after, *others) for p, others in zip(shown, readings, strict=True)]
        )
    if len(m.predictions) > MOST_ROWS:
        screen.line(f"... and {counted(len(m.predictions) - MOST_ROWS, 'more prediction')}, in the result file")
