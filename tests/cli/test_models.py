from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from nilr.checkpoint import Manifest, load_checkpoint, save_checkpoint
from nilr.cli.boundary import run
from nilr.meta.algorithms import ALGORITHMS
from nilr.models.registry import build_learner
from nilr.store import Store
from tests.cli.screens import Terminal


@pytest.fixture
def model(home: Path) -> Path:
    """Return the checkpoint of a small model named `tiny`, whose head's bias has the only learned rate."""
    path = home / "models" / "tiny" / "last.safetensors"
    origin: dict[str, Any] = {
        "architecture": {"name": "conv4", "arguments": {"n_way": 2, "image_size": 16, "filters": 2}},
        "algorithm": {"name": "metasgd"},
        "settings": {"algo": "metasgd", "n_shot": 1, "outer_steps": 100, "outer_lr": 0.00123456, "rectified": False},
        "data": {"name": "synthetic", "digest": "ab", "image_size": 16},
        "metrics": {
            "best_val_accuracy": {"mean": 0.625, "ci95": 0.01, "n_episodes": 10},
            "classes": ["cat", "dog"],
            "loss": 1.23399,
        },
        "engine": "reference",
        "parent": None,
    }
    learner = build_learner("conv4", n_way=2, image_size=16, filters=2)
    rates = {"head.bias": torch.tensor([0.5, -0.25])}
    save_checkpoint(path, params=learner.initial_params(), inner_lr=rates, outer_step=40, **origin)
    return path


WRITTEN = {"format", "format_version", "nilr_version", "saved_at", "tensors_sha256"}


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_ls_prints_one_line_per_model(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "ls"]) == 0
    header, row = lines(capsys)
    assert header == "name status val, % algo data px age size task updates arch parent problem"
    assert row.startswith("tiny interrupted 62.50 metasgd synthetic 16 20")
    assert row.endswith(f" {model.stat().st_size} 2-way 1-shot 40/100 conv4 - -")


def add(model: Path, name: str, **change: object) -> None:
    """Save the model under another name, with another manifest."""
    checkpoint = load_checkpoint(model)
    manifest = checkpoint.manifest.model_dump(include={*Manifest.model_fields} - WRITTEN) | change
    path = model.parents[1] / name / "last.safetensors"
    save_checkpoint(path, params=checkpoint.params, inner_lr=checkpoint.inner_lr, **manifest)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ["best", "maml", "tiny"]),
        (["--sort", "accuracy"], ["best", "tiny", "maml"]),
        (["--sort", "age"], ["maml", "best", "tiny"]),
        (["--algo", "maml"], ["maml"]),
        (["--data", "birds"], ["best"]),
        (["--status", "finished"], ["best"]),
        (["m*", "tiny"], ["maml", "tiny"]),
        (["--algo", "metasdg"], []),
    ],
)
def test_ls_sorts_and_filters(
    model: Path, capsys: pytest.CaptureFixture[str], words: list[str], names: list[str]
) -> None:
    birds = {"name": "birds", "digest": "cd", "image_size": 32}
    metrics = {"best_val_accuracy": {"mean": 0.75, "ci95": 0.01, "n_episodes": 10}}
    add(model, "best", data=birds, outer_step=100, metrics=metrics)
    add(model, "maml", algorithm={"name": "maml"}, metrics={})
    assert run(["models", "ls", *words, "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert [row["name"] for row in json.loads(out)] == names
    if not names:
        assert err == "no model matches; algo: maml, metasgd\n"


@pytest.mark.parametrize(
    ("width", "left_out"),
    [(60, "data, px, age, size, task, updates, arch"), (80, "size, task, updates, arch"), (140, None)],
)
def test_a_narrow_terminal_lists_each_model_in_one_line(
    model: Path, monkeypatch: pytest.MonkeyPatch, width: int, left_out: str | None
) -> None:
    stdout = Terminal()
    monkeypatch.setattr("sys.stdout", stdout)
    monkeypatch.setenv("COLUMNS", str(width))
    add(model, "metasgd-5shot-non-negative")
    assert run(["models", "ls"]) == 0
    shown = [line.strip() for line in stdout.getvalue().splitlines() if line.strip()]
    assert [line.split()[:2] for line in shown[2:4]] == [
        ["metasgd-5shot-non-negative", "interrupted"],
        ["tiny", "interrupted"],
    ]
    assert " ".join(shown[4:]) == ("" if left_out is None else f"not shown at this width: {left_out}")


def test_ls_lists_adapted_models_below_their_parent(
    model: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parents = {"a-adapted": "tiny", "again": "a-adapted", "last": "gone", "b": "c", "c": "b", "self": "self"}
    for name, parent in parents.items():
        add(model, name, parent={"name": parent, "digest": "ab"})
    assert run(["models", "ls"]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [re.split(r" +(?:finished|interrupted) ", row)[0] for row in rows] == [
        "last",
        "self",
        "tiny",
        "  a-adapted",
        "    again",
        "b",
        "  c",
    ]


def test_path_prints_the_path_and_nothing_else(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-q", "models", "path", "tiny"]) == 0
    assert capsys.readouterr() == (f"{model}\n", "")


def test_show_prints_a_card_with_what_differs_from_the_defaults(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    validations = (
        {"outer_step": n, "val_accuracy": {"mean": n / 100, "ci95": 0.01, "n_episodes": 9}} for n in (30, 40)
    )
    (model.parent / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in validations))
    assert run(["models", "show"]) == 0
    shown = [re.sub(r"saved \d+ s", "saved 0 s", line) for line in lines(capsys)]
    assert shown[:10] == [
        "tiny@last",
        "algorithm metasgd",
        "body conv4, filters 2; 184 parameters",
        "task 2-way 1-shot",
        "images synthetic, 16 px",
        "status interrupted",
        "trained 40 of 100 updates, saved 0 s ago",
        "not default --outer-steps 100 --outer-lr 0.00123456",
        "best validation 62.50 ± 1.00 % (10 episodes)",
        "all validations ▁█ 30.00 to 40.00 %",
    ]
    assert shown[10].startswith("files last.safetensors, 2.")
    assert shown[-1] == "head -0.25 █▁▁▁▁▁▁▁▁▁▁▁▁▁▁█ 0.5 0.125 50.00 2"


@pytest.mark.parametrize(("updates", "running"), [(40, False), (40, True), (100, False)])
def test_every_command_has_the_same_word_for_the_status(
    model: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], updates: int, running: bool
) -> None:
    add(model, "m", outer_step=updates, algorithm=ALGORITHMS["metasgd"].to_stored())
    (home / "models" / "m" / "history.jsonl").write_text(json.dumps({"outer_step": updates, "outer_steps": 100}) + "\n")
    shutil.copytree(home / "models" / "m", tmp_path / "copy")
    expected = "running" if running else "interrupted" if updates < 100 else "finished"
    with Store(home).lock("m") if running else contextlib.nullcontext():
        assert run(["models", "ls", "m", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)[0]["status"] == expected
        assert run(["models", "show", "m", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["metrics"]["status"] == expected
        assert run(["watch", "m", "--once"]) == 0
        assert capsys.readouterr().out.startswith(f"m: {expected}, {updates}/100 updates")
    assert run(["models", "import", str(tmp_path / "copy"), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)["metrics"]["copy"]["status"]
    assert status == ("interrupted" if updates < 100 else "finished")


def test_show_writes_and_prints_json(
    model: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "show", "tiny", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["schema"] == "nilr/models-show/1"
    assert result["metrics"]["manifest"]["settings"]["outer_steps"] == 100
    (rates,) = result["metrics"]["rates_by_tensor"]
    assert rates["histogram"] == [1, *[0] * 14, 1]
    figures = {"name": "head.bias", "count": 2, "min": -0.25, "mean": 0.125, "max": 0.5, "share_negative": 0.5}
    assert figures.items() <= rates.items()
    assert result["metrics"]["changed_settings"] == {"outer_steps": 100, "outer_lr": 0.00123456}
    assert err.startswith("tiny@last")
    assert run(["models", "show", "tiny", "--json", str(tmp_path / "x.json")]) == 0
    assert capsys.readouterr().out.startswith("tiny@last")
    assert json.loads((tmp_path / "x.json").read_text())["metrics"] == result["metrics"]
    assert not (home / "results").exists()


def test_compare_shows_only_what_differs(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(model, "other", settings={"algo": "metasgd", "n_shot": 5, "outer_steps": 100}, metrics={"loss": 1.5})
    assert run(["models", "compare", "tiny", "other"]) == 0
    shown = lines(capsys)
    assert shown[:3] == ["settings tiny@last other@last", "n_shot 1 5", "outer_lr 0.00123456 -"]
    assert "best validation 62.50 ± 1.00 % (10 episodes) -" in shown
    assert "loss 1.234 1.5" in shown
    assert shown[-1] == "head other@last -0.25 █▁▁▁▁▁▁▁▁▁▁▁▁▁▁█ 0.5 0.125 50.00 2"
    assert not any(line.startswith(("outer_steps", "filters")) for line in shown)


def test_compare_needs_two_models(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "compare", "tiny"]) == 2
    assert capsys.readouterr().err.startswith("error: a comparison needs at least two models\nhint: name two or more")


def test_verify_names_the_broken_file_and_fails(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "models" / "broken").mkdir(parents=True)
    (home / "models" / "broken" / "last.safetensors").write_bytes(b"<html>")
    assert run(["models", "verify"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[1].startswith("broken  last.safetensors  ")
    assert err.startswith("error: 1 of 1 file failed the check: broken/last.safetensors\n")


def test_rm_removes_what_is_named(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "rm", "--yes", "tiny", "tiny"]) == 0
    assert not model.parent.exists()
    assert capsys.readouterr() == ("", "removed: tiny\n")


@pytest.mark.parametrize(
    ("answer", "removed"), [("y\n", True), ("YES\n", True), ("\n", False), ("n\n", False), ("", False)]
)
def test_rm_on_a_terminal_needs_a_yes(model: Path, monkeypatch: pytest.MonkeyPatch, answer: str, removed: bool) -> None:
    stderr = Terminal()
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    monkeypatch.setattr("sys.stderr", stderr)
    assert run(["models", "rm", "tiny"]) == (0 if removed else 1)
    assert stderr.getvalue().startswith("remove `tiny`? [y/N] ")
    assert ("error: not confirmed; nothing was removed\n" in stderr.getvalue()) is not removed
    assert model.exists() is not removed


def test_rm_without_a_terminal_needs_yes_as_a_flag(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    monkeypatch.setenv("NILR_YES", "1")
    assert run(["-q", "models", "rm", "tiny"]) == 2
    assert model.exists()
    assert capsys.readouterr().err == (
        "error: removing `tiny` needs a confirmation, but there is no terminal\nhint: add --yes\n"
    )


def test_rm_names_a_missing_model_before_it_asks(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "rm", "tiny", "tinny"]) == 1
    assert model.exists()
    assert capsys.readouterr().err.startswith("error: no model `tinny` in ")


def test_rm_without_a_name_removes_nothing(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "rm"]) == 2
    assert model.exists()
    assert capsys.readouterr().err == (
        "error: no model is named\nhint: name one or more; `nilr models ls` lists them\n"
    )


COMMITTED = Path(__file__).parents[2] / "docs" / "reproduction" / "cpu"


def test_import_copies_models_and_lists_them(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = [str(COMMITTED / name) for name in ("cpu-maml-s0", "cpu-metasgd-s0")]
    assert run(["models", "import", *sources, "--json", "-"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["schema"] == "nilr/models-import/1"
    assert result["config"]["sources"] == ["cpu-maml-s0", "cpu-metasgd-s0"]
    assert [(name, model["imported"]) for name, model in result["metrics"].items()] == [
        ("cpu-maml-s0", True),
        ("cpu-metasgd-s0", True),
    ]
    row = ["cpu-maml-s0", "imported", "finished", "9000", "best,", "history"]
    assert row in [line.split() for line in err.splitlines()]
    assert "next: nilr models show cpu-maml-s0\n" in err
    assert len(list((home / "results").glob("*-models-import-*.json"))) == 1
    assert run(["-q", "models", "import", *sources]) == 0
    assert capsys.readouterr() == ("", "")
    assert run(["models", "show", "cpu-maml-s0"]) == 0
    assert run(["models", "rm", "cpu-maml-s0", "-y"]) == 0


def test_import_of_nothing_is_an_error_of_the_command_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "import"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: no model to import is named\nhint: name directories that contain "
    )
    assert run(["models", "import", str(COMMITTED)]) == 1
    *_, error, hint = capsys.readouterr().err.splitlines()
    assert error == f"error: `{COMMITTED}` contains no checkpoint"
    assert hint.startswith("hint: name directories that contain ")
    assert run(["models", "import", str(COMMITTED / "probe-s0-s1.json")]) == 1
    assert "hint: name directories that contain " in capsys.readouterr().err
    assert not (home / "models").exists()


def test_an_unknown_model_is_an_error_that_lists_the_known_ones(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "path", "tinny"]) == 1
    assert "tiny" in capsys.readouterr().err.splitlines()[1]


def test_a_training_that_failed_before_its_first_save_has_its_error_everywhere(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = home / "models" / "m"
    directory.mkdir(parents=True)
    lines = {"outer_step": 1, "outer_steps": 5}, {"outer_step": 1, "failed": "the disk burns"}
    (directory / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run(["models", "ls", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["status"], row["problem"]) == ("unsaved", "the disk burns")
    assert run(["watch", "m", "--once"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("m: unsaved, 1/5 updates")
    assert "the disk burns" in shown


def test_a_model_without_a_training_of_its_own_is_finished_everywhere(
    model: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(model, "m", outer_step=40, parent={"name": "p", "digest": "ab"})
    assert run(["models", "ls", "m", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["status"] == "finished"
    assert run(["watch", "m", "--once"]) == 0
    assert capsys.readouterr().out.startswith("m: finished")
