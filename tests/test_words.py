from __future__ import annotations

import re
from pathlib import Path

import pytest

from nilr.words import counted, fill, one_of, signed, utc_now

PACKAGE = Path(__file__).parents[1] / "nilr"


@pytest.mark.parametrize(
    ("n", "noun", "text"),
    [
        (1, "minute", "1 minute"),
        (0, "image", "0 images"),
        (2, "class", "2 classes"),
        (38_400, "image", "38,400 images"),
    ],
)
def test_a_count_has_the_noun_in_its_number(n: int, noun: str, text: str) -> None:
    assert counted(n, noun) == text


def test_an_irregular_plural_is_given() -> None:
    assert [counted(n, "query", "queries") for n in (1, 2)] == ["1 query", "2 queries"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.234, "+1.23"), (-1.236, "-1.24"), (-0.001, "0.00"), (0.001, "0.00"), (-0.0, "0.00"), (0.005001, "+0.01")],
)
def test_a_number_that_is_rounded_to_zero_has_no_sign(value: float, text: str) -> None:
    assert signed(value) == text


def test_no_text_of_the_product_has_another_minus() -> None:
    """One minus, "-", in tables, sentences, figures and pages."""
    assert [path for path in PACKAGE.rglob("*.py") if re.search(r"\u2212|MINUS SIGN", path.read_text("utf-8"))] == []


def test_no_module_makes_plurals_of_its_own() -> None:
    own = re.compile(r"""['"]s['"] if |== 1 else f?['"]s""")
    found = {path.name for path in PACKAGE.rglob("*.py") if own.search(path.read_text("utf-8"))}
    assert found <= {"words.py"}


def test_times_are_utc_with_microseconds() -> None:
    assert utc_now().endswith("+00:00")
    assert len(utc_now()) == len("2026-01-01T00:00:00.000000+00:00")


@pytest.mark.parametrize("columns", [20, 40, 60, 80])
def test_lines_break_between_words_and_commands_stay_whole(columns: int) -> None:
    text = "hint: correct --home, or create the directory: `mkdir -p /a/b c/d`; `nilr models ls` lists the-models"
    filled = fill(text, columns)
    assert " ".join(filled.splitlines()) == text
    lines = filled.splitlines()
    assert (
        sum("`mkdir -p /a/b c/d`" in line for line in lines) == sum("`nilr models ls`" in line for line in lines) == 1
    )
    assert all(len(line) <= columns for line in lines)


def test_alternatives_end_with_or() -> None:
    assert [one_of(names) for names in ((), ("a",), ("a", "b"), ("a", "b", "c"))] == ["", "a", "a or b", "a, b or c"]
