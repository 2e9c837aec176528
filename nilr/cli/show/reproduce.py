"""Show the result of `nilr reproduce`."""

from nilr.claims import claim_word
from nilr.claims.over_seeds import mark, primary
from nilr.claims.runs import COUNTERPART, compare_with_counterpart, mean_level
from nilr.cli.console import Cell, Screen
from nilr.report.figures.rate_grid import rate
from nilr.results.reproduce import EqualLevel, OverSeeds, ReproduceMetrics
from nilr.results.result import Result
from nilr.words import number


def show(result: Result[ReproduceMetrics], screen: Screen) -> None:
    """Write the effect of edits, the differences of runs to their counterparts, and at the end the paper's signs."""
    metrics = result.metrics
    if metrics.grids:
        _show_optima(metrics, screen)
    else:
        _show_exploratory(metrics, screen)
    _show_runs(metrics, screen)


def _show_runs(metrics: ReproduceMetrics, screen: Screen) -> None:
    """Write the paper's signs and the same differences of all other runs."""
    signs = {(sign.run, sign.protocol): sign for sign in metrics.signs}
    demonstration = any(sign.finding == "demonstration" for sign in metrics.signs)
    rows: list[tuple[Cell, ...]] = []
    for run, figures in metrics.runs.items():
        for protocol, found in figures.to_meta_init.items():
            sign = signs.get((run, protocol))
            claim = None if sign is None else claim_word(sign.claimed)
            # on generated images, that of a control is one too
            finding = sign.finding if sign else "demonstration" if demonstration else "exploratory"
            levels = (screen.share(mean_level(figures, level)) for level in ("meta-init", protocol))
            deltas = (screen.delta(found), screen.delta(found.new_classes))
            p = None if found.p_holm is None else number(found.p_holm, 2)
            rows.append((run, protocol, claim, *levels, *deltas, p, str(found.n_seeds), finding))
    deltas = ("delta, new seeds", "delta, new seeds and classes")
    header = ("run", "protocol", "paper", "before", "after", *deltas, "p (Holm)", "seeds", "finding")
    screen.table(header, rows, names=2)


def _show_exploratory(metrics: ReproduceMetrics, screen: Screen) -> None:
    """Write the signs under other choices, the differences of runs to their counterparts, and the effect of edits."""

    def delta(measured: OverSeeds | EqualLevel | None) -> Cell:
        return None if measured is None else screen.delta(primary(measured), mark(measured))

    again: list[tuple[Cell, ...]] = [
        (choice, sign.run, sign.protocol, claim_word(sign.claimed), delta(sign.measured), str(sign.measured.n_seeds))
        for choice, found in metrics.choices.items()
        for sign in found
    ]
    if again:
        screen.table(("choice", "run", "protocol", "paper", "delta to meta-init", "seeds"), again, names=3)
    beside: list[tuple[Cell, ...]] = [
        (
            f"{run} - {figures.counterpart}",
            protocol,
            *map(delta, compare_with_counterpart(figures, protocol)),
            str(found.n_seeds),
        )
        for run, figures in metrics.runs.items()
        for protocol, found in figures.to_counterpart.items()
    ]
    if beside:
        screen.table(("difference of runs", "protocol", *COUNTERPART, "seeds"), beside, names=2)
    edits: list[tuple[Cell, ...]] = [
        (run, name, delta(found["same-task"]), delta(found["cross-task"]))
        for run, figures in metrics.runs.items()
        for name, found in figures.edits_to_learned.items()
    ]
    if edits:
        screen.table(("run", "rates", "same-task, delta to learned", "cross-task, delta to learned"), edits, names=2)


def _show_optima(metrics: ReproduceMetrics, screen: Screen) -> None:
    """Write the best cell of each reading of each rate grid."""
    optima: list[tuple[Cell, ...]] = [
        (
            *(grid, reading, f"{found.training_rate:g}", f"{found.adaptation_rate:g}"),
            screen.share(found.accuracy.mean),
            *map(rate, (found.training_rates, found.adaptation_rates)),
        )
        for grid, figures in metrics.grids.items()
        for reading, found in figures.optimum.items()
    ]
    best = ("best training rate", "best adaptation rate", "accuracy", "best training rates of seeds")
    screen.table(("grid", "reading", *best, "best adaptation rates of seeds"), optima, names=2)
