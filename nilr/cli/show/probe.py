"""The result of `nilr probe` on a screen: one table of models and protocols, and one for each requested section."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nilr.cli.console import Cell, Screen
from nilr.config import PROTOCOLS
from nilr.results.probing import EditMetrics, ModelProbe, ProbeMetrics, ProtocolMetrics, Row
from nilr.results.records import Delta, Mean
from nilr.results.result import Result

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


def show(result: Result[ProbeMetrics], screen: Screen) -> None:
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
    _show_sections(result.metrics, screen)


def _probe_rows(metrics: ProbeMetrics, screen: Screen) -> Iterator[tuple[Cell, ...]]:
    for name, protocol, figures in _cells(metrics):
        accuracy, delta = figures.accuracy, figures.delta
        effect = None if delta is None or delta.d is None else f"{delta.d:+.2f}"
        means = (screen.mean(accuracy), screen.delta(delta), effect)
        yield (name, protocol, *means, _p_cell(delta), str(accuracy.n_episodes))


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
        cells = (cell for delta in deltas for cell in (screen.delta(delta), _p_cell(delta)))
        return (name, protocol, rates, screen.mean(figures.accuracy), *cells)

    for name, model in metrics.items():
        yield row(name, "meta-init", None, EditMetrics(accuracy=model.meta_init.accuracy))
        for protocol in PROTOCOLS[1:]:
            for rates, probe in model.edits.items():
                figures: EditMetrics | None = getattr(probe, protocol.replace("-", "_"))
                if figures is not None:
                    yield row(name, protocol, rates, figures)


def _corrected(delta: Delta | None) -> bool:
    return delta is not None and delta.p_holm not in (None, delta.p)


def _p_cell(delta: Delta | None) -> Cell:
    """Return a difference's corrected p, or the verdict if there is no test."""
    if delta is None:
        return None
    p = delta.p if delta.p_holm is None else delta.p_holm
    return delta.verdict if p is None else f"{p:.2g}"


def _show_sections(metrics: ProbeMetrics, screen: Screen) -> None:
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
            accuracies = (screen.mean(figures.accuracy) for figures in (before, after))
            deltas = (screen.delta(delta) for delta in (after.delta, after.delta_to_learned))
            yield (name, rates, *accuracies, *deltas)


def _rows(
    tables: Mapping[str, Mapping[str, Row]], metrics: Mapping[str, ModelProbe], screen: Screen
) -> Iterator[tuple[Cell, ...]]:
    for name, rows in tables.items():
        for label, row in rows.items():
            before = row.meta_init or metrics[name].meta_init
            changes = (_change(figures, screen) for figures in (row.same_task, row.cross_task))
            yield (name, label, screen.mean(before.accuracy), *changes)


def _change(figures: ProtocolMetrics | None, screen: Screen) -> Cell:
    """Return the difference to meta-init; after no step at all there is none."""
    return None if figures is None else screen.delta(figures.delta) or screen.share(0.0)


def _similarity_rows(metrics: ProbeMetrics, screen: Screen) -> Iterator[tuple[Cell, ...]]:
    for name, model in metrics.items():
        layers = next(iter(model.similarity.values()), {})
        for layer in layers:
            for protocol, found in model.similarity.items():
                yield (name, layer, protocol, *(_figure(found[layer].get(measure)) for measure in _MEASURES))


def _figure(mean: Mean | None) -> Cell:
    return None if mean is None else f"{mean.mean:.3f}"
