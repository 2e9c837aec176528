"""The page and the notebook on the library run, and the notebook's outputs are those of its code."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

import nilr

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "library.md").read_text(encoding="utf-8")
NOTEBOOK = DOCS / "library.ipynb"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def kinds(notebook: dict[str, Any]) -> list[list[str]]:
    return [[kind for output in cell["outputs"] for kind in output["data"]] for cell in code_cells(notebook)]


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.usefixtures("home", "one_thread")
def test_the_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in BLOCKS:
        exec(block, names)
    lines = [line for line in BLOCKS[0].splitlines() if line]
    assert len(lines) <= 15
    assert (tmp_path / "protocols.png").stat().st_size > 1000
    assert len(names["accuracies"]) == 2 * 3 * 5  # models, protocols, features and layers
    assert names["model"].learner.body.layers == ("0", "1")


def test_the_page_lists_the_public_functions() -> None:
    table = PAGE.partition("## The functions")[2].partition("\n\n`help")[0]
    listed = re.findall(r"`([a-z_]+)`", re.sub(r"\| [^|]* \|$", "", table, flags=re.MULTILINE))
    assert sorted(listed) == [name for name in nilr.__all__ if name.islower() and name != "__version__"]


@pytest.mark.usefixtures("home", "one_thread")
def test_the_notebook_runs_and_its_outputs_are_of_this_code() -> None:
    pytest.importorskip("pandas")
    spec = importlib.util.spec_from_file_location("notebook", DOCS / "notebook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    committed = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert NOTEBOOK.stat().st_size < 200_000
    fewer = {"updates=100": "updates=2", "n_episodes=100": "n_episodes=5"}
    for cell in code_cells(short := json.loads(json.dumps(committed))):
        for long, quick in fewer.items():
            cell["source"] = [line.replace(long, quick) for line in cell["source"]]
    assert kinds(module.execute(short)) == kinds(committed)
    pictures = [kind for found in kinds(committed) for kind in found if kind == "image/png"]
    assert len(pictures) == 2
