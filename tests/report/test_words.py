import pytest

from nilr.report.subjects import Measure
from nilr.report.words import accuracy, listed, p_value, points, spark, thinned


def test_a_difference_is_in_points_with_its_interval() -> None:
    assert points(Measure(0.0123, 0.0093, 0.0153)) == "+1.23 ± 0.30"
    assert points(Measure(0.01, -0.01, 0.02)) == "+1.00 [\N{MINUS SIGN}1.00, +2.00]"
    assert points(Measure(0.0, 0.0, 0.0)) == "exactly 0"
    assert points(Measure(-0.01, None, None)) == "\N{MINUS SIGN}1.00"


def test_an_accuracy_is_in_percent() -> None:
    assert accuracy(Measure(0.5, 0.49, 0.51)) == "50.00 ± 1.00 %"
    assert accuracy(Measure(0.5, None, None)) == "50.00 %"


@pytest.mark.parametrize(("p", "said"), [(None, "\N{EN DASH}"), (1e-9, "< 0.0001"), (0.0123, "0.012")])
def test_a_p_is_short(p: float | None, said: str) -> None:
    assert p_value(p) == said


def test_a_list_reads_like_one() -> None:
    assert listed([]) == "none"
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(list("abcdef")) == "a, b, c, d and 2 more"


def test_a_spark_goes_from_the_least_to_the_largest() -> None:
    assert spark([0.0, 0.5, 1.0]) == "▁▅█"
    assert spark([3.0, 3.0]) == "▁▁"
    assert spark([]) == ""


def test_thinning_keeps_both_ends() -> None:
    values = [float(i) for i in range(100)]
    assert thinned(values, 5) == [0.0, 25.0, 50.0, 74.0, 99.0]
    assert thinned(values[:3], 5) == values[:3]
