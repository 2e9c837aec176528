from __future__ import annotations

import json
import os
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nilr.cli.boundary import run
from nilr.cli.show.watch import _lines
from nilr.cli.sparkline import sparkline
from nilr.config.commands import WatchSettings
from nilr.recipes import watch
from nilr.reporting import SilentReporter
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


def log(home: Path, name: str, *lines: tuple[float, dict[str, object]]) -> None:
    """Write a history whose lines have times in seconds since the epoch."""
    (home / "models" / name).mkdir(parents=True, exist_ok=True)
    timed = [line | {"logged_at": datetime.fromtimestamp(time, UTC).isoformat()} for time, line in lines]
    (home / "models" / name / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in timed))


def update(step: int) -> dict[str, object]:
    return {"outer_step": step, "outer_steps": 100, "query_loss": 1.0}


def validation(step: int) -> dict[str, object]:
    return {"outer_step": step, "val_accuracy": {"mean": 0.5, "ci95": 0.01, "n_episodes": 9}}


def watch_running(home: Path, began: float) -> str:
    """Return what `watch` shows of a training whose process began at a time."""
    with Store(home).lock("m"):
        os.utime(home / "locks" / "m.lock", (began, began))
        (state,) = next(watch.run(WatchSettings(once=True), SilentReporter()).states())
        return " ".join(_lines(state, 80))


def test_watch_measures_updates_and_validations_of_the_process_from_the_times_of_its_lines(home: Path) -> None:
    now = time.time()
    # an update takes 2 s and a validation 30 s; the process before took longer, and ended long ago
    log(
        home,
        "m",
        (now - 9000, update(10)),
        (now - 5000, update(20)),
        (now - 100, update(30)),
        (now - 80, update(40)),
        (now - 50, validation(40)),
        (now - 30, update(50)),
    )
    assert "0.5 updates/s, 1 min 50 s elapsed, 1 min 40 s left" in watch_running(home, now - 110)
    save(home, "m", "last", settings={"outer_steps": 100, "eval_every": 20}, outer_step=50)
    # 50 updates, and validations after 60, 80 and 100 updates; right after a save too
    assert "0.5 updates/s, 1 min 50 s elapsed, 3 min 10 s left" in watch_running(home, now - 110)


def test_watch_shows_no_pace_before_a_process_has_logged_twice(home: Path) -> None:
    now = time.time()
    log(home, "m", (now - 500, update(10)), (now - 490, update(20)), (now - 5, update(30)))
    shown = watch_running(home, now - 60)
    assert "1 min 0 s elapsed" in shown
    assert "updates/s" not in shown
    assert "left" not in shown


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
    save(home, "m", "last", settings={"outer_steps": 100}, outer_step=30)
    failed = {"outer_step": 30, "failed": "the query loss is nan"}
    log(home, "m", (1.0, update(30)), (2.0, failed))
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
