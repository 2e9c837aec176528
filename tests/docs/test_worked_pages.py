"""The tutorial and the page on extensions run as they are written, with small numbers."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from docs.pictures import DRAWN, PICTURES
from nilr import __version__
from nilr.cli.boundary import run
from nilr.meta.algorithms import ALGORITHMS
from nilr.models.registry import BODIES
from nilr.report.contents import KINDS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
QUICK = {
    "--image-size": "16",
    "--limit-per-class": "20",
    "--outer-steps": "2",
    "--eval-every": "2",
    "--eval-episodes": "2",
    "--n-episodes": "3",
}


@pytest.mark.usefixtures("home", "one_thread")
def test_the_commands_of_the_tutorial_lead_to_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    for command in re.findall(r"^    nilr (.*)$", text, flags=re.MULTILINE):
        words = shlex.split(command)
        quick = [QUICK.get(flag, word) for flag, word in zip(["", *words], words, strict=False)]
        if words[0] == "meta-train":
            quick += ["--filters", "4"]
        assert run(quick) == 0, command
    assert (tmp_path / "report.html").stat().st_size > 10_000


@pytest.mark.usefixtures("one_thread")
def test_the_examples_of_extensions_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("nilr.meta.algorithms.ALGORITHMS", dict(ALGORITHMS))
    monkeypatch.setattr("nilr.models.registry.BODIES", dict(BODIES))
    text = (DOCS / "extending.md").read_text(encoding="utf-8").replace("updates=20", "updates=1")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(block, names)
    assert re.fullmatch(r"[+-]\d\.\d{3} ± \d\.\d{3}\n", capsys.readouterr().out)


def test_each_figure_of_a_report_is_explained() -> None:
    text = (DOCS / "reading-a-report.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert sorted(kind.title.removesuffix(": exploratory") for kind in KINDS) == sorted(headings)


def test_each_picture_is_drawn_and_shown() -> None:
    names = [name for drawn in DRAWN.values() for name in drawn]
    assert sorted(path.stem for path in PICTURES.iterdir()) == sorted(names)
    shown = re.findall(r"\(pictures/(.*)\.svg\)", (DOCS / "reading-a-report.md").read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(names)
    assert sum(path.stat().st_size for path in PICTURES.iterdir()) < 1_000_000


@pytest.mark.parametrize("name", ["README.md", "CITATION.cff"])
def test_a_citation_has_the_version(name: str) -> None:
    assert re.findall(r"^ *version *[:=] *\{?([\d.]+)", (ROOT / name).read_text(encoding="utf-8"), flags=re.M) == [
        __version__
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(("limit", "status"), [("0.25", 0), ("0.99", 1)])
def test_the_script_of_a_gate_runs_as_it_stands(tmp_path: Path, limit: str, status: int) -> None:
    (script,) = re.findall(r"```bash\n(.*?)```", (DOCS / "ci-gate.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "nilr").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m nilr "$@"\n')
    (tmp_path / "nilr").chmod(0o755)
    path = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    script = script.replace("accuracy=0.25", f"accuracy={limit}")
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=path, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert ("same-task" in done.stderr) == bool(status)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, "WARNING -" in done.stderr) == (0, False), done.stderr
