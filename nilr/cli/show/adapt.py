"""The result of `nilr adapt` on a screen."""

from nilr.cli.console import Screen
from nilr.results.commands import AdaptMetrics
from nilr.results.result import Result
from nilr.words import counted, number

MOST_ROWS = 20


def show(result: Result[AdaptMetrics], screen: Screen) -> None:
    """Write accuracy before and after, and the first predictions."""
    metrics = result.metrics
    losses = (number(metrics.support_loss_before), number(metrics.support_loss_after))
    accuracies = (screen.share(metrics.accuracy_before), screen.share(metrics.accuracy_after))
    subject = ", ".join(f"{model.name}@{model.checkpoint}" for model in result.models)
    screen.table((subject, "before", "after"), [("support loss", *losses), ("query accuracy", *accuracies)])
    shown = metrics.predictions[:MOST_ROWS]
    if shown:
        screen.table(
            ("image", "label", "before", "after", "probability"),
            [(p.image, p.label, p.before, p.after, screen.share(p.probabilities.get(p.after))) for p in shown],
        )
    if len(metrics.predictions) > MOST_ROWS:
        screen.line(f"... and {counted(len(metrics.predictions) - MOST_ROWS, 'more prediction')}, in the result file")
