"""What `--dry-run` checks and shows; it writes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nilr.cli.boundary import run


def files(home: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}


def rows(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    return dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())


@pytest.mark.usefixtures("pack", "one_thread")
def test_a_dry_run_describes_a_training_and_a_probe_and_writes_nothing(
    home: Path, capsys: pytest.CaptureFixture[str], quick: dict[str, Any]
) -> None:
    words = [word for name, value in quick.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    before = files(home)
    assert run(["meta-train", "--algo", "metasgd", "--seeds", "3,8", "--name", "m", *words, "--dry-run"]) == 0
    shown = rows(capsys)
    assert shown["models"] == "m-seed3, m-seed8"
    assert shown["updates"].startswith(f"{quick['outer_steps']:,} of ")
    assert "algo metasgd" in shown["settings"]
    assert files(home) == before
    assert run(["-q", "meta-train", "--name", "m", *words]) == 0
    before = files(home)
    capsys.readouterr()
    assert run(["meta-train", "--resume", "m", "--dry-run"]) == 0
    assert rows(capsys)["models"] == f"m (resumes after update {quick['outer_steps']:,})"
    assert run(["probe", "m", "--n-episodes", "7", "--n-query", "1", "--dry-run"]) == 0
    shown = rows(capsys)
    assert (shown["models"], shown["settings"]) == ("m", "n_query 1; n_episodes 7")
    assert shown["episodes"].startswith("7, ")
    assert run(["probe", "m", "--n-episodes", "7", "--n-query", "1", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == shown
    assert files(home) == before


@pytest.mark.usefixtures("pack", "one_thread")
@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("meta-train --n-way 900", "an episode needs 900 classes"),
        ("meta-train --engine fast", "unknown engine `fast`"),
        ("meta-train --data none", "no dataset `none`"),
        ("probe none", "no model"),
    ],
)
def test_a_dry_run_finds_the_mistakes_of_a_command(
    home: Path, capsys: pytest.CaptureFixture[str], args: str, message: str
) -> None:
    before = files(home)
    assert run([*args.split(), "--dry-run"]) != 0
    assert message in capsys.readouterr().err
    assert files(home) == before
