"""The whole path as a user types it: the real command line, one process per command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nilr.checkpoint import read_manifest
from nilr.claims import DEMONSTRATION


class Terminal:
    """Runs `nilr` in a directory, with a store of its own.

    Args:
        directory: where the commands run.
        home: the store.
    """

    def __init__(self, directory: Path, home: Path) -> None:
        self.directory, self.home = directory, home

    def __call__(self, line: str, *more: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Run one command line, check its exit status, and return what it said."""
        command = [sys.executable, "-m", "nilr", *line.split(), *more]
        settings = {"NILR_HOME": str(self.home), "NILR_THREADS": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command,
            cwd=self.directory,
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == status, f"{line}: {done.stderr}"
        return done

    def json(self, line: str, *more: str) -> Any:
        """Run one command line and return the JSON that stands on its standard output."""
        done = self(f"-q {line} --json -", *more)
        assert done.stderr == ""
        return json.loads(done.stdout)

    def results(self, command: str) -> list[Path]:
        """Return the stored results of a command."""
        return sorted(self.home.glob(f"results/*-{command}-*.json"))


@pytest.fixture
def nilr(tmp_path: Path, home: Path) -> Terminal:
    """Return a shell in an empty directory with an empty store."""
    return Terminal(tmp_path, home)


def check_protocols(figures: dict[str, Any], n_episodes: int) -> None:
    """Check the part of a probe's result that scripts read."""
    assert set(figures) - {"signs"} == {"meta-init", "same-task", "cross-task"}
    for protocol in ("meta-init", "same-task", "cross-task"):
        found = figures[protocol]
        assert set(found["accuracy"]) == {"mean", "ci95", "n_episodes"}
        assert 0 <= found["accuracy"]["mean"] <= 1
        assert found["accuracy"]["n_episodes"] == n_episodes
        assert found["delta"] is None if protocol == "meta-init" else {"mean", "ci95", "p"} <= set(found["delta"])


def test_generated_images_to_probe_result_as_a_user_types_it(nilr: Terminal) -> None:
    small = "--data synthetic --filters 4 --meta-batch-size 2 --outer-steps 6 --eval-every 3 --eval-episodes 3"
    packed = nilr("prepare-data --synthetic --image-size 16 --limit-per-class 20")
    assert packed.stdout == ""
    for algo in ("metasgd", "maml"):
        assert nilr(f"meta-train --algo {algo} {small}").stdout == ""

    probed = nilr("probe --protocol cross-task --n-episodes 4")
    assert probed.stdout == ""
    assert "\nmaml@best (maml, update " in probed.stderr
    assert probed.stderr.splitlines()[-1] == DEMONSTRATION
    result = nilr.json("probe --protocol all --n-episodes 4")
    check_protocols(result["metrics"]["maml"], 4)
    assert (result["data"]["generated"], result["notes"][-1]) == (True, DEMONSTRATION)
    assert read_manifest(nilr.home / "models" / "maml" / "best.safetensors").data.generated is True
    assert result["question"] == "4 episodes"
    assert all("-probe-4_episodes-" in path.name for path in nilr.results("probe"))
    assert DEMONSTRATION in nilr("report").stderr
    assert len(nilr.results("probe")) == 2

    adapted = nilr.json("adapt maml --split test --episode 7")
    assert len(adapted["metrics"]["predictions"]) == 75
    assert adapted["models"][0]["name"] == "maml"

    listed = [line.split()[:2] for line in nilr("models ls").stdout.splitlines()[1:]]
    assert listed == [["maml", "finished"], ["maml-adapted", "finished"], ["metasgd", "finished"]]
    assert nilr("models verify").stdout.count(" ok") == 9
    assert nilr("models show metasgd").stdout.splitlines()[1].split() == ["algorithm", "metasgd"]
    assert Path(nilr("models path metasgd@last").stdout.strip()).name == "last.safetensors"
    nilr("models rm metasgd --yes")
    assert not (nilr.home / "models" / "metasgd").exists()
    missing = nilr("models path metasgd", status=1)
    assert missing.stdout == ""
    assert missing.stderr.startswith("error: no model `metasgd`")
    assert missing.stderr.splitlines()[1] == "hint: known: maml, maml-adapted"


@pytest.mark.slow
@pytest.mark.real_data
def test_the_real_archive_gives_the_probe_s_numbers_with_four_commands(mini_imagenet: Path, nilr: Terminal) -> None:
    tars = [str(mini_imagenet / f"{split}.tar") for split in ("train", "val", "test")]
    packed = nilr.json("prepare-data --limit-per-class 20 --image-size 32", *tars)
    assert packed["metrics"]["splits"] == {
        "train": {"classes": 64, "images": 1280},
        "val": {"classes": 16, "images": 320},
        "test": {"classes": 20, "images": 400},
    }
    quick = "--filters 4 --meta-batch-size 2 --outer-steps 4 --eval-every 2 --eval-episodes 3"
    for algo in ("maml", "metasgd"):
        nilr(f"-q meta-train --algo {algo} {quick}")
    probed = nilr.json("probe maml metasgd --n-episodes 4")
    assert probed["data"]["name"] == "mini-imagenet"
    assert probed["data"]["digest"] == packed["data"]["digest"]
    assert [model["algo"] for model in probed["models"]] == ["maml", "metasgd"]
    for name in ("maml", "metasgd"):
        check_protocols(probed["metrics"][name], 4)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_shows_trained_features_well_above_untrained_ones(tmp_path: Path) -> None:
    shell = Terminal(tmp_path, tmp_path / "nilr-demo")
    probed = shell.json("demo")
    means = {name: found["meta-init"]["accuracy"]["mean"] for name, found in probed["metrics"].items()}
    assert means.pop("raw pixels") <= 0.30
    untrained = means.pop("untrained body")
    assert untrained <= 0.40
    assert set(means) == {"maml", "metasgd"}
    per_episode = {name: values["meta-init"] for name, values in probed["per_episode"].items()}
    for name, mean in means.items():
        assert mean >= untrained + 0.15
        differences = [a - b for a, b in zip(per_episode[name], per_episode["untrained body"], strict=True)]
        assert lower_end(differences) > 0
        check_protocols(probed["metrics"][name], len(differences))
    assert "<html" in (tmp_path / "nilr-demo" / "report.html").read_text()
    assert len(shell.results("meta-train")) == 2
    assert len(shell.results("prepare-data")) == len(shell.results("probe")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["nilr-demo"]


def lower_end(values: list[float]) -> float:
    """Return the lower end of the normal 95 % interval of a mean."""
    n = len(values)
    mean = sum(values) / n
    variance = sum((value - mean) ** 2 for value in values) / (n - 1)
    return float(mean - 1.96 * (variance / n) ** 0.5)
