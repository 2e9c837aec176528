from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from nilr import __version__
from nilr.cli.boundary import run
from nilr.cli.options import ARGUMENTS, _types, metavar, value_range
from nilr.cli.topics import EXAMPLES
from nilr.commands import COMMANDS, Command
from nilr.config.base import Settings
from nilr.config.evaluation import ProbeSettings
from nilr.config.meta_train import PRESETS, TrainSettings
from nilr.meta.algorithms import ALGORITHMS
from nilr.meta.engine.registry import ENGINES
from nilr.words import as_flag


def test_only_what_was_given_counts_as_explicit(probes: list[Settings]) -> None:
    assert run(["probe", "--n-way", "3", "maml"]) == 0
    assert probes[0].explicit() == {"n_way": 3, "models": ("maml",)}


def test_without_a_flag_every_setting_has_its_default(probes: list[Settings]) -> None:
    assert run(["probe"]) == 0
    assert probes == [ProbeSettings()]
    assert probes[0].explicit() == {}


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--protocol", "cross-task"], {"protocol": "cross-task"}),
        (["--n-episodes", "50", "--distance", "euclidean"], {"n_episodes": 50, "distance": "euclidean"}),
        (["a", "b@last", "./dir/x"], {"models": ("a", "b@last", "./dir/x")}),
        (["--seed", "0"], {"seed": 0}),
    ],
)
def test_flags_and_arguments_become_settings(probes: list[Settings], args: list[str], expected: dict[str, Any]) -> None:
    assert run(["probe", *args]) == 0
    assert probes[0].explicit() == expected


@pytest.mark.parametrize(
    "args",
    [
        ["m", "--query", "a.jpg", "b.PNG", "c.jpg", "--support", "s"],
        ["--support", "s", "--query", "a.jpg", "b.PNG", "c.jpg", "m"],
        ["m", "--query", "a.jpg", "--support", "s", "--query", "b.PNG", "--query=c.jpg"],
        ["m", "--query=a.jpg", "b.PNG", "c.jpg", "--support", "s"],
        ["--query=a.jpg", "b.PNG", "--query", "c.jpg", "m", "--support=s"],
    ],
)
def test_files_after_a_flag_of_several_values_belong_to_it(
    install: Any, home: Path, args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.PNG", "c.jpg", "m"):
        (tmp_path / name).touch()
    calls = install("adapt", lambda *_: pytest.skip())
    with pytest.raises(pytest.skip.Exception):
        run(["adapt", *args])
    query = (Path("a.jpg"), Path("b.PNG"), Path("c.jpg"))
    assert calls[0].explicit() == {"model": "m", "query": query, "support": Path("s")}


@pytest.mark.parametrize("place", ["variable", "before", "after", "joined"])
@pytest.mark.parametrize("query", [["--query", "a.jpg"], ["--query=a.jpg"]])
def test_a_model_in_the_store_is_no_file_of_a_flag(
    install: Any, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, query: list[str]
) -> None:
    store = home if place == "variable" else tmp_path / "other"
    (store / "models" / "maml.v2").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "maml.v2"):
        (tmp_path / name).touch()
    before = ["--home", "other"] if place == "before" else []
    after = {"after": ["--home", "other"], "joined": ["--home=other"]}.get(place, [])
    calls = install("adapt", lambda *_: pytest.skip())
    with pytest.raises(pytest.skip.Exception):
        run([*before, "adapt", "--support", "s", *query, "maml.v2", *after])
    assert (calls[0].model, calls[0].query) == ("maml.v2", (Path("a.jpg"),))


@pytest.mark.parametrize(("flag", "value"), [("--norm-adapted", True), ("--no-norm-adapted", False)])
def test_a_switch_that_may_be_unset_has_both_spellings(install: Any, home: Path, flag: str, value: bool) -> None:
    calls = install("meta-train", lambda *_: pytest.skip())
    with pytest.raises(pytest.skip.Exception):
        run(["meta-train", flag])
    assert calls[0].explicit() == {"norm_adapted": value}


def test_an_environment_variable_counts_as_given(probes: list[Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NILR_N_EPISODES", "12")
    run(["probe"])
    assert probes[0].explicit() == {"n_episodes": 12}


def test_a_flag_goes_before_its_environment_variable(probes: list[Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NILR_N_EPISODES", "12")
    run(["probe", "--n-episodes", "13"])
    assert probes[0].explicit() == {"n_episodes": 13}


def test_name_and_force_do_not_come_from_the_environment(
    install: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NAME", "FORCE", "RESUME", "JSON"):
        monkeypatch.setenv(f"NILR_{name}", "1")
    calls = install("meta-train", lambda *_: pytest.skip())
    with pytest.raises(pytest.skip.Exception):
        run(["meta-train"])
    assert calls[0].explicit() == {}


def test_the_demo_does_not_work_in_the_users_store(install: Any, home: Path) -> None:
    calls = install("demo", lambda *_: pytest.skip())
    with pytest.raises(pytest.skip.Exception):
        run(["demo"])
    assert calls[0].home is None


def test_home_stands_before_or_after_the_command_and_the_later_one_counts(
    probes: list[Settings], tmp_path: Path
) -> None:
    run(["--home", str(tmp_path / "a"), "probe"])
    run(["--home", str(tmp_path / "a"), "probe", "--home", str(tmp_path / "b")])
    assert [settings.home for settings in probes] == [tmp_path / "a", tmp_path / "b"]
    assert len(list(tmp_path.glob("[ab]/results/*-probe-*.json"))) == 2


@pytest.mark.parametrize("args", [["-q", "probe"], ["probe", "--quiet"], ["--quiet", "probe", "-q"]])
def test_quiet_before_or_after_the_command_silences_all_but_errors(
    probes: list[Settings], capsys: pytest.CaptureFixture[str], args: list[str]
) -> None:
    assert run(args) == 0
    assert capsys.readouterr() == ("", "")


def test_help_lists_the_rows_of_the_tables(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(["meta-train", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"Algorithm: {', '.join(ALGORITHMS)}. Default: maml." in shown
    assert f" {', '.join(PRESETS)}. Default: none." in shown


every_help = pytest.mark.parametrize(
    "command", [[], ["models"], *(command.name.split() for command in COMMANDS)], ids=" ".join
)


@pytest.mark.sampled(10)
@every_help
def test_help_fits_into_80_columns_and_leaves_half_of_them_to_the_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80 or max(lines, key=len).strip() in EXAMPLES[" ".join(command)]
    assert len(lines) <= 200
    starts = [re.match(r"  (--?\S+( [A-Z]\S*)?) {2,}", line) for line in lines]
    assert all(start is None or start.end() <= 28 for start in starts)
    for other in ([*command, "-h"], ["help", *command]):
        assert run(other) == 0
        assert capsys.readouterr().out.strip() == shown.strip()
    if command and command != ["models"]:
        assert len(EXAMPLES[" ".join(command)]) >= 3


@every_help
def test_help_shows_switches_without_a_type_and_ranges_in_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert run([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert not re.search(r"<bool>|None|range|<=|>=", shown.replace("Default: none", ""))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("filters", "1 to 4096"),
        ("save_every", "at least 1"),
        ("outer_lr", "above 0, at most 1000"),
        ("grad_clip", "above 0"),
        ("seed", "at least 0, below 2**63"),
        ("until_ci", "above 0, below 1"),
        ("algo", None),
        ("norm_adapted", None),
    ],
)
def test_a_range_says_which_ends_belong_to_it(name: str, text: str | None) -> None:
    fields = TrainSettings.model_fields | ProbeSettings.model_fields
    assert value_range(fields[name]) == text


@pytest.mark.parametrize(("name", "shown"), [("grad_clip", "NUMBER"), ("inner_lr", "RATE"), ("filters", "N")])
def test_help_calls_a_number_a_number(name: str, shown: str) -> None:
    assert metavar(name, TrainSettings.model_fields[name]) == shown


def test_a_number_that_is_out_of_range_names_the_variable_it_came_from(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NILR_UNTIL_CI", "1")
    assert run(["probe"]) == 2
    assert capsys.readouterr().err.startswith("error: `NILR_UNTIL_CI` cannot be `1.0`: ")


@pytest.mark.sampled(8)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_no_option_takes_another_one_for_its_value(
    command: Command, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {name: field for name, field in command.settings.model_fields.items() if name not in ARGUMENTS}
    taking = [
        as_flag(name) for name, field in fields.items() if bool not in (field.annotation, *get_args(field.annotation))
    ]
    assert "--home" in taking
    others = itertools.cycle(("-q", "--debug", "--unknown=1"))
    for name, other in zip(taking, others, strict=False):
        assert run([*command.name.split(), name, other]) == 2
        said = f"error: option `{name}` needs a value, and `{other}` is an option\n"
        assert capsys.readouterr().err.startswith(said)


def test_a_value_that_starts_with_a_dash_is_no_option(
    probes: list[Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["probe", "--rates", "-0.01", "--data=--odd", "--json", "-", "--data-b", "-x.h5", "--", "-q"]) == 0
    assert probes[0].explicit() == {"rates": ("-0.01",), "data": "--odd", "data_b": "-x.h5", "models": ("-q",)}


def test_the_help_of_all_commands_imports_no_settings(home: Path) -> None:
    code = (
        "from nilr.cli.boundary import run; run(['--help']); import sys; print({*sys.modules} & {'pydantic', 'rich'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("command", ["meta-train", "reproduce"])
@pytest.mark.parametrize(("seeds", "expected"), [("5", 5), ("0,1,2", (0, 1, 2)), ("7,3", (7, 3))])
def test_seeds_are_a_number_or_a_list(install: Any, home: Path, command: str, seeds: str, expected: Any) -> None:
    calls = install(command, lambda *_: pytest.skip())
    with pytest.raises(pytest.skip.Exception):
        run([command, "--seeds", seeds])
    assert calls[0].explicit() == {"seeds": expected}


@pytest.mark.parametrize("command", ["meta-train", "reproduce"])
@pytest.mark.parametrize(
    ("seeds", "reason"),
    [
        ("0,0", "a seed is listed twice"),
        *(
            (text, "give a number of seeds from 1 to 1000, or")
            for text in ("a,b", "0", "1001", "-1,2", "3,", "1.5", "")
        ),
    ],
)
def test_seeds_that_are_neither_are_an_error(
    home: Path, capsys: pytest.CaptureFixture[str], command: str, seeds: str, reason: str
) -> None:
    assert run([command, f"--seeds={seeds}"]) == 2
    assert capsys.readouterr().err.startswith(f"error: `--seeds` cannot be `{seeds}`: {reason}")


def test_the_version_is_followed_by_what_a_report_of_a_bug_needs(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"nilr {__version__}\n"
    for words in (["--version", "--verbose"], ["--verbose", "--version", "--home", str(home / "other")]):
        assert run(words) == 0
        rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
        assert rows["nilr"] == __version__
        assert rows["torch"] == torch.__version__
        assert rows["engine"].split()[0] in ENGINES
        assert rows["store"] == f"{words[-1] if len(words) > 2 else home} (0 models, 0 packs)"
    assert run(["--verbose", "models", "ls"]) == 2
    assert capsys.readouterr().err.startswith("error: --verbose belongs to --version\n")


@pytest.mark.parametrize("given", [",", "", "learned,,absolute", "learned,"])
@pytest.mark.parametrize(
    "option",
    [
        "meta-train --log",
        "probe --rates",
        "probe --neighbours",
        "probe --layers",
        "probe --adapt-part",
        "probe --fail-below",
        "adapt --rates",
        "bench --algo",
    ],
)
def test_a_list_with_a_missing_value_is_one_clear_error(
    home: Path, capsys: pytest.CaptureFixture[str], option: str, given: str
) -> None:
    command, flag = option.split()
    assert run([command, flag, given]) == 2
    error = f"error: `{flag}` cannot be `{given}`: a value is missing before, between or after commas"
    assert capsys.readouterr().err.splitlines() == [error, f"hint: see `nilr {command} --help`"]


EMPTY_PATHS = [
    f"{command.name} {'' if name in ARGUMENTS else as_flag(name)} ''"
    for command in COMMANDS
    for name, field in command.settings.model_fields.items()
    if Path in _types(field)
]


@pytest.mark.parametrize("line", ["--home '' models ls", *EMPTY_PATHS])
def test_an_empty_path_is_an_error_that_names_it(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(shlex.split(line)) == 2
    message = capsys.readouterr().err
    assert " cannot be ``: a path is not empty\n" in message
