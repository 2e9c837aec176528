"""Results of `probe` and `rates` as tidy rows: one figure in each, under names that say where it stands."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from nilr.config.base import PROTOCOLS
from nilr.results.probe import ModelProbe, ModelRates
from nilr.results.records import Delta, Mean, Record
from nilr.results.result import Result

KEY = ("result", "model", "section", "item", "protocol")  # joins the summary with the episodes

Row = dict[str, Any]

_FIGURES = [name for name in (*Mean.model_fields, *Delta.model_fields) if name != "verdict"]
_OF_RATES = ("count", "mean", "std", "share_negative")
_ON_GRADIENTS = ("ascent", "step_norm", "cosine")


def summary_rows(result: Result[Any]) -> Iterator[Row] | None:
    """Return a row for each figure of a result; None if its command has no such rows."""
    find = _ROWS.get(result.command)
    if find is None:
        return None
    return ({"model": model, **row} for model, metrics in result.metrics.items() for row in find(metrics))


def episode_rows(per_episode: Mapping[str, Any]) -> Iterator[Row]:
    """Yield a row for each value of each episode; `episode` is its index."""
    for model, part in per_episode.items():
        for path, values in _lists((), part):
            where = _where(path)
            for episode, value in enumerate(values):
                yield {"model": model, **where, "episode": episode, "value": value}


def _probe_rows(metrics: ModelProbe) -> Iterator[Row]:
    """Yield a row for each mean and difference of a model, all with the same columns."""
    for path, values in _means((), metrics):
        *place, quantity = path
        yield _where(place) | {"quantity": quantity} | {name: values.get(name) for name in _FIGURES}


def _rate_rows(metrics: ModelRates) -> Iterator[Row]:
    """Yield a row for all rates of a model, and for each kind, layer and tensor."""
    for section, entries in metrics.sections.items():
        for item, figures in entries.items():
            row: Row = {"section": section, "item": "" if section == "all" else item}
            row |= {name: getattr(figures, name) for name in _OF_RATES}
            row |= {f"q{level}": value for level, value in figures.quantiles.items()}
            means = {name: getattr(figures, name) for name in _ON_GRADIENTS}
            yield row | {name: mean.mean if mean else None for name, mean in means.items()}


_ROWS: dict[str, Callable[[Any], Iterator[Row]]] = {"probe": _probe_rows, "rates": _rate_rows}


def _where(path: tuple[str, ...] | list[str]) -> Row:
    """Return the section, item and protocol of a place in a result."""
    protocol = next((place for place in path if place in PROTOCOLS), None)
    others = [place for place in path if place != protocol]
    section = others.pop(0) if others else "protocols"
    return {"section": section, "item": "/".join(others), "protocol": protocol}


def _means(path: tuple[str, ...], part: Any) -> Iterator[tuple[tuple[str, ...], Row]]:  # noqa: ANN401 - any part of a result
    """Yield where each mean and difference below a part of a result is, and its values."""
    if isinstance(part, Mean | Delta):
        yield path, part.model_dump()
    elif isinstance(part, Record):
        for name, value in part:
            field = type(part).model_fields[name]
            yield from _means((*path, field.alias or name), value)
    elif isinstance(part, dict):
        for name, value in part.items():
            yield from _means((*path, name), value)


def _lists(path: tuple[str, ...], part: Any) -> Iterator[tuple[tuple[str, ...], list[Any]]]:  # noqa: ANN401
    if isinstance(part, list):
        yield path, part
    elif isinstance(part, dict):
        for name, value in part.items():
            yield from _lists((*path, name), value)
