"""Rates and results as frames of pandas."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nilr.errors import NilrError, UsageError
from nilr.library.arguments import check_type
from nilr.library.models import check_model
from nilr.meta.model import Model
from nilr.models.parameters import layer
from nilr.results.result import Result
from nilr.results.tidy import summary_rows

if TYPE_CHECKING:
    import pandas as pd


def rates_frame(model: Model) -> pd.DataFrame:
    """Return the inner rates, one row for each.

    Returns:
        Columns `tensor`, `layer` and `kind` (categories); `step`, the inner step, -1 if all have the same rate;
        `element`, the place in the flattened rates of the tensor; and `rate`.

    Raises:
        NilrError: pandas is not installed.

    Examples:
        >>> import nilr
        >>> frame = nilr.rates_frame(nilr.build_model(filters=4, image_size=16, inner_lr="random-sign:0.01"))
        >>> negative = frame.rate < 0
        >>> negative.groupby(frame.layer, observed=True).size().tolist()
        [116, 152, 152, 152, 25]
    """
    check_model(model)
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

    Examples:
        >>> import nilr
        >>> images = nilr.generate_images(per_class=6, image_size=16)
        >>> result = nilr.probe(nilr.build_model(filters=4, image_size=16), images, n_episodes=3, n_query=3)
        >>> frame = nilr.result_frame(result)
        >>> frame[frame.quantity == "accuracy"].protocol.tolist()
        ['meta-init', 'same-task', 'cross-task']
    """
    check_type("result", result, Result, "give what `probe` or `measure_rates` returns")
    pandas, rows = _pandas(), summary_rows(result)
    if rows is None:
        raise UsageError(f"a result of `{result.command}` has no frame", hint="give a result of probe or rates")
    frame: pd.DataFrame = pandas.DataFrame(list(rows))
    return frame


def _pandas() -> Any:  # noqa: ANN401 - a module
    try:
        return importlib.import_module("pandas")
    except ImportError as error:
        raise NilrError(
            f"frames need pandas, which cannot be imported: {error}", hint="pip install 'nilr[notebook]'"
        ) from error
