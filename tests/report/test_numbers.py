from typing import Any

import pytest

from nilr.report.numbers import (
    NOTHING,
    accuracy,
    bounds,
    corrected_p,
    interval_sign,
    joined,
    listed,
    loss_change,
    p_value,
    plain,
    points,
    sign_found,
)
from nilr.results.records import Delta, Mean


def delta(mean: float, ci95: float | None, **more: Any) -> Delta:
    return Delta(mean=mean, ci95=ci95, p=more.pop("p", None), **more)


def test_stored_bounds_precede_symmetric_ones() -> None:
    assert bounds(Mean(mean=0.5, ci95=0.125, n_episodes=2)) == (0.375, 0.625)
    assert bounds(delta(0.5, 0.125)) == (0.375, 0.625)
    assert bounds(delta(0.5, 0.125, low=0.4, high=0.65)) == (0.4, 0.65)
    assert bounds(delta(0.5, None)) is None


def test_the_p_value_is_the_corrected_one_if_there_is_one() -> None:
    assert corrected_p(delta(0.5, None, p=0.01, p_holm=0.04)) == 0.04
    assert corrected_p(delta(0.5, None, p=0.01)) == 0.01


@pytest.mark.parametrize(
    ("given", "sign"),
    [
        (delta(1, 1, low=0.5, high=2), 1),
        (delta(-1, 0.5, p=0.01), -1),
        (delta(1, 0.5, p=0.2), 0),
        (delta(1, 0.5, p=0.01, p_holm=0.2), 0),
        (delta(1, 2), 0),
        (delta(1, None), 0),
    ],
)
def test_a_difference_is_found_if_its_interval_and_its_corrected_p_agree(given: Delta, sign: int) -> None:
    assert sign_found(given) == sign


def test_a_difference_is_in_points_with_its_interval() -> None:
    assert points(delta(0.0123, 0.003)) == "+1.23 ± 0.30"
    assert points(delta(0.01, 0.015, low=-0.01, high=0.02)) == "+1.00 [-1.00, +2.00]"
    assert points(delta(0.0, 0.0)) == "exactly 0"
    assert points(delta(-0.01, None)) == "-1.00"
    assert points(None) == "\N{EN DASH}"


def test_an_accuracy_is_in_percent() -> None:
    assert accuracy(Mean(mean=0.5, ci95=0.01, n_episodes=2)) == "50.00 ± 1.00 %"
    assert accuracy(Mean(mean=0.5, ci95=None, n_episodes=1)) == "50.00 %"


@pytest.mark.parametrize(("p", "text"), [(None, "\N{EN DASH}"), (1e-9, "< 0.0001"), (0.0123, "0.012")])
def test_a_p_value_is_short(p: float | None, text: str) -> None:
    assert p_value(p) == text


def test_a_list_reads_like_a_sentence() -> None:
    assert listed([]) == "none"
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(list("abcdef")) == "a, b, c, d and 2 more"


@pytest.mark.parametrize(
    ("mean", "ci95", "text"),
    [
        (-0.7330, 0.0625, "-0.733 ± 0.062"),
        (0.00003, 0.000021, "+0.000030 ± 0.000021"),
        (0.0, 0.2, "0.00 ± 0.20"),
        (12.345, None, "+12"),
        (0.0, None, "0"),
        (0.0, 0.0, "exactly 0"),
    ],
)
def test_a_change_of_a_loss_has_the_digits_of_its_interval(mean: float, ci95: float | None, text: str) -> None:
    assert loss_change(Mean(mean=mean, ci95=ci95, n_episodes=2)) == text


def test_an_interval_that_includes_zero_or_is_missing_has_no_sign() -> None:
    estimates = (delta(0.5, 0.25), delta(-0.5, 0.25), delta(0.5, 0.5), delta(0.5, None))
    assert [interval_sign(estimate) for estimate in estimates] == [1, -1, 0, 0]


def test_a_number_without_unit_has_its_interval_if_there_is_one() -> None:
    assert (plain(delta(1.23456, 0.0123)), plain(delta(2, None)), plain(None)) == ("1.23 ± 0.012", "2", NOTHING)


def test_sentences_beyond_the_longest_are_counted() -> None:
    assert joined(["a.", "b."], 2) == "a. b."
    assert joined(["a.", "b.", "c."], 1) == "a. The table has 2 more rows."
