"""`transfer`: the change of the evaluated loss, to first order by sign of the rates and by layer, and in fact."""

from collections.abc import Mapping
from typing import Any

from nilr.config.base import ADAPTED
from nilr.probes.conditions import META_INIT, Condition, Quantity
from nilr.probes.readings import LossChange, PredictedLossChange
from nilr.report.numbers import loss_change
from nilr.results.probe import ProbeMetrics, TransferProbe
from nilr.sections import transfer_figure
from nilr.sections.section import Format, Request, Section, Table
from nilr.sections.values import Values, mean_of

Tree = Mapping[str, Any]
"""Quantities in the layout of `TransferProbe`."""


def _plan(request: Request) -> dict[str, Tree]:
    """Return by protocol."""

    def predicted(condition: Condition, where: str) -> dict[str, Quantity]:
        return {
            "predicted": Quantity(condition, PredictedLossChange(None, where)),
            "predicted_positive": Quantity(condition, PredictedLossChange("positive", where)),
            "predicted_negative": Quantity(condition, PredictedLossChange("negative", where)),
        }

    return {
        protocol: {
            **predicted(condition, "all"),
            "actual": Quantity(condition, LossChange()),
            "parts": {where: predicted(condition, where) for where in ("body", *request.layers, "head")},
        }
        for protocol, condition in request.conditions.items()
        if condition != META_INIT
    }


def _build(tree: Tree, values: Values) -> TransferProbe:
    def means(branch: Any) -> Any:  # noqa: ANN401 - quantities, as deep as they are
        if isinstance(branch, Quantity):
            return mean_of(values[branch])
        return {name: means(below) for name, below in branch.items()}

    return TransferProbe.model_validate(means(tree))


def _table(metrics: ProbeMetrics, _text: Format) -> Table | None:
    """Return a row for each model, protocol and part, in nats."""
    rows = []
    for name, model in metrics.items():
        for protocol, found in model.transfer.items():
            for where, change in {"all": found, **found.parts}.items():
                signs = (change.predicted_positive, change.predicted_negative)
                actual = loss_change(found.actual) if where == "all" else None
                rows.append((name, protocol, where, loss_change(change.predicted), *map(loss_change, signs), actual))
    header = ("model", "protocol", "part", "predicted loss", "by rates > 0", "by rates < 0", "actual")
    return Table(header, rows, names=3) if rows else None


SECTION = Section("transfer", "transfer", _plan, _build, _table, transfer_figure.KIND, ADAPTED)
