"""Rate grids: MAML trained at several fixed rates, each adapted with several rates.

Bernacchia (Meta-learning with negative learning rates, 2021) derives for regression that the best rate in training is
negative and the best rate in adaptation positive.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from nilr.checkpoint import read_manifest
from nilr.claims.over_seeds import combine_seeds
from nilr.claims.runs import MeasuredModel
from nilr.config.experiments import Run
from nilr.probes.edits import LEARNED
from nilr.results.probe import EditMetrics, ModelProbe
from nilr.results.records import Mean
from nilr.results.reproduce import GridCell, GridOptimum, RateGrid
from nilr.store import Store

READINGS = ("same-task", "cross-task", "own-head")


def rate_grids(runs: Sequence[Run], models: Mapping[str, Sequence[MeasuredModel]], store: Store) -> dict[str, RateGrid]:
    """Return the grids that the runs belong to, by name."""
    names = dict.fromkeys(run.grid for run in runs if run.grid is not None)
    return {
        name: _grid({run.train["inner_lr"]: models[run.name] for run in runs if run.grid == name}, store)
        for name in names
    }


def _grid(trained: Mapping[float, Sequence[MeasuredModel]], store: Store) -> RateGrid:
    cells = {
        reading: [cell for rate, seeds in trained.items() for cell in _cells(reading, rate, seeds)]
        for reading in READINGS
    }
    validation = {str(rate): _validation(seeds, store) for rate, seeds in trained.items()}
    return RateGrid(
        cells=cells,
        optimum={reading: find_optimum(found) for reading, found in cells.items()},
        validation={rate: accuracies for rate, accuracies in validation.items() if accuracies},
    )


def _cells(reading: str, rate: float, seeds: Sequence[MeasuredModel]) -> Iterator[GridCell]:
    for edit in (edit for edit in seeds[0].probe.edits if edit != LEARNED):
        measured = {str(model.seed): metrics for model in seeds if (metrics := _metrics(model.probe, edit, reading))}
        yield GridCell(
            training_rate=rate,
            adaptation_rate=float(edit),
            accuracy={seed: metrics.accuracy.mean for seed, metrics in measured.items()},
            to_meta_init=combine_seeds({s: metrics.delta.mean for s, metrics in measured.items() if metrics.delta}),
        )


def _metrics(probe: ModelProbe, edit: str, reading: str) -> EditMetrics | None:
    if reading == "own-head":
        return probe.own_head[edit].same_task
    return probe.edits[edit].same_task if reading == "same-task" else probe.edits[edit].cross_task


def find_optimum(cells: Sequence[GridCell]) -> GridOptimum:
    """Return the cell with the highest accuracy, on average over seeds and of each seed; of equal ones the first."""
    best = max(cells, key=lambda cell: fmean(cell.accuracy.values()))
    of_seed = {seed: max(cells, key=lambda cell: cell.accuracy[seed]) for seed in best.accuracy}
    return GridOptimum(
        training_rate=best.training_rate,
        adaptation_rate=best.adaptation_rate,
        accuracy=combine_seeds(best.accuracy),
        training_rates=combine_seeds({seed: cell.training_rate for seed, cell in of_seed.items()}),
        adaptation_rates=combine_seeds({seed: cell.adaptation_rate for seed, cell in of_seed.items()}),
    )


def _validation(seeds: Sequence[MeasuredModel], store: Store) -> dict[str, float]:
    """Return each seed's best accuracy in validation, which adapts with the training rate."""
    found = {}
    for model in seeds:
        best = read_manifest(store.find_model(model.model).file).metrics.get("best_val_accuracy")
        if best is not None:
            found[str(model.seed)] = Mean.model_validate(best).mean
    return found
