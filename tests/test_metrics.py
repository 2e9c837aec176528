import math

import pytest
import torch

from nilr.metrics import accuracy, mean_interval, paired_difference


def test_accuracy_is_the_share_of_rows_whose_largest_logit_is_the_label() -> None:
    logits = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.4, 0.6], [0.7, 0.3]])
    assert accuracy(logits, torch.tensor([1, 0, 0, 0])).item() == 0.75


def test_the_interval_is_students_t_over_the_standard_error() -> None:
    # five values 1..5: mean 3, sample standard deviation sqrt(2.5), t(0.975, 4) = 2.776445 (any table)
    interval = mean_interval(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert interval.mean == 3.0
    assert interval.ci95 == pytest.approx(2.7764451 * math.sqrt(2.5 / 5), abs=1e-6)
    assert interval.n == 5


def test_one_value_has_no_interval() -> None:
    assert mean_interval(torch.tensor([0.4])).ci95 is None


def test_a_paired_difference_has_the_p_of_the_paired_t_test() -> None:
    # differences 1, 2, 3: mean 2, standard error 1/sqrt(3), t = 3.4641 on 2 degrees of freedom, for which the
    # distribution is closed: p = 1 - t / sqrt(t^2 + 2) = 1 - sqrt(12 / 14)
    difference = paired_difference(torch.tensor([1.0, 4.0, 9.0]), torch.tensor([0.0, 2.0, 6.0]))
    assert difference.mean == 2.0
    assert difference.p == pytest.approx(1 - math.sqrt(12 / 14), abs=1e-9)
    assert difference.ci95 == pytest.approx(4.3026527 / math.sqrt(3), abs=1e-6)
    assert difference.verdict is None


def test_equal_values_differ_by_exactly_zero() -> None:
    values = torch.tensor([0.2, 0.4, 0.6])
    difference = paired_difference(values, values)
    assert (difference.mean, difference.ci95, difference.p) == (0.0, 0.0, None)
    assert difference.verdict == "exactly zero"


@pytest.mark.parametrize(
    ("values", "reference", "verdict"),
    [
        ([1 / 2, 1 / 3], [2 / 3, 1 / 2], "exactly constant"),  # -1/6 twice, but not in the last bit
        ([(k + 1) / 15 for k in range(1, 11)], [k / 15 for k in range(1, 11)], "exactly constant"),
        ([0.1 + 0.2, 0.7], [0.3, 0.1 + 0.6], "exactly zero"),
    ],
)
def test_differences_that_are_equal_but_for_rounding_are_constant(
    values: list[float], reference: list[float], verdict: str
) -> None:
    assert len({a - b for a, b in zip(values, reference, strict=True)}) > 1
    exact = (torch.tensor(each, dtype=torch.float64) for each in (values, reference))
    difference = paired_difference(*exact)
    assert (difference.verdict, difference.ci95, difference.p, difference.d) == (verdict, 0.0, None, None)


def test_one_pair_has_neither_interval_nor_p() -> None:
    difference = paired_difference(torch.tensor([0.4]), torch.tensor([0.2]))
    assert (difference.ci95, difference.p, difference.verdict) == (None, None, None)


def test_values_that_are_not_paired_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        paired_difference(torch.zeros(3), torch.zeros(4))
