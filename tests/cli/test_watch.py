from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

from nilr.cli.boundary import run
from nilr.report.sparkline import sparkline
from nilr.store import Store
from tests.recipes.models.test_models import save


def write_history(home: Path, name: str, steps: range) -> None:
    directory = home / "models" / name
    directory.mkdir(parents=True)
    lines = []
    for step in steps:
        by_layer = {"block1": 0.5, "head": 0.25}
        line = {"outer_step": step, "query_loss": 2 - step / 100, "accuracy_after": step / 100}
        lines.append(line | {"share_negative": 0.125, "share_negative_by_layer": by_layer, "outer_steps": 100})
    for step, mean in ((10, 0.5), (20, 0.25)):
        lines.append({"outer_step": step, "val_accuracy": {"mean": mean, "ci95": 0.01, "n_episodes": 9}})
    (directory / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_watch_shows_several_trainings_from_their_files_within_80_columns(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        write_history(home, f"metasgd-seed{seed}", range(1, 31))
    with Store(home).lock("metasgd-seed1"):
        assert run(["watch", "metasgd-*", "--once"]) == 0
    out = capsys.readouterr().out
    lines = [line.rstrip() for line in out.splitlines()]
    assert max(map(len, lines)) <= 80
    assert lines[0] == "metasgd-seed0: unsaved, 30/100 updates (30 %)"
    assert "metasgd-seed1: running, 30/100 updates (30 %)" in lines
    assert "  val 25.0 ± 1.0 % at 20, best 50.0 % at 10" in lines
    assert "  negative rates: 12.5 %" in lines
    assert "    block1 50.0  head 25.0" in lines
    assert any(line.startswith("  loss") and "█" in line and line.endswith(" 1.74") for line in lines)


def test_watch_measures_the_pace_since_the_process_began(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_history(home, "maml", range(1, 31))
    with Store(home).lock("maml"):
        now = time.time()
        os.utime(home / "locks" / "maml.lock", (now - 100, now - 100))
        os.utime(home / "models" / "maml" / "history.jsonl", (now, now))
        assert run(["watch", "--once"]) == 0
    # 30 updates in 100 s, and 70 to do
    assert re.search(r"0\.3 updates/s, 1 min 4\d s elapsed, 3 min 53 s left", capsys.readouterr().out)


def test_a_training_that_was_killed_before_its_first_save_is_unsaved(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_history(home, "m", range(1, 31))
    assert run(["watch", "m"]) == 0
    assert capsys.readouterr().out.startswith("m: unsaved, 30/100 updates (30 %)\n")
    assert run(["models", "ls"]) == 0
    assert re.search(r"^m +unsaved ", capsys.readouterr().out, re.MULTILINE)


def test_a_training_that_an_error_ended_has_failed_until_it_is_resumed(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = {"outer_step": 30, "failed": "the query loss is nan"}
    write_history(home, "m", range(1, 31))
    save(home, "m", "last", settings={"outer_steps": 100}, outer_step=30)
    with (home / "models" / "m" / "history.jsonl").open("a") as history:
        history.write(json.dumps(failed) + "\n")
    assert run(["watch", "m"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "m: failed, 30/100 updates (30 %)"
    assert shown[-1] == "  the query loss is nan"
    assert run(["models", "ls", "--status", "failed"]) == 0
    assert re.search(r"^m +failed .* the query loss is nan$", capsys.readouterr().out, re.MULTILINE)
    assert run(["models", "show", "m"]) == 0
    assert "failed: the query loss is nan" in capsys.readouterr().out
    with Store(home).lock("m"):
        assert run(["models", "ls"]) == 0
        assert re.search(r"^m +running ((?!nan).)*$", capsys.readouterr().out, re.MULTILINE)


def test_watch_ends_when_the_trainings_have_ended(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_history(home, "maml", range(1, 101))
    save(home, "maml")
    assert run(["watch"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("maml: finished, 100/100 updates (100 %)")
    assert "elapsed" not in out


def test_watch_names_what_is_missing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["watch"]) == 1
    assert capsys.readouterr().err.startswith("error: there is no training in ")
    write_history(home, "maml", range(1, 3))
    assert run(["watch", "malm"]) == 1
    assert "did you mean `maml`?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "drawn"),
    [([], ""), ([1.0], "▄"), ([0, 1], "▁█"), ([0, 0, 7, 7], "▁█"), ([5, 3, 2, 2], "█▁")],
)
def test_a_sparkline_draws_means_between_the_least_and_the_most(values: list[float], drawn: str) -> None:
    assert sparkline(values, 2) == drawn
