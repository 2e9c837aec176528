from __future__ import annotations

import os
import re
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
    assert capsys.readouterr().err.startswith(f"error: cannot write the log to `{name}`\nhint: give --log-file ")
    assert not Path("same.json").exists()
    assert not (home / "datasets").exists()


def test_a_log_has_the_hint_of_an_error_and_no_control_characters(home: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run(["models", "show", "a\x1b[31m\nb", "--log-file", str(log)]) == 1
    command, error, hint = lines(log)
    assert command.isprintable()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
