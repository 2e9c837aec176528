"""Rates and results as frames of pandas."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from nilr.config.base import PROTOCOLS
from nilr.errors import NilrError, UsageError
from nilr.meta.model import Model
from nilr.models.parameters import layer
from nilr.results.probe import ModelProbe, ModelRates, RateFigures
from nilr.results.records import Delta, Mean, Record
from nilr.results.result import Result

if TYPE_CHECKING:
    import pandas as pd

_OF_RATES = ("count", "mean", "std", "share_negative")
_ON_GRADIENTS = ("ascent", "step_norm", "cosine")


def rates_frame(model: Model) -> pd.DataFrame:
    """Return the inner rates, one row for each.

    Returns:
        Columns `tensor`, `layer` and `kind` (categories); `step`, the inner step, -1 if all have the same rate;
        `element`, the place in the flattened rates of the tensor; and `rate`.

    Raises:
        NilrError: pandas is not installed.

    Example:
        >>> import nilr
        >>> frame = nilr.rates_frame(nilr.build_model(filters=4, image_size=16, inner_lr="random-sign:0.01"))
        >>> negative = frame.rate < 0
        >>> negative.groupby(frame.layer, observed=True).size().tolist()
        [116, 152, 152, 152, 25]
    """
    pandas = _pandas()
    parts = []
    for name, rates in model.inner_lr.items():
        per_step = rates.dim() > model.params[name].dim()
        rows = rates.detach().cpu().reshape(len(rates) if per_step else 1, -1)
        for step, row in enumerate(rows):
            columns = {"tensor": name, "layer": layer(name), "kind": model.learner.kinds[name]}
            numbers = {"step": step if per_step else -1, "element": range(len(row)), "rate": row.numpy()}
            parts.append(pandas.DataFrame({**columns, **numbers}))
    frame: pd.DataFrame = pandas.concat(parts, ignore_index=True)
    return frame.astype(dict.fromkeys(("tensor", "layer", "kind"), "category"))


def result_frame(result: Result[Any]) -> pd.DataFrame:
    """Return a result of `probe` or `measure_rates`, also one that was read from a file, as a frame.

    Returns:
        Of a probe, a row for each mean and each paired difference. Columns: `model`; `section`, such as `protocols` or
        `layers`; `item`, such as a layer or an edit; `protocol`; `quantity`, such as `accuracy` or `delta` (to
        meta-init); `mean` and `ci95`, half the width of its 95 % interval, as fractions; `n_episodes` of a mean; `low`,
        `high`, `p`, `p_holm` and `d` of a difference.
        Of rates, a row for all rates and for each kind, layer and tensor. Columns: `model`, `section`, `item`, `count`,
        `mean`, `std`, `share_negative`, quantiles such as `q0.5`, and with episodes `ascent`, `step_norm` and `cosine`.

    Raises:
        NilrError: pandas is not installed, or the result is of another command.

    Example:
        >>> import nilr
        >>> images = nilr.generate_images(per_class=6, image_size=16)
        >>> result = nilr.probe(nilr.build_model(filters=4, image_size=16), images, n_episodes=3, n_query=3)
        >>> frame = nilr.result_frame(result)
        >>> frame[frame.quantity == "accuracy"].protocol.tolist()
        ['meta-init', 'same-task', 'cross-task']
    """
    pandas, find = _pandas(), _ROWS.get(result.command)
    if find is None:
        raise UsageError(f"a result of `{result.command}` has no frame", hint="give a result of probe or rates")
    rows = [{"model": model, **row} for model, metrics in result.metrics.items() for row in find(metrics)]
    frame: pd.DataFrame = pandas.DataFrame(rows)
    return frame


def _probe_rows(metrics: ModelProbe) -> Iterator[dict[str, Any]]:
    """Yield a row for each mean and difference of a model, all with the same columns."""
    columns = [name for name in (*Mean.model_fields, *Delta.model_fields) if name != "verdict"]
    for where, values in _means((), metrics):
        yield where | {name: values.get(name) for name in columns}


def _rate_rows(metrics: ModelRates) -> Iterator[dict[str, Any]]:
    """Yield a row for all rates of a model, and for each kind, layer and tensor."""
    groups: dict[str, Mapping[str, RateFigures]] = {
        "all": {"": metrics.all},
        "kinds": metrics.kinds,
        "layers": metrics.layers,
        "tensors": metrics.tensors,
    }
    for section, entries in groups.items():
        for item, figures in entries.items():
            row: dict[str, Any] = {"section": section, "item": item}
            row |= {name: getattr(figures, name) for name in _OF_RATES}
            row |= {f"q{level}": value for level, value in figures.quantiles.items()}
            means = {name: getattr(figures, name) for name in _ON_GRADIENTS}
            yield row | {name: mean.mean if mean else None for name, mean in means.items()}


_ROWS: dict[str, Callable[[Any], Iterator[dict[str, Any]]]] = {"probe": _probe_rows, "rates": _rate_rows}


def _means(path: tuple[str, ...], part: Any) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:  # noqa: ANN401 - any part of a result
    """Yield where each mean and difference below a part of a result is, and its values."""
    if isinstance(part, Mean | Delta):
        *places, quantity = path
        protocol = next((place for place in places if place in PROTOCOLS), None)
        others = [place for place in places if place != protocol]
        section = others.pop(0) if others else "protocols"
        where = {"section": section, "item": "/".join(others), "protocol": protocol, "quantity": quantity}
        yield where, part.model_dump()
    elif isinstance(part, Record):
        for name, value in part:
            field = type(part).model_fields[name]
            yield from _means((*path, field.alias or name), value)
    elif isinstance(part, dict):
        for name, value in part.items():
            yield from _means((*path, name), value)


def _pandas() -> Any:  # noqa: ANN401 - a module
    try:
        return importlib.import_module("pandas")
    except ImportError as error:
        raise NilrError(
            f"frames need pandas, which cannot be imported: {error}", hint="pip install 'nilr[notebook]'"
        ) from error
