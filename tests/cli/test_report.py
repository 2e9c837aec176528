import json
from pathlib import Path

import pytest

from nilr.cli.boundary import run
from tests.recipes.test_report import save
from tests.report.material import full_probe

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def saved(tmp_path: Path) -> str:
    path = tmp_path / "probe.json"
    path.write_text(json.dumps(full_probe()), encoding="utf-8")
    return str(path)


def test_without_out_the_answer_is_a_table_with_sparklines_on_stdout(
    saved: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["report", saved]) == 0
    captured = capsys.readouterr()
    lines = [line.split() for line in captured.out.splitlines()]
    assert lines[0][:4] == ["model", "meta-init", "same-task", "cross-task"]
    assert lines[1][0] == "maml"
    assert "▁▃▆█" in lines[1]
    assert "--out report.html" in captured.err


def test_with_out_stdout_is_the_path_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = str(save(tmp_path / "probe.json", "meta-init"))
    out = tmp_path / "report.md"
    assert run(["-q", "report", saved, "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{out}\n"
    assert captured.err == ""


def test_omitted_figures_are_listed_with_what_they_need(saved: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", saved]) == 0
    assert "omitted: the inner rates, layer by layer; it needs the result of `nilr rates" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (["missing.json"], 1, "error: there is no file, no result and no model `missing.json`"),
        (["--out", "report.pdf"], 2, "error: the format of `--out report.pdf` is unknown"),
        (["--format", "pdf"], 2, "--format"),
    ],
)
def test_a_wrong_line_gets_one_error(
    args: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["report", *args]) == status
    assert said in capsys.readouterr().err
