"""What `--dry-run` checks and shows; it writes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nilr.cli.boundary import run
from nilr.config.experiments import EXPERIMENTS


def files(home: Path) -> dict[Path, bytes]:
    """Return the contents of all files; a directory has none."""
    return {path: path.read_bytes() if path.is_file() else b"" for path in home.rglob("*")}


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
    for _ in range(2):
        assert run(["meta-train", "--algo", "metasgd", "--seeds", "2", *words, "--dry-run"]) == 0
        assert rows(capsys)["models"] == "metasgd-seed0, metasgd-seed1"
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


@pytest.mark.usefixtures("one_thread")
def test_a_dry_run_of_prepare_data_counts_images_and_writes_nothing(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, n_classes in (("train", 3), ("val", 2), ("test", 2)):
        for i in range(n_classes):
            folder = tmp_path / "images" / split / f"{split}{i}"
            folder.mkdir(parents=True)
            for j in range(4):
                Image.new("RGB", (20, 20), (i, j, 0)).save(folder / f"{j}.png")
    words = ["prepare-data", str(tmp_path / "images"), "--name", "birds", "--image-size", "16"]
    assert run([*words, "--dry-run"]) == 0
    planned = rows(capsys)
    assert not home.exists() or not files(home)
    assert run(["-q", *words, "--json"]) == 0
    packed = json.loads(capsys.readouterr().out)
    made = {
        split: f"{n['images']} images of {n['classes']} classes" for split, n in packed["metrics"]["splits"].items()
    }
    assert (
        {split: planned[split] for split in made} == made == {split: made[split] for split in ("train", "val", "test")}
    )
    assert (planned["pack"], planned["file"]) == ("birds", str(home / "datasets" / "birds.h5"))
    before = files(home)
    assert run([*words, "--dry-run"]) == 1
    assert "the pack `birds` already exists" in capsys.readouterr().err
    assert run([*words, "--force", "--dry-run"]) == 0
    assert rows(capsys)["file"].endswith("birds.h5 (replaces it)")
    assert files(home) == before


@pytest.mark.usefixtures("one_thread")
def test_a_dry_run_of_reproduce_names_what_is_left_and_writes_nothing(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["reproduce", "--preset", "demo", "--seeds", "2", "--home", str(home), "--outer-steps", "10"]
    n_runs = len(EXPERIMENTS["demo"].runs)
    n_models = sum(2 - min(1, run.fewer_seeds) for run in EXPERIMENTS["demo"].runs)
    assert run([*words, "--dry-run"]) == 0
    planned = rows(capsys)
    assert not home.exists() or not files(home)
    assert planned["models"] == f"{n_models} in {n_runs} runs; 0 are trained"
    assert planned["to"].startswith(f"do     {n_models} models: demo-maml-s0, ")
    assert planned["updates"] == str(10 * n_models)
    assert planned["data"].startswith("synthetic, which is made first: 16 px")
    assert planned["output"].startswith(f"{home}/reproduce/demo/report.html")
    assert run(["reproduce", "--preset", "cpu", "--home", str(home), "--dry-run"]) == 1
    assert "no pack `mini-imagenet-32`" in capsys.readouterr().err


@pytest.mark.usefixtures("pack", "one_thread")
@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("meta-train --n-way 900", "an episode needs 900 classes"),
        ("meta-train --engine fast", "unknown engine `fast`"),
        ("meta-train --data none", "no pack `none`"),
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


def test_a_word_after_json_that_may_be_an_argument_is_an_error(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "show", "--json", "m"]) == 2
    assert "`--json m` names a file or an argument" in capsys.readouterr().err
    assert not Path("m").exists()


def test_a_dry_run_replaces_no_file(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "kept.json"
    kept.write_text("kept")
    assert run(["prepare-data", "--synthetic", "--dry-run", "--json", str(kept)]) == 1
    assert "a dry run replaces no file" in capsys.readouterr().err
    assert kept.read_text() == "kept"
