"""The committed evidence: what it weighs, and that the page shows what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from docs.findings_tables import PAGES, TABLES, filled
from nilr.config.models import ImportSettings
from nilr.config.results import ReportSettings
from nilr.recipes import report
from nilr.recipes.models import importing as models_import
from nilr.reporting import SilentReporter

EVIDENCE = Path(__file__).parents[2] / "docs" / "reproduction"
SIGNS = TABLES["signs"]()
TITLES = {"maml": "MAML", "metasgd": "Meta-SGD"}


def test_the_evidence_takes_less_than_10_mb() -> None:
    files = [path for path in EVIDENCE.rglob("*") if path.is_file() and "paper" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 10e6


def test_the_histories_of_imported_models_are_drawn(tmp_path: Path) -> None:
    source = EVIDENCE / "cpu" / "cpu-metasgd-s0"
    models_import.run(ImportSettings(home=tmp_path, sources=(source,)), SilentReporter())
    made = report.run(ReportSettings(home=tmp_path, results=(source / "probe-398a4960aadf.json",)), SilentReporter())
    (history,) = made.material.histories
    assert (history.steps[0], history.steps[-1], history.evaluated) == (1, 9000, 8000)
    # `share_negative` of cpu-metasgd-s0/meta-train.json
    assert history.share_negative[-1] == 0.235916091524156
    assert sorted(history.by_layer) == ["block1", "block2", "block3", "block4", "head"]


def test_the_tables_of_the_pages_are_those_of_the_results() -> None:
    pages = [page.read_text(encoding="utf-8") for page in PAGES]
    assert sorted(name for page in pages for name in re.findall(r"<!-- table: (.*) -->", page)) == sorted(TABLES)
    assert [filled(page) for page in pages] == pages


@pytest.mark.parametrize("run", ["maml", "metasgd"])
@pytest.mark.parametrize("protocol", ["same-task", "cross-task"])
def test_the_interval_of_a_sign_for_new_seeds_is_what_scipy_finds_in_the_episodes(run: str, protocol: str) -> None:
    result = json.loads((EVIDENCE / "measures" / f"signs-{run}.json").read_text())
    seeds = [
        100 * (np.mean(episodes[protocol]) - np.mean(episodes["meta-init"]))
        for episodes in result["per_episode"].values()
    ]
    mean, error = np.mean(seeds), stats.sem(seeds)
    half = mean - stats.t.interval(0.95, len(seeds) - 1, mean, error)[0]
    (row,) = [line for line in SIGNS.splitlines() if line.startswith(f"| {TITLES[run]}, {protocol} |")]
    shown = row.split("|")[6].strip(" *")
    assert [float(number) for number in shown.split("±")] == pytest.approx([mean, half], abs=0.0051)


def test_the_page_compares_runs_by_what_least_squares_finds_in_the_probes() -> None:
    page = PAGES[1].read_text(encoding="utf-8")
    runs = {}
    for run in ("metasgd-nonneg", "metasgd"):
        models = json.loads((EVIDENCE / "cpu" / f"probe-3000-{run}.json").read_text())["metrics"].values()
        protocols = ("meta-init", "same-task", "cross-task")
        runs[run] = np.array([[100 * model[p]["accuracy"]["mean"] for p in protocols] for model in models])
    nonneg, free = runs["metasgd-nonneg"], runs["metasgd"]
    row = next(line for line in page.splitlines() if "`metasgd-nonneg` - `metasgd`, 3,000 episodes" in line)
    shown = [float(cell.split("±")[0].strip(" *")) for cell in row.split("|")[2:-1]]
    before, *after = (nonneg - free).mean(0)
    expected = [before]
    for column, difference in enumerate(after, start=1):
        start = np.concatenate([nonneg[:, 0], free[:, 0]])
        gain = np.concatenate([nonneg[:, column], free[:, column]]) - start
        design = np.stack([np.ones(10), np.arange(10) < 5, start], axis=1)
        expected += [difference, difference - before, np.linalg.lstsq(design, gain, rcond=None)[0][1]]
    assert shown == pytest.approx(expected, abs=0.005)
    correlations = [np.corrcoef(run[:, 0], run[:, 1] - run[:, 0])[0, 1] for run in (nonneg, free)]
    assert f"correlate with {correlations[0]:.2f} and {correlations[1]:.2f}" in page
    low, high = free[:, 0].min(), nonneg[:, 0].max()
    assert f"overlap only between {low:.1f} and {high:.1f} %" in page
