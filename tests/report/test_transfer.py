"""The sentence on first-order transfer."""

from typing import Any

from nilr.sections.transfer import KIND
from tests.report.material import cells, loss_parts, material, mean, result, used


def probe(**negative: dict[str, Any]) -> dict[str, Any]:
    """Return a probe of models, by name, with the part of negative rates in the body."""
    metrics = {}
    for name, part in negative.items():
        body = loss_parts(-0.2, 0.0) | {"predicted_negative": part}
        transfer = {**loss_parts(-0.4, 0.1), "actual": mean(-0.1), "parts": {"body": body}}
        metrics[name] = cells(0.4, 0.0, 0.0) | {"transfer": {"cross-task": transfer}}
    return result("probe", metrics, [used(name, "metasgd", 0, None) for name in negative])


def sentence(**negative: dict[str, Any]) -> str:
    drawing = KIND.make(material(probe(**negative)))
    assert drawing is not None
    return drawing.sentence


def test_few_models_are_described_and_those_without_negative_rates_are_left_out() -> None:
    assert sentence(a=mean(-0.0123), b=mean(0.0, 0.0)) == (
        "Cross-task: to first order, negative rates in the body change the evaluated loss by -0.0123 ± 0.0040 in a "
        "(below zero, it falls)."
    )
    assert sentence(b=mean(0.0, 0.0)) == "Cross-task: no negative rate moves the body."


def test_many_models_are_counted_by_the_side_of_their_interval() -> None:
    assert sentence(a=mean(-0.01), b=mean(-0.02), c=mean(0.01), d=mean(0.001)) == (
        "Cross-task: to first order, negative rates in the body lower the evaluated loss in 2 of 4 models and raise it "
        "in 1; in 1 the interval includes zero."
    )
