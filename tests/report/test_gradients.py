"""The sentences on gradients' consistency and the first inner step."""

from typing import Any

from nilr.report.figures.figure import Material
from nilr.report.figures.gradients import CONSISTENCY_KIND, STEP_KIND
from nilr.report.style import NARROW, WIDE, svg
from tests.report.material import full_rates, material, mean


def changed(name: str, **more: Any) -> dict[str, Any]:
    content = full_rates(name)
    content["metrics"][name] |= more
    return content


def sentence(kind: Any, given: Material) -> str:
    drawing = kind.make(given)
    assert drawing is not None
    for width in (WIDE, NARROW):
        svg(drawing.draw, width)
    return str(drawing.sentence)


def test_few_models_are_described_with_their_most_different_layer() -> None:
    assert sentence(CONSISTENCY_KIND, material(full_rates())) == (
        "Share of the squared gradient that episodes have in common, negative minus positive rates: -1.50 ± 0.40 "
        "points in metasgd (-4.00 ± 0.40 in head, the largest)."
    )


def test_many_models_are_counted_by_the_side_of_their_interval() -> None:
    models = [
        changed(f"m{i}", consistency={"all": {"difference": mean(difference)}})
        for i, difference in enumerate((0.02, 0.01, -0.02, 0.001))
    ]
    assert sentence(CONSISTENCY_KIND, material(*models)) == (
        "Episodes share more of the gradient under negative rates than under positive ones in 2 of 4 models and less "
        "in 1; in 1 the interval includes zero."
    )


def test_rates_of_one_sign_have_no_difference() -> None:
    of_sign = {"consistency": mean(0.2), "shared": mean(0.03)}
    one = changed("maml", consistency={"all": {"positive": of_sign}})
    assert sentence(CONSISTENCY_KIND, material(one)) == (
        "All rates have one sign; episodes share 3.0 % in maml of the squared gradient."
    )


def test_first_steps_are_compared_with_the_minimum() -> None:
    def step(name: str, ratio: Any, overshoots: float) -> dict[str, Any]:
        figures = {"slope": mean(-0.5), "curvature": mean(0.4), "ratio": ratio, "overshoots": mean(overshoots)}
        return changed(name, effective_step=figures)

    read = "(1 is the minimum along it, at 2 nothing is gained). It overshoots in"
    assert sentence(STEP_KIND, material(step("a", mean(0.8), 0.0))) == (
        f"The first inner step is 0.8 ± 0.004 in a {read} no episode."
    )
    assert sentence(STEP_KIND, material(step("a", mean(0.8), 0.0), step("b", mean(2.5), 0.9))) == (
        f"The first inner step is 0.8 ± 0.004 in a and 2.5 ± 0.004 in b {read} up to 90.0 % of a model's episodes."
    )
    assert sentence(STEP_KIND, material(step("a", None, 0.0))) == "No first inner step changes the loss to first order."
