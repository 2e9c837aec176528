from __future__ import annotations

import io
import json
import pkgutil
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from nilr.cli.console import Quantity, Screen, duration, make_console, share
from nilr.cli.show.models import show_list
from nilr.commands import COMMANDS, result_types
from nilr.recipes.models import ModelRow
from nilr.words import number, printable
from tests.cli.screens import Terminal


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.6, "1 min 0 s"), (61, "1 min 1 s"), (3599, "59 min 59 s"), (7_322, "2 h 2 min"), (-1, "0 s")],
)
def test_a_duration_has_its_two_largest_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_numbers_have_four_significant_digits() -> None:
    assert [number(x) for x in (1.23456, 12345.6, 0.000123456)] == ["1.235", "12346", "0.0001235"]


def test_a_share_is_in_percent() -> None:
    assert [f"{share(value)}" for value in (0.41234, -1e-17)] == ["41.23 %", "0.00 %"]


def test_a_column_of_one_unit_has_it_in_its_title_and_a_mixed_one_in_its_cells() -> None:
    stream = io.StringIO()
    rows = [("a", Quantity("1.5", "%"), Quantity("2", "%")), ("b", None, Quantity("-3", "points")), ("c", None, "x")]
    Screen(make_console(stream)).table(("name", "one", "two"), rows)
    assert [line.split() for line in stream.getvalue().splitlines()] == [
        ["name", "one,", "%", "two"],
        ["a", "1.5", "2", "%"],
        ["b", "-", "-3", "points"],
        ["c", "-", "x"],
    ]


def test_a_terminal_aligns_numbers_right_and_words_left() -> None:
    rows = [("a", "9.5 ± 1.0", "x"), ("b", "+10.5 ± 1.0*", "long"), ("c", None, None)]
    lines = at_80_columns(lambda screen: screen.table(("name", "number", "word"), rows)).splitlines()
    assert [line.rstrip() for line in lines if line.strip() and "─" not in line] == [
        " name        number  word",
        " a        9.5 ± 1.0  x",
        " b     +10.5 ± 1.0*  long",
        " c                -  -",
    ]


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
    console.width = 40
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


COMMITTED = Path(__file__).parents[2] / "docs" / "reproduction" / "cpu"


def at_80_columns(show: Callable[[Screen], None]) -> str:
    stream = Terminal()
    console = make_console(stream)
    console.width = 80
    screen = Screen(console)
    screen.__dict__["answer"] = screen
    show(screen)
    text = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    assert max(map(cell_len, text.splitlines())) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    return text


def test_columns_that_do_not_fit_follow_in_a_further_table_with_the_names() -> None:
    header = ("name", *"abcdef", "problem")
    cells = [f"{letter}-" + letter * 20 for letter in "abcdef"]
    rows = [("first", *cells, None), ("second", *cells, "a reason of several words that is longer than one line " * 2)]
    text = at_80_columns(lambda screen: screen.table(header, rows))
    lines = [line.split() for line in text.splitlines() if line.startswith((" first", " second"))]
    assert [words[0] for words in lines] == ["first", "second", "first", "second", "second"]
    assert [cell for words in lines[::2][:2] for cell in words[1:]] == cells


def test_long_names_are_wrapped_between_words_and_all_cells_are_whole() -> None:
    cells = ("metasgd-init-draw", "cross-task", "+0.09 % ± 0.18 %")
    rows = [(choice, *cells) for choice in ("learned rates that start at uniform:0.005,0.1", "euclidean distance", "b")]
    text = at_80_columns(lambda screen: screen.table(("choice", "run", "protocol", "delta"), rows, names=3))
    assert text.count("metasgd-init-draw  cross-task  +0.09 % ± 0.18 %") == 3


def test_a_name_wider_than_the_terminal_loses_no_letter() -> None:
    name = "".join(chr(ord("a") + i % 26) for i in range(100))
    words = at_80_columns(lambda screen: screen.table(("name", "status"), [(name, "complete")])).split()
    assert "".join(word for word in words if word not in ("name", "status", "complete") and word.isalpha()) == name
    assert {"status", "complete"} <= set(words)


@pytest.mark.parametrize("name", ["reproduce.json", "probe-s0-s1.json", "probe-3000-metasgd.json"])
def test_no_word_of_a_real_result_is_cut_at_80_columns(name: str) -> None:
    content = json.loads((COMMITTED / name).read_text("utf-8"))
    result = result_types()[content["command"]].model_validate(content)
    show = next(command.show for command in COMMANDS if command.schema == result.command)
    wide = io.StringIO()
    console = make_console(wide)
    console._force_terminal = True  # with the columns of a terminal
    pkgutil.resolve_name(show)(result, Screen(console))
    words = set(re.sub(r"\x1b\[[0-9;]*m|\u2500", "", wide.getvalue()).split())
    text = at_80_columns(lambda screen: pkgutil.resolve_name(show)(result, screen))
    assert words - set(text.split()) == set()


def test_no_word_of_the_list_of_models_is_cut_at_80_columns() -> None:
    long = "metasgd-5shot-non-negative-s0"
    rows = [
        ModelRow(
            name=long,
            status="finished",
            algo="sparse-maml",
            arch="conv4",
            n_way=5,
            n_shot=1,
            outer_step=60000,
            outer_steps=60000,
            val_accuracy=0.4567,
            saved_at="2026-01-01T00:00:00",
        ),
        ModelRow(name="a", status="unreadable", problem="`/home/someone/models/a/last.safetensors` is truncated"),
        ModelRow(name="b", status="finished", parent=long),
    ]
    words = at_80_columns(lambda screen: show_list(rows, screen)).split()
    assert {"finished", "sparse-maml", "45.67", long, "truncated"} <= set(words)


@pytest.mark.parametrize(
    ("value", "text"),
    [(9999.6, "10000"), (23_310.4, "23310"), (1.5e12, "1.5e+12"), (-0.0, "0"), (float("inf"), "inf"), (1e-7, "1e-07")],
)
def test_a_number_for_people_has_no_exponent_below_a_billion(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize("width", [40, 60, 80, 140])
def test_a_terminal_drops_columns_before_it_breaks_a_table(width: int) -> None:
    stream = Terminal()
    screen = Screen(Console(file=stream, force_terminal=True, width=width, color_system=None))
    rows = [("鳥の画像" * n, "finished", "数" * 8, "x" * 12, "y" * 20) for n in (1, 3)]
    screen.table(("name", "status", "data", "long", "longer"), rows, droppable=("longer", "long", "data"))
    lines = stream.getvalue().rstrip("\n").split("\n")
    assert max(map(cell_len, map(str.rstrip, lines))) <= width
    needed = {"data": 24 + 2 + 8 + 2 + 16, "long": 24 + 2 + 8 + 2 + 16 + 2 + 12, "longer": 24 + 8 + 16 + 12 + 20 + 8}
    dropped = [name for name, columns in needed.items() if columns > width - 2]
    named = " ".join(lines).partition("not shown at this width: ")[2]
    assert named == ", ".join(dropped)
    starts = {cell_len(line.partition("finished")[0]) for line in lines if "finished" in line}
    assert len(starts) == 1
