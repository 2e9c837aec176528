from __future__ import annotations

import io

import pytest

from nilr.cli.console import Screen, duration, make_console, number, printable, share
from tests.cli.screens import Terminal


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.6, "1 min 0 s"), (61, "1 min 1 s"), (3599, "59 min 59 s"), (7_322, "2 h 2 min"), (-1, "0 s")],
)
def test_a_duration_has_its_two_largest_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_numbers_have_four_significant_digits() -> None:
    assert [number(x) for x in (1.23456, 12345.6, 0.000123456)] == ["1.235", "12346", "0.0001235"]


def test_a_share_is_percent_on_a_terminal_only() -> None:
    assert (share(0.41234, percent=True), share(0.41234, percent=False)) == ("41.23 %", "0.4123")
    assert (share(-1e-17, percent=True), share(-1e-17, percent=False)) == ("0.00 %", "0.0000")


def test_letters_of_any_language_are_printable() -> None:
    assert printable("Größe ± 猫") == "Größe ± 猫"


def test_a_line_on_a_terminal_breaks_between_words_and_never_within_a_path() -> None:
    stream = Terminal()
    console = make_console(stream)
    console.width = 30
    Screen(console).line("result: /a/very/long/path/to/the/result/of/a/probe.json and some more words")
    assert stream.getvalue().splitlines() == [
        "result:",
        "/a/very/long/path/to/the/result/of/a/probe.json",
        "and some more words",
    ]


def test_a_terminal_shows_whole_names_and_no_column_of_which_nothing_is_known() -> None:
    stream = Terminal()
    console = make_console(stream)
    console.width = 30
    header = ("name", "words", "unknown")
    Screen(console).table(header, [("a-name-of-some-length", "several words in a row", None)])
    assert "a-name-of-some-length" in stream.getvalue()
    assert "unknown" not in stream.getvalue()


def test_several_columns_of_names_are_whole_and_the_first_goes_where_it_is_always_the_same() -> None:
    stream = Terminal()
    console = make_console(stream)
    console.width = 40
    rows = [("maml", "cross-task", "shuffled-signs", "25.56 % ± 3.69 %"), ("maml", "same-task", "learned", "x")]
    Screen(console).table(("model", "protocol", "rates", "accuracy"), rows, names=3)
    assert "maml" not in stream.getvalue()
    assert "shuffled-signs" in stream.getvalue()
    Screen(console).table(("model", "protocol", "accuracy"), [*rows, ("boil", "", "", "")], names=3)
    assert "maml" in stream.getvalue()


def test_a_pipe_gets_every_column_and_nothing_is_cut() -> None:
    stream = io.StringIO()
    Screen(make_console(stream)).table(("name", "words", "unknown"), [("x", "y" * 200, None)])
    assert stream.getvalue().split() == ["name", "words", "unknown", "x", "y" * 200, "-"]
