from __future__ import annotations

import json
import os
import pkgutil
import threading
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from nilr.cli.boundary import run
from nilr.commands import COMMANDS, Command
from nilr.config.base import Settings


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_recipe_and_display_fit_the_settings_and_the_result_of_their_command(command: Command) -> None:
    recipe, show = (get_type_hints(pkgutil.resolve_name(path)) for path in (command.recipe, command.show))
    assert recipe["settings"] is command.settings
    assert recipe["return"] == next(iter(show.values()))
    assert command.result in (None, recipe["return"])


def test_a_result_is_stored_and_its_path_printed_on_stderr(
    probes: list[Settings], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["probe"]) == 0
    (stored,) = home.glob("results/*-probe-*.json")
    out, err = capsys.readouterr()
    assert out == ""
    assert f"result: {stored}\n" in err
    assert json.loads(stored.read_text())["schema"] == "nilr/probe/1"


def test_the_notes_are_the_last_lines(probes: list[Settings], capsys: pytest.CaptureFixture[str]) -> None:
    run(["probe"])
    assert capsys.readouterr().err.endswith("\nthe last words\n")


def test_json_is_the_only_text_on_standard_output(probes: list[Settings], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-q", "probe", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["metrics"]["maml"]["cross-task"]["accuracy"]["mean"] == 0.38
    assert err == ""


def test_json_to_a_path_gives_the_same_as_is_stored(probes: list[Settings], home: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "a [b].json"
    assert run(["probe", "--json", str(path)]) == 0
    (stored,) = home.glob("results/*.json")
    assert path.read_bytes() == stored.read_bytes()


def test_json_to_a_link_is_written_where_it_leads(probes: list[Settings], tmp_path: Path) -> None:
    link, target = tmp_path / "stdout", tmp_path / "target.json"
    target.write_bytes(b"old")
    link.symlink_to(target)
    assert run(["-q", "probe", "--json", str(link)]) == 0
    assert link.is_symlink()
    assert json.loads(target.read_bytes())["command"] == "probe"


def test_json_to_a_directory_is_refused_before_the_work(
    probes: list[Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["probe", "--json", str(tmp_path)]) == 1
    assert probes == []
    assert capsys.readouterr().err == (
        f"error: cannot write `{tmp_path}`: it is a directory\nhint: give --json the name of a file\n"
    )


def test_json_to_a_pipe_is_written_into_it(probes: list[Settings], tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    assert run(["-q", "probe", "--json", str(pipe)]) == 0
    reader.join(timeout=60)
    assert json.loads(read[0])["command"] == "probe"
    assert pipe.is_fifo()


def test_the_demo_stores_its_results_itself(install: Any, home: Path, probe_result: Any) -> None:
    install("demo", lambda *_: probe_result)
    assert run(["demo"]) == 0
    assert not list(home.glob("results/*"))


def test_a_store_that_cannot_be_written_is_refused_before_the_work(
    probes: list[Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert run(["probe", "--home", str(tmp_path / "file")]) == 1
    assert probes == []
    said = capsys.readouterr().err
    assert f"error: cannot write `{tmp_path / 'file' / 'results'}" in said
    assert "hint: a part of this path is a file; choose another place\n" in said


def test_a_result_is_stored_even_where_its_copy_cannot_be_written(
    probes: list[Settings], home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert run(["probe", "--json", str(tmp_path / "file" / "x.json")]) == 1
    assert len(list(home.glob("results/*.json"))) == 1
    assert "error: cannot write" in capsys.readouterr().err
