from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from nilr.cli.boundary import run

TIMED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (.*)")
PACK = ["prepare-data", "--synthetic", "--image-size", "16", "--limit-per-class", "2", "--name", "toy"]


def lines(file: Path) -> list[str]:
    found = [TIMED.fullmatch(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert all(found)
    return [match[1] for match in found if match]


@pytest.mark.parametrize("more", [[], ["--quiet"]])
def test_a_log_has_the_stages_and_the_result_with_their_times(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    log = tmp_path / "log"
    assert run([*PACK, "--log-file", str(log), *more]) == 0
    shown = capsys.readouterr().err.splitlines()
    logged = lines(log)
    assert logged[0].startswith("nilr prepare-data --synthetic ")
    assert logged[-1] == f"result: {next((home / 'results').glob('*.json'))}"
    stages = [line for line in logged if line.startswith("drawing: 200/200 images")]
    assert stages
    assert more or stages[0].split(" images/s")[0].rsplit(" ", 1)[0] in " ".join(shown)


def test_a_log_is_appended_to_and_has_the_error(home: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run([*PACK, "--log-file", str(log)]) == 0
    before = lines(log)
    assert run([*PACK, "--log-file", str(log)]) == 1
    assert lines(log)[: len(before)] == before
    assert lines(log)[-2].startswith("error: the pack `toy` already exists")


def test_a_log_that_cannot_be_written_is_an_error_before_the_work(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*PACK, "--log-file", str(tmp_path / "no" / "log")]) == 1
    assert "there is no directory" in capsys.readouterr().err
    assert not (home / "datasets").exists()


@pytest.mark.parametrize("name", ["pipe", "same.json", "folder", "-"])
def test_a_log_that_is_no_file_of_its_own_is_an_error(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("folder").mkdir()
    assert run([*PACK, "--json", "same.json", "--log-file", name]) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: cannot write `{name}`: ")
    assert hint.startswith("hint: give --log-file the name of ")
    assert not Path("same.json").exists()
    assert not (home / "datasets").exists()


def test_a_log_has_the_hint_of_an_error_and_no_control_characters(home: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run(["models", "show", "a\x1b[31m\nb", "--log-file", str(log)]) == 1
    command, error, hint = lines(log)
    assert command.isprintable()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")


def test_a_log_has_what_a_dry_run_shows(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    assert run([*PACK, "--dry-run", "--log-file", str(log)]) == 0
    assert lines(log) == [f"nilr {shlex.join([*PACK, '--dry-run', '--log-file', str(log)])}", *_shown(capsys)]


def _shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    "wrong", [["--outer-stepz", "3"], ["--seed", "x"], ["--limit-per-class", "0"], ["--seed"], ["--config", "no.toml"]]
)
def test_a_log_has_the_error_of_an_invalid_command_line(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str]
) -> None:
    for i, given in enumerate((["--log-file", str(tmp_path / "0")], [f"--log-file={tmp_path / '1'}"])):
        assert run([*PACK, *given, *wrong]) > 0
        command, *errors = lines(tmp_path / str(i))
        assert command.startswith("nilr prepare-data ")
        assert errors == capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("option", ["--json", "--save-config"])
def test_an_invalid_command_line_writes_no_log_to_the_file_of_another_option(
    home: Path, tmp_path: Path, option: str
) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    assert run([*PACK, option, str(file), "--log-file", str(file), "--outer-stepz"]) == 2
    assert file.read_text() == "kept"


def test_two_options_that_name_the_same_file_are_an_error(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    assert run([*PACK, "--json", str(file), "--save-config", str(file)]) == 1
    assert f"cannot write `{file}`: another option writes it" in capsys.readouterr().err
    assert not file.exists()


def test_two_spellings_of_one_file_are_the_same_file(home: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for other in (tmp_path / "link", tmp_path / "folder" / ".." / "file"):
        assert run([*PACK, "--json", str(other), "--save-config", str(tmp_path / "file")]) == 1
        assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("wrong", [[], ["--outer-stepz"]])
def test_a_log_with_an_invalid_name_is_one_clear_error(
    home: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*PACK, "--log-file", "x" * 300, *wrong]) == (2 if wrong else 1)
    assert "internal" not in capsys.readouterr().err
