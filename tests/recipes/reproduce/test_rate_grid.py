"""Rate grids: their cells against single probes, their optimum against counting by hand, and their figure."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from nilr.config.evaluation import ProbeSettings
from nilr.config.experiments import EXPERIMENTS, GRID_RATES
from nilr.config.packs import PrepareDataSettings
from nilr.config.reproduce import ReproduceSettings
from nilr.recipes import prepare_data, probe, report, reproduce
from nilr.recipes.reproduce.rate_grid import find_optimum
from nilr.report.figures.rate_grid import KIND
from nilr.reporting import SilentReporter
from nilr.results.reproduce import GridCell, OverSeeds, ReproduceMetrics
from nilr.results.result import Result
from tests.cli.screens import shown
from tests.report.material import material, rate_grid

pytestmark = pytest.mark.usefixtures("home", "one_thread")

ZERO = OverSeeds(mean=0, ci95=None, spread=None, p=None, n_seeds=1, verdict="undecided", seeds={"0": 0})


def cell(training: float, adaptation: float, *accuracy: float) -> GridCell:
    by_seed = {str(seed): value for seed, value in enumerate(accuracy)}
    return GridCell(training_rate=training, adaptation_rate=adaptation, accuracy=by_seed, to_meta_init=ZERO)


def test_the_optimum_is_the_best_mean_and_its_interval_is_over_the_best_cells_of_the_seeds() -> None:
    cells = [
        cell(-0.1, 0.1, 0.30, 0.41, 0.37),  # the best mean, 0.36, and the best of seed 1
        cell(-0.1, 0.2, 0.40, 0.20, 0.20),  # the best of seed 0
        cell(0.1, 0.2, 0.30, 0.30, 0.38),  # the best of seed 2
        cell(0.1, 0.1, 0.40, 0.20, 0.20),  # no better than the second
    ]
    found = find_optimum(cells)
    assert (found.training_rate, found.adaptation_rate) == (-0.1, 0.1)
    assert found.accuracy.mean == pytest.approx(0.36)
    assert found.training_rates.seeds == {"0": -0.1, "1": -0.1, "2": 0.1}
    assert found.adaptation_rates.seeds == {"0": 0.2, "1": 0.1, "2": 0.2}
    # -0.1, -0.1, 0.1: standard deviation 0.11547; the t quantile of 2 degrees of freedom is 4.3027
    assert found.training_rates.mean == pytest.approx(-1 / 30)
    assert found.training_rates.ci95 == pytest.approx(4.3027 * 0.11547 / 3**0.5, rel=1e-4)
    assert found.training_rates.verdict == "undecided"


def test_the_preset_has_a_run_for_each_rate_and_adapts_with_each() -> None:
    grid = EXPERIMENTS["grid"]
    assert min(GRID_RATES) < 0 < max(GRID_RATES)
    assert 0 in GRID_RATES
    assert len({run.name for run in grid.runs}) == 2 * len(GRID_RATES)
    assert {(run.grid, run.train["inner_lr"]) for run in grid.runs} == {
        (name, rate) for name in ("maml", "maml-1step") for rate in GRID_RATES
    }
    assert all([float(edit) for edit in run.edits[1:]] == list(GRID_RATES) for run in grid.runs)


def test_a_grid_on_generated_images_has_the_figures_of_its_probes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid, rates = EXPERIMENTS["grid"], (-0.05, 0.1)
    runs = tuple(
        dataclasses.replace(run, edits=("learned", *map(str, rates)))
        for run in grid.runs
        if run.grid == "maml-1step" and run.train["inner_lr"] in rates
    )
    train = {"eval_every": 2, "eval_episodes": 2}
    monkeypatch.setitem(EXPERIMENTS, "grid", dataclasses.replace(grid, runs=runs, train=train))
    drawn: list[Any] = []
    monkeypatch.setattr(report, "run", lambda settings, _reporter: drawn.append(settings))
    prepare_data.run(PrepareDataSettings(synthetic=True, image_size=16, limit_per_class=40), SilentReporter())
    small = {"outer_steps": 2, "n_episodes": 3, "filters": 8, "threads": 1, "seeds": 2, "data": "synthetic", "jobs": 1}
    result = reproduce.run(ReproduceSettings(preset="grid", **small), SilentReporter())
    assert [path.name for path in drawn[0].results] == ["reproduce.json"]
    found = result.metrics.grids["maml-1step"]
    assert list(found.cells) == ["same-task", "cross-task", "own-head"]
    assert {rate: list(seeds) for rate, seeds in found.validation.items()} == {"-0.05": ["0", "1"], "0.1": ["0", "1"]}
    for training in rates:
        models = tuple(f"grid-maml-1step-rate{training:g}-s{seed}" for seed in (0, 1))
        for adaptation in rates:
            asked = ProbeSettings(models=models, rates=(str(adaptation),), n_episodes=3, own_head=True, threads=1)
            single = probe.run(asked, SilentReporter()).metrics
            for reading, cells in found.cells.items():
                (one,) = (c for c in cells if (c.training_rate, c.adaptation_rate) == (training, adaptation))
                for seed, model in zip("01", models, strict=True):
                    measured: Any = single[model].same_task if reading == "same-task" else single[model].cross_task
                    if reading == "own-head":
                        measured = single[model].own_head[str(adaptation)].same_task
                    assert one.accuracy[seed] == pytest.approx(measured.accuracy.mean)
                    assert one.to_meta_init.seeds[seed] == pytest.approx(measured.delta.mean)
    assert result.metrics.signs == []
    assert not any("four signs" in note for note in result.notes)


def test_the_terminal_shows_the_best_rates() -> None:
    lines = shown(Result[ReproduceMetrics].model_validate(rate_grid()))
    row = next(line for line in lines if "own-head" in line)
    assert row.split()[:5] == ["maml", "own-head", "-0.05", "0.05", "41.00"]
    assert row.endswith("0.05 ± 0.02")


def test_the_figure_names_the_best_rates_with_their_intervals_over_seeds() -> None:
    drawing = KIND.make(material(rate_grid()))
    assert drawing is not None
    assert drawing.sentence.startswith(
        "maml, same-task: best at training rate -0.05 and adaptation rate 0.05 with 41.0 % (best cells of 2 seeds: "
        "training rate -0.05 in each, adaptation rate 0.05 ± 0.02); maml, cross-task: "
    )
    rows = [row for row in drawing.table.rows if row[1] == "own-head"]
    assert len(rows) == 9
    assert rows[2] == ("maml", "own-head", "-0.05", "0.05", "41.0 %", "+11.00 ± 1.00", "30.5 %")
