"""The committed evidence: what it weighs, and that the page shows what it says."""

from __future__ import annotations

import re
from pathlib import Path

from docs.reproduction_tables import PAGE, TABLES, filled
from nilr.config.commands import ImportSettings, ReportSettings
from nilr.recipes import report
from nilr.recipes.models import importing as models_import
from nilr.reporting import SilentReporter

EVIDENCE = Path(__file__).parents[2] / "docs" / "reproduction"


def test_the_evidence_takes_less_than_8_mb() -> None:
    files = [path for path in EVIDENCE.rglob("*") if path.is_file() and "paper" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 8e6


def test_the_histories_of_imported_models_are_drawn(tmp_path: Path) -> None:
    source = EVIDENCE / "cpu" / "cpu-metasgd-s0"
    models_import.run(ImportSettings(home=tmp_path, sources=(source,)), SilentReporter())
    made = report.run(ReportSettings(home=tmp_path, results=(source / "probe-398a4960aadf.json",)), SilentReporter())
    (history,) = made.material.histories
    assert (history.steps[0], history.steps[-1], history.evaluated) == (1, 9000, 8000)
    # `share_negative` of cpu-metasgd-s0/meta-train.json
    assert history.share_negative[-1] == 0.235916091524156
    assert sorted(history.by_layer) == ["block1", "block2", "block3", "block4", "head"]


def test_the_tables_of_the_page_are_those_of_the_results() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"<!-- table: (.*) -->", page) == list(TABLES)
    assert filled(page) == page
    # typed from docs/reproduction/cpu/reproduce.json and probe-3000-metasgd.json
    assert "| Meta-SGD, same-task | loss | **+0.26 ± 0.21** refuted | **+0.25 ± 0.15** refuted |" in page
