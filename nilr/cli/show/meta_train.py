"""The result of `nilr meta-train` on a screen."""

from nilr.cli.console import Cell, Screen
from nilr.results.commands import TrainMetrics
from nilr.results.result import Result
from nilr.words import number


def show(result: Result[TrainMetrics], screen: Screen) -> None:
    """Write the state of a training, or of each training."""
    metrics = result.metrics
    if metrics.by_model is not None:
        header = ("model", "updates", "after adaptation", "best validation", "at", "negative rates")
        screen.table(header, [_training_row(name, model, screen) for name, model in metrics.by_model.items()])
        return
    rows: list[tuple[str, Cell]] = [
        ("updates", str(metrics.outer_step)),
        ("query loss, last logged update", _number(metrics.query_loss)),
        ("query accuracy before adaptation", screen.share(metrics.accuracy_before)),
        ("query accuracy after adaptation", screen.share(metrics.accuracy_after)),
        ("validation accuracy, best", screen.mean(metrics.best_val_accuracy)),
        ("  at update", None if metrics.best_outer_step is None else str(metrics.best_outer_step)),
        ("validation accuracy, last", screen.mean(metrics.last_val_accuracy)),
        ("share of negative rates", screen.share(metrics.share_negative)),
        ("seconds per update", _number(metrics.seconds_per_update)),
    ]
    rows += [("rates of model", model.reference.name) for model in result.models if model.reference]
    screen.table((" ".join(model.name for model in result.models), ""), rows)


def _training_row(name: str, metrics: TrainMetrics, screen: Screen) -> tuple[Cell, ...]:
    at = None if metrics.best_outer_step is None else str(metrics.best_outer_step)
    after, negative = screen.share(metrics.accuracy_after), screen.share(metrics.share_negative)
    return name, str(metrics.outer_step), after, screen.mean(metrics.best_val_accuracy), at, negative


def _number(value: float | None) -> Cell:
    return None if value is None else number(value)
