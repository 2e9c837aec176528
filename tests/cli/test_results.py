from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from nilr.cli.boundary import run
from nilr.results.result import Result, to_json
from nilr.store import Store

OLD, NEW = "20260101T000000Z-probe-5-shot-abc123abc123", "20260102T000000Z-probe-abc124abc124"


@pytest.fixture
def stored(home: Path, probe_result: Result[Any]) -> Path:
    """Return a store with two results of a probe, with two episodes, and one of another command."""
    values = {"meta-init": [0.25, 0.5], "edits": {"absolute": {"same-task": [0.125, 1.0]}}}
    result = probe_result.model_copy(update={"per_episode": {"maml": values}})
    (home / "results").mkdir(parents=True)
    for name in (OLD, NEW):
        (home / "results" / f"{name}.json").write_text(to_json(result))
    (home / "results" / "20260103T000000Z-bench-abc125abc125.json").write_text("{}")
    return home


@pytest.mark.parametrize(
    ("args", "names"),
    [
        ([], ["20260103T000000Z-bench-abc125abc125", NEW, OLD]),
        (["--limit", "2"], ["20260103T000000Z-bench-abc125abc125", NEW]),
        (["--kind", "probe"], [NEW, OLD]),
        (["--uses", "maml"], [NEW, OLD]),
        (["--uses", "other"], []),
        (["*-5-shot-*"], [OLD]),
        (["20260102"], [NEW]),
    ],
)
def test_ls_lists_the_newest_first(
    stored: Path, capsys: pytest.CaptureFixture[str], args: list[str], names: list[str]
) -> None:
    assert run(["results", "ls", *args, "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == names
    assert all(row["models"] == ["maml"] and row["saved_at"] for row in rows if row["command"] == "probe")


def test_show_shows_a_result_as_its_command_does(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["results", "show", NEW]) == 0
    assert "maml@best (maml, update 7) on the test split of `toy`" in capsys.readouterr().out


def test_rm_removes_what_matches_and_nothing_without_yes(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["results", "rm", "*-probe-*"]) == 2
    assert len(list((stored / "results").iterdir())) == 3
    assert run(["results", "rm", "*-probe-*", "--yes"]) == 0
    assert [file.name for file in (stored / "results").iterdir()] == ["20260103T000000Z-bench-abc125abc125.json"]
    assert run(["results", "rm", "20260103T000000Z-bnch", "--yes"]) == 1
    assert "did you mean `20260103T000000Z-bench-abc125abc125`?" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_the_exported_tables_hold_every_figure_once_and_join(
    stored: Path, tmp_path: Path, form: str, probe_result: Result[Any]
) -> None:
    out = tmp_path / "out"
    assert run(["results", "export", "--output", str(out), "--format", form]) == 0
    summary, episodes = (read(tmp_path / f"out-{part}.{form}") for part in ("summary", "episodes"))
    figures = {(row["result"], row["protocol"], row["quantity"]): float(row["mean"]) for row in summary}
    assert len(figures) == len(summary) == 2 * 5
    assert figures[NEW, "same-task", "accuracy"] == probe_result.metrics["maml"].same_task.accuracy.mean
    assert figures[OLD, "cross-task", "delta"] == probe_result.metrics["maml"].cross_task.delta.mean
    of_edits = [(row["item"], row["protocol"], int(row["episode"]), float(row["value"])) for row in episodes[2:4]]
    assert of_edits == [("absolute", "same-task", 0, 0.125), ("absolute", "same-task", 1, 1.0)]
    key = ("result", "model", "section", "item", "protocol")
    assert {tuple(row[name] for name in key) for row in episodes[:2]} <= {
        tuple(r[name] for name in key) for r in summary
    }
    assert run(["results", "export", "--output", str(out), "--format", form]) == 1


@pytest.mark.usefixtures("stored")
def test_the_ending_of_the_output_selects_the_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["results", "export", "--output", "x.json"]) == 0
    assert run(["results", "export", "--output", "v1.2"]) == 0
    assert run(["results", "export", "--output", "y.csv", "--format", "csv"]) == 0
    names = ["v1.2-episodes.csv", "v1.2-summary.csv", "x-episodes.json", "x-summary.json"]
    found = sorted(path.name for path in tmp_path.glob("*-*.*"))
    assert found == [*names, "y-episodes.csv", "y-summary.csv"]
    assert len(read(tmp_path / "x-summary.json")) == 2 * 5
    capsys.readouterr()
    assert run(["results", "export", "--output", "table.xlsx"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: the format of `--output table.xlsx` is unknown\nhint: end the name "
    )
    assert run(["results", "export", "--output", "z.csv", "--format", "json"]) == 2
    assert capsys.readouterr().err.startswith("error: --format json does not fit --output `z.csv`\n")
    assert not list(tmp_path.glob("z*"))


def read(file: Path) -> list[dict[str, Any]]:
    if file.suffix == ".parquet":
        return list(pytest.importorskip("pyarrow.parquet").read_table(file).to_pylist())
    text = file.read_text()
    return list(json.loads(text)) if file.suffix == ".json" else list(csv.DictReader(text.splitlines()))


def test_the_kind_and_the_time_of_a_result_come_from_the_name_that_the_store_gives(
    home: Path, probe_result: Result[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = Store(home).result_path("probe", "5-shot")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json(probe_result))
    assert run(["results", "ls", "--kind", "probe", "--json", "-"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["command"], row["question"]) == ("probe", "5 shot")
    assert row["saved_at"].startswith("20")


def test_a_result_in_another_file_is_recognised_by_its_schema(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copy(stored / "results" / f"{NEW}.json", tmp_path / "mine.json")
    assert run(["results", "ls", str(copy), "--kind", "probe", "--json", "-"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["command"] == "probe"


def test_no_match_is_a_note_with_the_known_kinds(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["results", "ls", "--kind", "nosuch"]) == 0
    assert "no result matches; kind: " in capsys.readouterr().err
