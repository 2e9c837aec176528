"""The card of a model, and a comparison of models, on a screen."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from nilr.cli.console import Cell, Screen, age, metric_name, share
from nilr.report.sparkline import sparkline
from nilr.results.commands import ModelCard, ModelComparison, RateRow
from nilr.results.records import Mean
from nilr.results.result import Result
from nilr.words import as_flag, counted, file_size, number

_CURVE = 24


def show(result: Result[ModelCard], screen: Screen) -> None:
    """Write what a model is, how it was trained, how good it is, where it comes from, and its rates by layer."""
    card, answer = result.metrics, screen.answer
    answer.table((f"{card.name}@{card.checkpoint}", ""), list(_facts(card, answer)))
    if card.rates_by_layer:
        answer.line("")
        header = ("inner rates", "min", "min to max", "max", "mean", "negative", "count")
        answer.table(header, [_rates(row) for row in card.rates_by_layer], droppable=("count",))


def show_comparison(result: Result[ModelComparison], screen: Screen) -> None:
    """Write the settings and metrics that differ, and the rates of each layer, one model after the other."""
    found, answer = result.metrics, screen.answer
    settings = {name: [_cell(value) for value in row.values()] for name, row in found.settings.items()}
    metrics = {
        metric_name(name): [_metric(name, value, answer) for value in row.values()]
        for name, row in found.metrics.items()
    }
    for title, rows in (("settings", settings), ("metrics", metrics)):
        if rows:
            answer.table((title, *found.models), [(name, *cells) for name, cells in rows.items()])
    if found.rates_by_layer:
        rates = [(name, *_rates(row)) for of_layer in found.rates_by_layer.values() for name, row in of_layer.items()]
        header = ("layer", "model", "min", "min to max", "max", "mean", "negative", "count")
        by_layer = [(layer, name, *figures) for name, layer, *figures in rates]
        answer.table(header, by_layer, names=2, droppable=("count",))


def _metric(name: str, value: Any, screen: Screen) -> Cell:  # noqa: ANN401 - JSON of any shape
    fraction = any(part in name for part in ("accuracy", "share"))
    return (percent(value, screen) if fraction else number(value) if isinstance(value, float) else None) or _cell(value)


def _cell(value: Any) -> Cell:  # noqa: ANN401 - JSON of any shape
    return None if value is None else _text(value)


def _rates(row: RateRow) -> tuple[Cell, ...]:
    low, mean, high = (number(value, 3) for value in (row.min, row.mean, row.max))
    return row.name, low, sparkline(row.histogram) or None, high, mean, share(row.share_negative), str(row.count)


def _facts(card: ModelCard, screen: Screen) -> Iterator[tuple[str, Cell]]:
    manifest, trained_on = card.manifest, card.manifest.data
    arguments = dict(manifest.architecture.arguments)
    ways, _ = arguments.pop("n_way", None), arguments.pop("image_size", None)
    yield "algorithm", str(manifest.algorithm.get("name"))
    body = [manifest.architecture.name, *(f"{name} {_text(value)}" for name, value in arguments.items())]
    yield "body", f"{', '.join(body)}; {counted(card.n_params, 'parameter')}"
    shots = manifest.settings.get("n_shot")
    yield "task", " ".join(f"{n}-{unit}" for n, unit in ((ways, "way"), (shots, "shot")) if n is not None) or None
    grey = ", grey" if trained_on.channels == 1 else ""
    yield "images", f"{trained_on.name}, {trained_on.image_size} px{grey}"
    yield from _training(card)
    yield from _quality(card, screen)
    yield from _lineage(card)
    for i, file in enumerate(card.files):
        yield "" if i else "files", f"{file.name}, {file_size(file.bytes)}, {age(file.modified_at)} old"


def _training(card: ModelCard) -> Iterator[tuple[str, Cell]]:
    manifest = card.manifest
    yield "status", card.status and ": ".join(filter(None, (card.status, card.problem)))
    total, seed = manifest.settings.get("outer_steps"), manifest.settings.get("seed")
    of_total = f" of {total:,}" if isinstance(total, int) else ""
    with_seed = "" if seed is None else f", seed {seed}"
    yield "trained", f"{manifest.outer_step:,}{of_total} updates{with_seed}, saved {age(manifest.saved_at)} ago"
    flags = [_setting(name, value) for name, value in card.changed_settings.items()]
    yield "not default", " ".join(flags) or "nothing"


def _setting(name: str, value: Any) -> str:  # noqa: ANN401 - JSON of any shape
    if isinstance(value, bool):
        return as_flag(name if value else f"no_{name}")
    return f"{as_flag(name)} {_text(value)}"


def _text(value: Any) -> str:  # noqa: ANN401 - JSON of any shape
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def percent(value: object, screen: Screen) -> str | None:
    """Return a fraction, or a mean with its interval as JSON, in percent; None if it is neither."""
    if isinstance(value, float):
        return f"{share(value)}"
    try:
        mean = Mean.model_validate(value)
    except ValidationError:
        return None
    return f"{screen.mean(mean)} ({counted(mean.n_episodes, 'episode')})"


def _quality(card: ModelCard, screen: Screen) -> Iterator[tuple[str, Cell]]:
    metrics: Mapping[str, Any] = card.manifest.metrics
    if best := percent(metrics.get("best_val_accuracy"), screen):
        step = metrics.get("best_outer_step")
        yield "best validation", best + (f" at update {step:,}" if isinstance(step, int) else "")
    if last := percent(metrics.get("last_val_accuracy"), screen):
        yield "last validation", last
    if len(card.validations) > 1:
        low, high = min(card.validations), max(card.validations)
        yield "all validations", f"{sparkline(card.validations, _CURVE)} {share(low)!s} to {share(high)}"
    before, after = percent(metrics.get("accuracy_before"), screen), percent(metrics.get("accuracy_after"), screen)
    if card.manifest.parent and after:  # of a training, these are of the last logged update
        yield "query accuracy", f"{f'{before} before adaptation, ' if before else ''}{after} after"


def _lineage(card: ModelCard) -> Iterator[tuple[str, Cell]]:
    manifest = card.manifest
    if manifest.parent:
        how = manifest.parent.adaptation
        details = (
            f" (rates {how.rates}, {' + '.join(how.adapt_part)}, {counted(how.inner_steps, 'step')})" if how else ""
        )
        yield "adapted from", f"{manifest.parent.name}{details}"
    if manifest.support:
        images = counted(sum(manifest.support.images), "image")
        yield "adapted to", f"{images} of {', '.join(manifest.support.classes)}"
    if manifest.origin:
        yield "imported from", f"{manifest.origin.format}: {manifest.origin.file}"
    if manifest.reference:
        yield "rates from", manifest.reference.name
