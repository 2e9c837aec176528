from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from docs.generate import ROOT, generated, main
from nilr.cli.topics import EXAMPLES

DOCS = ROOT / "docs"
NAMES = (
    ".ci .gitignore CHANGELOG.md CITATION.cff LICENSE Makefile README.md constraints.txt docs hatch_build.py "
    "mkdocs.yml nilr pyproject.toml tests"
)


@pytest.mark.parametrize("name", generated())
def test_generated_files_are_current(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == generated()[name], "run `make docs`"


def test_there_is_no_schema_of_a_result_that_no_command_returns() -> None:
    schemas = {f"docs/schemas/{file.name}" for file in (DOCS / "schemas").iterdir()}
    assert schemas == {name for name in generated() if name.startswith("docs/schemas/")}


FORMATTERS = {
    "groff": ["groff", "-man", "-Kutf8", "-Tutf8", "-P-cbou", "-ww", "-rLL=200n"],
    "man": ["man", "--warnings=w", "-l"],
    "mandoc": ["mandoc", "-T", "lint", "-W", "warning"],
}


@pytest.mark.parametrize("program", FORMATTERS)
def test_the_manual_is_formatted_without_a_warning_and_has_every_flag_and_example(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"`{program}` is not installed")
    command = [*FORMATTERS[program], str(DOCS / "man" / "nilr.1")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    if program == "groff":
        page = (DOCS / "cli.md").read_text(encoding="utf-8")
        flags = set(re.findall(r"^\| `(--[a-z-]+)`", page, flags=re.MULTILINE))
        assert flags == set(re.findall(r"^ +(--[a-z-]+)", done.stdout, flags=re.MULTILINE))
        for example in (example for examples in EXAMPLES.values() for example in examples):
            assert re.search(rf"^ +{re.escape(example)}$", done.stdout, flags=re.MULTILINE), example


def test_a_wheel_installs_the_manual_and_a_source_distribution_contains_it() -> None:
    targets = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert targets["wheel"]["shared-data"] == {"docs/man/nilr.1": "share/man/man1/nilr.1"}
    assert "/docs/man" in targets["sdist"]["include"]


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
