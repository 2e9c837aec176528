from __future__ import annotations

from pathlib import Path

from nilr.cli.reference import reference


def test_docs_cli_is_what_the_commands_say() -> None:
    page = Path(__file__).parents[2] / "docs" / "cli.md"
    assert page.read_text(encoding="utf-8") == reference(), "run `make docs`"
