from __future__ import annotations

import pytest

from nilr.cli.console import duration, number, printable, share


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.6, "1 min 0 s"), (61, "1 min 1 s"), (3599, "59 min 59 s"), (7_322, "2 h 2 min"), (-1, "0 s")],
)
def test_a_duration_has_its_two_largest_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_numbers_have_four_significant_digits() -> None:
    assert [number(x) for x in (1.23456, 12345.6, 0.000123456)] == ["1.235", "1.235e+04", "0.0001235"]


def test_a_share_is_percent_on_a_terminal_only() -> None:
    assert (share(0.41234, percent=True), share(0.41234, percent=False)) == ("41.23 %", "0.4123")
    assert (share(-1e-17, percent=True), share(-1e-17, percent=False)) == ("0.00 %", "0.0000")


def test_letters_of_any_language_are_printable() -> None:
    assert printable("Größe ± 猫") == "Größe ± 猫"
