"""Every command that nilr prints runs where the user is: with the same store, pack file and directory."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from nilr.cli.boundary import run
from nilr.commands import COMMANDS
from nilr.config.base import Settings
from nilr.recipes.meta_train.training import Training

ROOT = Path(__file__).parents[2]
TRAIN = [
    "meta-train",
    "--filters",
    "4",
    "--n-way",
    "3",
    "--n-query",
    "3",
    "--meta-batch-size",
    "2",
    "--outer-steps",
    "4",
    "--eval-every",
    "0",
    "--threads",
    "1",
]


def printed(text: str) -> list[str]:
    return [next(filter(None, found)) for found in re.findall(r"`(nilr [^`]*)`|^next: (nilr .*)$", text, re.M)]


@pytest.fixture(params=["variable", "flag", "dash", "neither"])
def place(request: Any, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the flags of a store whose path has a space, from another working directory."""
    store, work = tmp_path / "my user" / "nilr", tmp_path / "my work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("NILR_N_EPISODES", "2")
    monkeypatch.setenv("XDG_DATA_HOME", str(store.parent))
    monkeypatch.delenv("NILR_HOME")
    if request.param == "variable":
        monkeypatch.setenv("NILR_HOME", "../my store")
    homes = {"flag": "../my store", "dash": "./-my store"}
    return ["--home", homes[request.param]] if request.param in homes else []


@pytest.fixture
def data(pack: Path, tmp_path: Path) -> str:
    """Move the pack out of the store; return its path, which has a space, from the working directory."""
    path = tmp_path / "my packs" / "p.h5"
    path.parent.mkdir()
    shutil.move(pack, path)
    return "../my packs/p.h5"


def nilr(args: list[str], capsys: pytest.CaptureFixture[str], status: int = 0) -> str:
    capsys.readouterr()
    assert run(args) == status, capsys.readouterr().err
    return capsys.readouterr().err


def interrupt(patched: pytest.MonkeyPatch) -> None:
    """Interrupt the next training once, after an update."""
    signals = iter([signal.SIGINT])
    patched.setattr(Training, "save_is_due", lambda _: any(map(signal.raise_signal, signals)))


def run_all(text: str, capsys: pytest.CaptureFixture[str], *, count: int = 1) -> None:
    commands = printed(text)
    assert len(commands) == count, text
    for command in commands:
        nilr(shlex.split(command)[1:], capsys)


@pytest.mark.sampled(1)
def test_after_a_training_on_a_pack_given_by_path(
    data: str, place: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = nilr([*TRAIN, "--data", data, "--seeds", "2", *place], capsys)
    assert "next: nilr probe maml" in text
    run_all(text, capsys)


@pytest.mark.sampled(1)
def test_after_an_interrupted_training(
    data: str, place: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        interrupt(patched)
        text = nilr([*TRAIN, "--name", "p", "--data", data, "--seeds", "2", *place], capsys, status=130)
    run_all(text, capsys, count=2)


@pytest.mark.sampled(2)
def test_after_an_interrupted_training_in_another_store(
    data: str, place: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nilr([*TRAIN, "--name", "p", "--data", data, "--home", "../my other"], capsys)
    again = ["meta-train", "--resume", "../my other/models/p", "--outer-steps", "6", "--data", data, *place]
    with monkeypatch.context() as patched:
        interrupt(patched)
        text = nilr(again, capsys, status=130)
    command = printed(text)[0]
    text = nilr(shlex.split(command)[1:], capsys)
    assert "next: nilr probe '../my other/models/p'" in text
    run_all(text, capsys)


def test_after_a_training_on_a_pack_without_enough_test_classes(
    pack: Path, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NILR_N_EPISODES", "2")
    args = [*TRAIN, "--n-way", "6"]
    text = nilr(args, capsys)
    assert "next: nilr probe maml --task-b any\n" in text
    run_all(text, capsys)
    args = [*TRAIN, "--n-way", "12"]
    text = nilr(args, capsys)
    assert "next: nilr probe maml-2 --split train --task-b any\n" in text
    run_all(text, capsys)


@pytest.mark.sampled(1)
def test_after_an_import(pack: Path, home: Path, place: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    nilr([*TRAIN, "--name", "p", "--home", str(home)], capsys)
    nilr([*TRAIN, "--name", "q", "--home", str(home)], capsys)
    text = nilr(["models", "import", f"{home}/models/p", f"{home}/models/q", *place], capsys)
    assert "next: nilr models show p" in text
    run_all(text, capsys)
    text = nilr(["models", "import", f"{home}/models/p", f"{home}/models/q", "--home", str(home)], capsys)
    assert f"next: nilr probe p q --home {home}\n" in text


HINTS = {
    "meta-train --data none": 2,
    "meta-train --data ./none.h5": 2,
    "probe": 2,
    "models show none": 2,
    "models show ./none": 2,
    "models rm": 1,
    "models ls": 2,
}


@pytest.mark.sampled(10)
@pytest.mark.parametrize("args", HINTS)
def test_a_hint_of_a_store_names_that_store(
    place: list[str], args: str, install: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run([*args.split(), *place])
    commands = printed(capsys.readouterr().err)
    assert len(commands) == HINTS[args]
    for command in commands:
        words = shlex.split(command)
        assert words[len(words) - len(place) :] == place
        recipe = words[1].replace("models", "models ls").split()[0]
        calls: list[Settings] = [] if recipe == "models" else install(recipe, lambda *_: None)
        run(words[1:])
        assert recipe == "models" or [call.home for call in calls] == [Path(place[1]) if place else None]


def test_a_hint_to_train_names_a_pack_of_the_store(
    pack: Path, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in zip(TRAIN[1::2], TRAIN[2::2], strict=True):
        monkeypatch.setenv(f"NILR_{name[2:].replace('-', '_').upper()}", value)
    pack.rename(pack.with_name("birds.h5"))
    run_all(nilr(["probe"], capsys, status=1), capsys)


@pytest.mark.sampled(1)
def test_a_lost_pack_is_made_again_in_the_same_store(
    data: str, place: list[str], install: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    nilr([*TRAIN, "--data", data, *place], capsys)
    (command,) = printed(nilr(["probe", *place], capsys, status=1))
    calls = install("prepare-data", lambda *_: None)
    run(shlex.split(command)[1:])
    assert (calls[0].name, calls[0].image_size) == ("mini-imagenet", 16)
    assert calls[0].home == (Path(place[1]) if place else None)


def test_no_other_text_contains_a_command() -> None:
    """Commands are made by `Settings.command`; a template with placeholders may be a text.

    The examples of help are texts too; docs/cli.md has them, and tests/docs/test_commands.py parses them.
    """
    names = "|".join(command.name.split()[0] for command in COMMANDS)
    found = []
    for file in set((ROOT / "nilr").rglob("*.py")) - {ROOT / "nilr/cli/topics.py"}:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                found += re.findall(rf"\bnilr (?:{names})\b(?!.* [A-Z]{{4,}})", node.value)
    assert found == []
