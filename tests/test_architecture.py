"""The map of `nilr/__init__.py`, held: who may import whom, how long things may be, and what stands nowhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import nilr

PACKAGE = Path(__file__).parents[1] / "nilr"
FILES = sorted(PACKAGE.rglob("*.py"))

KEPT = {"portable", "tensorfile", "checkpoint", "history", "loggers", "training_state", "store", "results", "runtime"}
LAYERS = (
    {"errors", "words", "numbers", "config", "reporting", "files", "locks", "signals", "limits"},
    {"metrics", "inference", "episodes", "distributed"},
    {"models"},
    {"meta"},
    {"probes"},
    {"data"},
    KEPT,
    {"claims"},
    {"commands"},
    {"report", "sections"},
    {"recipes"},
    {"library"},
    {"cli"},
)
CORE = {"metrics", "inference", "episodes", "models", "meta", "probes"}

BARRED = (
    (LAYERS[0], {"torch", "typer", "rich"}),
    (CORE, {"h5py", "PIL", "json", "pathlib", "logging", "rich", "typer"}),
    ({"commands"}, {"torch"}),
    ({"data", "claims", "commands", "report", "sections", "recipes", "library", *KEPT}, {"typer", "rich"}),
)


def area(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            module = node.module or ""
            yield from (f"nilr.{alias.name}" for alias in node.names) if module == "nilr" else (module,)


def layer(name: str) -> int:
    return next(i for i, names in enumerate(LAYERS) if name in names)


every_file = pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))


@every_file
def test_imports_run_upwards_only(file: Path) -> None:
    if area(file) in ("__init__", "__main__"):
        return
    for module in imported(file):
        first, _, rest = module.partition(".")
        if first == "nilr" and rest not in ("", "__version__"):
            used = rest.partition(".")[0]
            assert layer(used) <= layer(area(file)), f"{area(file)} imports {module}"


@every_file
def test_what_an_area_must_not_know_it_does_not_import(file: Path) -> None:
    names = {module.partition(".")[0] for module in imported(file)}
    for areas, barred in BARRED:
        assert area(file) not in areas or not names & barred


@every_file
def test_the_core_takes_tensors_and_plain_values(file: Path) -> None:
    if area(file) in CORE:
        for module in imported(file):
            assert not module.startswith(("nilr.config", "nilr.reporting", "nilr.files"))


@every_file
def test_nothing_prints_and_nothing_asserts(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        assert not isinstance(node, ast.Assert), f"line {node.lineno}"
        called = node.func if isinstance(node, ast.Call) else None
        assert not (isinstance(called, ast.Name) and called.id == "print"), f"line {node.lineno}"


@every_file
def test_files_and_functions_stay_short(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            described = len((ast.get_docstring(node, clean=False) or "").splitlines())
            assert (node.end_lineno or 0) - node.lineno - described < 50, node.name


def test_every_module_stands_in_a_layer() -> None:
    areas = {area(file) for file in FILES} - {"__init__", "__main__"}
    assert areas == set().union(*LAYERS)


def test_the_map_in_the_docstring_is_the_one_held_here() -> None:
    rows = (nilr.__doc__ or "").split(":\n\n")[1].splitlines()
    names = [re.split(r"\s{2,}", row)[0].split(", ") for row in rows if row and not row.startswith(" ")]
    assert [set(row) for row in names] == list(LAYERS)
