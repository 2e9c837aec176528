"""What each command's result looks like on a screen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from nilr.cli.bench_tables import show_bench
from nilr.cli.cells import delta_cell, mean_cell, p_cell
from nilr.cli.probe_tables import show_sections
from nilr.cli.rates import show_rates
from nilr.cli.reproduction import show_reproduction
from nilr.cli.screen import Cell, Screen
from nilr.cli.words import number
from nilr.config import PROTOCOLS
from nilr.results import (
    AdaptMetrics,
    Delta,
    EditMetrics,
    ImageRef,
    ImportMetrics,
    PrepareDataMetrics,
    ProbeMetrics,
    ProtocolMetrics,
    Result,
    TrainMetrics,
)

LONGEST = 20


def show_prepare_data(result: Result[PrepareDataMetrics], screen: Screen) -> None:
    """Write what was packed: the splits, the duplicates, the digest."""
    metrics = result.metrics
    counts = metrics.splits.items()
    screen.table(("split", "classes", "images"), [(name, str(c.classes), str(c.images)) for name, c in counts])
    if result.data is not None:
        screen.line(f"pack `{result.data.name}`, {result.data.image_size} px, content digest {result.data.digest}")
    pairs = [f"{_image(a)} = {_image(b)}" for a, b in metrics.duplicate_pairs]
    _listed(screen, pairs, "pairs of images with exactly the same pixels")
    _listed(screen, metrics.skipped, "unreadable images left out")
    if metrics.images_per_second is not None:
        screen.line(f"{number(metrics.images_per_second)} images/s")


def show_training(result: Result[TrainMetrics], screen: Screen) -> None:
    """Write where a training stands, and what to do next."""
    metrics = result.metrics
    if metrics.by_model is not None:
        header = ("model", "updates", "after adaptation", "best validation", "at", "negative rates")
        screen.table(header, [_training_row(name, own, screen) for name, own in metrics.by_model.items()])
        screen.line(f"next: nilr probe {' '.join(metrics.by_model)}")
        return
    rows: list[tuple[str, Cell]] = [
        ("updates", str(metrics.outer_step)),
        ("query loss, last logged update", _number(metrics.query_loss)),
        ("query accuracy before adaptation", screen.share(metrics.accuracy_before)),
        ("query accuracy after adaptation", screen.share(metrics.accuracy_after)),
        ("validation accuracy, best", mean_cell(metrics.best_val_accuracy, screen)),
        ("  at update", None if metrics.best_outer_step is None else str(metrics.best_outer_step)),
        ("validation accuracy, last", mean_cell(metrics.last_val_accuracy, screen)),
        ("share of negative rates", screen.share(metrics.share_negative)),
        ("seconds per update", _number(metrics.seconds_per_update)),
    ]
    screen.table((" ".join(model.name for model in result.models), ""), rows)
    if result.models:
        screen.line(f"next: nilr probe {result.models[0].name}")


def _training_row(name: str, metrics: TrainMetrics, screen: Screen) -> tuple[Cell, ...]:
    at = None if metrics.best_outer_step is None else str(metrics.best_outer_step)
    after, negative = screen.share(metrics.accuracy_after), screen.share(metrics.share_negative)
    return name, str(metrics.outer_step), after, mean_cell(metrics.best_val_accuracy, screen), at, negative


def show_adapt(result: Result[AdaptMetrics], screen: Screen) -> None:
    """Write accuracy before and after, and the first predictions."""
    metrics = result.metrics
    losses = (_number(metrics.support_loss_before), _number(metrics.support_loss_after))
    accuracies = (screen.share(metrics.accuracy_before), screen.share(metrics.accuracy_after))
    subject = ", ".join(f"{model.name}@{model.checkpoint}" for model in result.models)
    screen.table((subject, "before", "after"), [("support loss", *losses), ("query accuracy", *accuracies)])
    shown = metrics.predictions[:LONGEST]
    if shown:
        screen.table(
            ("image", "label", "before", "after", "probability"),
            [(p.image, p.label, p.before, p.after, screen.share(p.probabilities.get(p.after))) for p in shown],
        )
    if len(metrics.predictions) > LONGEST:
        screen.line(f"... and {len(metrics.predictions) - LONGEST} more predictions, in the result file")


def show_probe(result: Result[ProbeMetrics], screen: Screen) -> None:
    """Write one table of models and protocols."""
    used = [f"{model.name}@{model.checkpoint} ({model.algo}, update {model.outer_step})" for model in result.models]
    judged = result.data_b or result.data
    data = f" on the {judged.split} split of `{judged.name}`" if judged else ""
    if result.data_b and result.data:
        data += f", adapted to `{result.data.name}` in cross-task"
    if used:
        screen.line(f"{', '.join(used)}{data}")
    corrected = any(_corrected(figures.delta) for _, _, figures in _cells(result.metrics))
    p = "p (Holm)" if corrected else "p"
    if any(len(model.edits) > 1 for model in result.metrics.values()):
        edited = ("model", "protocol", "rates", "accuracy", "delta to meta-init", p, "delta to learned", p)
        screen.table(edited, _edit_rows(result.metrics, screen), names=3)
    else:
        header = ("model", "protocol", "accuracy", "delta to meta-init", "d", p, "episodes")
        screen.table(header, _probe_rows(result.metrics, screen), names=2)
    show_sections(result.metrics, screen)


def _probe_rows(metrics: ProbeMetrics, screen: Screen) -> Iterator[tuple[Cell, ...]]:
    for name, protocol, figures in _cells(metrics):
        accuracy, delta = figures.accuracy, figures.delta
        effect = None if delta is None or delta.d is None else f"{delta.d:+.2f}"
        means = (mean_cell(accuracy, screen), delta_cell(delta, screen), effect)
        yield (name, protocol, *means, p_cell(delta), str(accuracy.n_episodes))


def _cells(metrics: ProbeMetrics) -> Iterator[tuple[str, str, ProtocolMetrics]]:
    for name, model in metrics.items():
        for protocol in PROTOCOLS:
            figures: ProtocolMetrics | None = getattr(model, protocol.replace("-", "_"))
            if figures is not None:
                yield name, protocol, figures


def _edit_rows(metrics: ProbeMetrics, screen: Screen) -> Iterator[tuple[Cell, ...]]:
    """Yield for each model meta-init, and then every edit of the rates under each protocol."""

    def row(name: str, protocol: str, rates: Cell, figures: EditMetrics) -> tuple[Cell, ...]:
        deltas = (figures.delta, figures.delta_to_learned)
        cells = (cell for delta in deltas for cell in (delta_cell(delta, screen), p_cell(delta)))
        return (name, protocol, rates, mean_cell(figures.accuracy, screen), *cells)

    for name, model in metrics.items():
        yield row(name, "meta-init", None, EditMetrics(accuracy=model.meta_init.accuracy))
        for protocol in PROTOCOLS[1:]:
            for rates, probe in model.edits.items():
                figures: EditMetrics | None = getattr(probe, protocol.replace("-", "_"))
                if figures is not None:
                    yield row(name, protocol, rates, figures)


def show_import(result: Result[ImportMetrics], screen: Screen) -> None:
    """Write what is in the store now, and what to do next."""
    rows = []
    for name, model in result.metrics.items():
        came = "imported" if model.imported else "there already"
        files = ", ".join(file.partition(".")[0] for file in model.files)
        rows.append((name, came, model.status, str(model.outer_step), files))
    screen.table(("model", "", "status", "updates", "files"), rows)
    screen.line(f"next: nilr probe {' '.join(result.metrics)}")


def _corrected(delta: Delta | None) -> bool:
    return delta is not None and delta.p_holm not in (None, delta.p)


def _number(value: float | None) -> Cell:
    return None if value is None else number(value)


def _image(image: ImageRef) -> str:
    return f"{image.split}/{image.class_name}/{image.filename}"


def _listed(screen: Screen, items: list[str], what: str) -> None:
    if items:
        screen.line(f"{len(items)} {what}:")
    for item in items[:LONGEST]:
        screen.line(f"  {item}")
    if len(items) > LONGEST:
        screen.line(f"  ... and {len(items) - LONGEST} more, in the result file")


SHOW: dict[str, Callable[[Result[Any], Screen], None]] = {
    "prepare-data": show_prepare_data,
    "meta-train": show_training,
    "adapt": show_adapt,
    "probe": show_probe,
    "rates": show_rates,
    "bench": show_bench,
    "demo": show_probe,
    "reproduce": show_reproduction,
    "models-import": show_import,
}
