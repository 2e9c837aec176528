"""A probe's further tables on a screen, one for each section of its metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nilr.cli.cells import delta_cell, mean_cell
from nilr.cli.screen import Cell, Screen
from nilr.results import Mean, ModelProbe, ProbeMetrics, ProtocolMetrics, Row

# The field of the metrics, and what stands over the rows' names.
SECTIONS = {
    "neighbours": "neighbours",
    "layers": "layer",
    "steps": "inner steps",
    "shared_classes": "shared classes",
}
_OWN_HEAD = ("model", "rates", "own head before", "after", "delta", "delta to learned")
_MEASURES = {
    "cka": "CKA",
    "svcca": "SVCCA",
    "cosine": "cosine",
    "within-class-cosine": "within class",
    "between-class-cosine": "between",
}


def show_sections(metrics: ProbeMetrics, screen: Screen) -> None:
    """Write a table of each section that was asked for; differences are to meta-init in the same row."""
    if any(model.own_head for model in metrics.values()):
        screen.table(_OWN_HEAD, _head_rows(metrics, screen), names=2)
    for field, title in SECTIONS.items():
        tables: dict[str, dict[str, Row]] = {name: getattr(model, field) for name, model in metrics.items()}
        if any(tables.values()):
            header = ("model", title, "meta-init", "same-task delta", "cross-task delta")
            screen.table(header, _rows(tables, metrics, screen), names=2)
    if any(model.similarity for model in metrics.values()):
        screen.table(("model", "layer", "protocol", *_MEASURES.values()), _similarity_rows(metrics, screen), names=3)


def _head_rows(metrics: ProbeMetrics, screen: Screen) -> Iterator[tuple[Cell, ...]]:
    for name, model in metrics.items():
        for rates, found in model.own_head.items():
            before, after = found.meta_init, found.same_task
            accuracies = (mean_cell(figures.accuracy, screen) for figures in (before, after))
            deltas = (delta_cell(delta, screen) for delta in (after.delta, after.delta_to_learned))
            yield (name, rates, *accuracies, *deltas)


def _rows(
    tables: Mapping[str, Mapping[str, Row]], metrics: Mapping[str, ModelProbe], screen: Screen
) -> Iterator[tuple[Cell, ...]]:
    for name, rows in tables.items():
        for label, row in rows.items():
            before = row.meta_init or metrics[name].meta_init
            changes = (_change(figures, screen) for figures in (row.same_task, row.cross_task))
            yield (name, label, mean_cell(before.accuracy, screen), *changes)


def _change(figures: ProtocolMetrics | None, screen: Screen) -> Cell:
    """Return the difference to meta-init; after no step at all there is none."""
    return None if figures is None else delta_cell(figures.delta, screen) or screen.share(0.0)


def _similarity_rows(metrics: ProbeMetrics, screen: Screen) -> Iterator[tuple[Cell, ...]]:
    for name, model in metrics.items():
        layers = next(iter(model.similarity.values()), {})
        for layer in layers:
            for protocol, found in model.similarity.items():
                yield (name, layer, protocol, *(_figure(found[layer].get(measure)) for measure in _MEASURES))


def _figure(mean: Mean | None) -> Cell:
    return None if mean is None else f"{mean.mean:.3f}"
