"""What a shell completes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from docs.completions import offered
from nilr.cli.app import build_command
from nilr.cli.completion import completions
from nilr.commands import COMMANDS, result_types
from nilr.config.evaluation import ProbeSettings
from nilr.config.meta_train import PRESETS, TrainSettings
from nilr.config.models import ImportSettings
from nilr.meta.algorithms import ALGORITHMS
from nilr.meta.engine.registry import ENGINES
from nilr.meta.inner_lr import bounds
from nilr.models.registry import BODIES, build_learner
from nilr.portable.layouts import LAYOUTS
from nilr.results.gate import parse_limits
from nilr.runtime import find_device


def words(line: str, start: str) -> list[str]:
    """Return what is completed, without help."""
    return [word for word, _ in completions(line.split(), start)]


@pytest.fixture
def names(home: Path) -> Path:
    """Return a store that has two models, a pack and a result, all of them empty."""
    for model in ("birds", "bats"):
        (home / "models" / model).mkdir(parents=True)
        (home / "models" / model / "last.safetensors").touch()
    for file in ("datasets/birds-pack.h5", "results/20260101T000000Z-probe-x.json"):
        (home / file).parent.mkdir(exist_ok=True)
        (home / file).touch()
    return home


def test_completion_offers_what_the_tables_have() -> None:
    fields = {name: field for command in COMMANDS for name, field in command.settings.model_fields.items()}
    for name in ("algo", "preset", "adapt_part", "arch"):
        fields[name] = TrainSettings.model_fields.get(name) or ProbeSettings.model_fields[name]
    found = {name: offered(field) for name, field in fields.items()}
    assert found["algo"] == [*ALGORITHMS]
    assert found["preset"] == [*PRESETS]
    assert found["engine"] == ["auto", *ENGINES]
    assert found["arch"] == [*BODIES]
    assert {"probe", "bench", "models-import", "reproduce"} <= set(found["kind"]) <= result_types().keys()
    limits = parse_limits([f"{figure}0.5" for figure in found["fail_below"]])
    assert [f"{limit.protocol}.{limit.figure}=" for limit in limits] == found["fail_below"]
    assert offered(ImportSettings.model_fields["format"]) == [*dict.fromkeys(layout.format for layout in LAYOUTS)]
    learner = build_learner("conv4", n_way=2, image_size=16, filters=2, seed=0)
    assert found["layers"] == ["all", *learner.body.layers]
    assert found["adapt_part"] == ["all", "body", "head", *learner.body.layers]
    for device in found["device"]:
        assert device == "cuda" or find_device(device)
    for constraint in found["rate_constraint"]:
        assert bounds(constraint if constraint != "bounded:" else "bounded:-1,1")


_COMPLETIONS = {
    ("nilr mod", 1): "models",
    ("nilr models sh", 2): "show",
    ("nilr probe --prot", 2): "--protocol",
    ("nilr probe --protocol cro", 3): "cross-task",
    ("nilr probe --rates learned,tens", 3): "learned,tensor-mean",
    ("nilr probe m@x bir", 3): "birds",
    ("nilr probe --data bir", 3): "birds-pack",
    ("nilr meta-train --preset finn-1", 3): "finn-1shot",
    ("nilr results show 2026", 3): "20260101T000000Z-probe-x",
}


@pytest.mark.parametrize(("line", "completed"), _COMPLETIONS.items(), ids=lambda value: str(value))
def test_a_completion_imports_only_what_it_needs(names: Path, line: tuple[str, int], completed: str) -> None:
    typed, number = line
    shell = {"_NILR_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(number), "NILR_HOME": str(names)}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "nilr"],
        env={**os.environ, **shell},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [completed]
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "nilr.cli.completion" in imported
    heavy = {"torch", "numpy", "scipy", "rich", "h5py", "PIL", "matplotlib", "huggingface_hub", "platformdirs"}
    heavy |= {"pydantic", "nilr.checkpoint", "nilr.cli.run", "nilr.config.base"}
    assert not heavy & imported


def test_every_name_of_the_command_line_is_completed(home: Path) -> None:
    root = build_command()
    assert words("", "") == [*root.commands]
    for name, command in root.commands.items():
        for line, one in [(f"{name} {inner}", leaf) for inner, leaf in getattr(command, "commands", {}).items()] or [
            (name, command)
        ]:
            options = [flag for option in one.params for flag in (*option.opts, *option.secondary_opts) if "-" in flag]
            assert set(options) <= {*words(line, "-")}, line
            assert {"--help", "-h"} <= {*words(line, "-")}, line


@pytest.mark.parametrize(
    ("line", "start", "found"),
    [
        ("probe --protocol", "", ["meta-init", "same-task", "cross-task", "all"]),
        ("probe --protocol =", "cross", ["cross-task"]),
        ("probe", "--protocol=cross", ["cross-task"]),
        ("probe --protocol", "=", ["meta-init", "same-task", "cross-task", "all"]),
        ("probe", "--protocol=nosuch", []),
        ("probe --n-way", "", []),
        ("probe birds", "b", ["bats", "birds"]),
        ("probe -- --data", "b", ["bats", "birds"]),
        ("probe --quiet", "b", ["bats", "birds"]),
        ("probe --n-way --data", "b", ["birds-pack"]),
        ("probe --data birds-pack --data-b", "", ["birds-pack"]),
        ("models show", "", ["bats", "birds"]),
        ("models show birds", "", []),
        ("models compare birds", "ba", ["bats"]),
        ("data compare birds-pack", "", ["birds-pack"]),
        ("data compare birds-pack birds-pack", "", []),
        ("--home {home}/other probe", "", []),
        ("probe --home={home}/other", "", []),
        ("--home {home} probe", "ba", ["bats"]),
        ("help", "mod", ["models"]),
        ("help models", "sh", ["show"]),
        ("nosuch", "", []),
        ("probe --nosuch", "ba", ["bats"]),
    ],
)
def test_a_completion(names: Path, line: str, start: str, found: list[str]) -> None:
    assert words(line.format(home=names), start) == found


def test_an_option_is_completed_once_unless_it_may_be_repeated(home: Path) -> None:
    assert "--n-way" in words("probe", "--n")
    assert "--n-way" not in words("probe --n-way 5", "--n")
    assert "--n-way" not in words("probe --n-way=5", "--n")
    assert "--rates" in words("probe --rates learned", "--r")
    assert words("probe -q", "--quiet") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_own_form(shell: str, names: Path) -> None:
    asked = {
        "bash": {"COMP_WORDS": "nilr probe ba", "COMP_CWORD": "2"},
        "zsh": {"_TYPER_COMPLETE_ARGS": "nilr probe ba"},
        "fish": {"_TYPER_COMPLETE_ARGS": "nilr probe ba", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    env = {**os.environ, "_NILR_COMPLETE": f"complete_{shell}", "NILR_HOME": str(names), **asked}
    done = subprocess.run([sys.executable, "-m", "nilr"], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == {"zsh": "_arguments '*: :((\"bats\"))'\n"}.get(shell, "bats\n")
    assert done.stderr == ""
