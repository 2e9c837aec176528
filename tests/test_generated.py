from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from docs.generate import DOCS, generated, main

ROOT = Path(__file__).parents[1]
NAMES = (
    ".ci .gitignore CHANGELOG.md CITATION.cff LICENSE Makefile README.md constraints.txt docs hatch_build.py "
    "mkdocs.yml nilr pyproject.toml tests"
)


@pytest.mark.parametrize("name", generated())
def test_generated_files_are_current(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == generated()[name], "run `make docs`"


def test_there_is_no_schema_of_a_result_that_no_command_returns() -> None:
    schemas = {f"schemas/{file.name}" for file in (DOCS / "schemas").iterdir()}
    assert schemas == {name for name in generated() if name.startswith("schemas/")}


def test_help_of_the_generator_writes_nothing(tmp_path: Path) -> None:
    generator = [sys.executable, str(DOCS / "generate.py"), "--help"]
    shown = subprocess.run(generator, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert shown.startswith("usage: generate.py")
    assert list(tmp_path.iterdir()) == []


def test_the_generator_writes_where_it_should(tmp_path: Path) -> None:
    main(["--out", str(tmp_path)])
    assert {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.*")} == set(generated())


def test_nothing_unexpected_is_in_the_root_of_the_repository() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("this is not a git repository")
    assert {line.partition("/")[0] for line in listed.stdout.splitlines()} == set(NAMES.split())
