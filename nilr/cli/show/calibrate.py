"""The result of `nilr calibrate` on a screen."""

from nilr.cli.console import Screen
from nilr.results.calibrate import Anchor, CalibrateMetrics, Judging
from nilr.results.records import Mean
from nilr.results.result import Result
from nilr.words import counted, number

_TABLE = (
    "source", "network", "dataset", "shots", "accuracy", "read in", "steps", "inner rate", "outer rate", "batch",
    "updates", "queries", "statistics", "episodes", "remarks",
)  # fmt: skip


def show(result: Result[CalibrateMetrics], screen: Screen) -> None:
    """Write each model beside the published figures, and those that are not comparable; or the table of anchors."""
    metrics = result.metrics
    if metrics.anchors:
        screen.answer.table(_TABLE, [_row(anchor, screen.answer) for anchor in metrics.anchors], names=4)
    judged = [
        (
            name,
            _label(found.anchor),
            screen.mean(_published(found.anchor)),
            screen.mean(found.accuracy),
            screen.delta(Mean(mean=found.difference, ci95=found.band, n_episodes=found.accuracy.n_episodes)),
            found.verdict,
            _describe(found.judging),
        )
        for name, model in metrics.models.items()
        for found in model.judged
    ]
    if judged:
        header = ("model", "anchor", "published", "measured", "difference, band", "verdict", "evaluated with")
        screen.table(header, judged, names=2)
    others = [
        (name, _label(found.anchor), screen.mean(_published(found.anchor)), "; ".join(found.reasons))
        for name, model in metrics.models.items()
        for found in model.not_comparable
    ]
    if others:
        screen.table(("model", "not comparable", "published", "because"), others, names=2)


def _label(anchor: Anchor) -> str:
    """Return what identifies an anchor among those of one experiment."""
    word = {"head": "", "features": f", {anchor.algorithm.removesuffix(' features')} features"}[anchor.measured]
    return f"{anchor.source}, {anchor.network}{word}"


def _published(anchor: Anchor) -> Mean:
    return Mean(mean=anchor.accuracy, ci95=anchor.ci95, n_episodes=anchor.n_episodes or 0)


def _describe(judging: Judging) -> str:
    """Describe how a model was evaluated; assumed values have a question mark."""
    words = {
        "n_query": counted(judging.n_query, "query", "queries"),
        "inner_steps": None if judging.inner_steps is None else counted(judging.inner_steps, "step"),
        "batch_stats": judging.batch_stats,
    }
    return ", ".join(f"{word}?" if name in judging.assumed else word for name, word in words.items() if word)


def _row(anchor: Anchor, screen: Screen) -> tuple[str | None, ...]:
    steps = [str(n) for n in (anchor.inner_steps, anchor.eval_inner_steps) if n is not None]
    flags = {"pretrained": anchor.pretrained, "ensemble": anchor.ensemble, "features": anchor.measured == "features"}
    remarks = [*(word for word, found in flags.items() if found), *filter(None, [anchor.body_differs, anchor.remarks])]
    counts = (anchor.meta_batch_size, anchor.outer_steps, anchor.n_query)
    return (
        anchor.source,
        f"{anchor.algorithm}, {anchor.network}",
        anchor.dataset,
        str(anchor.n_shot),
        screen.mean(_published(anchor)),
        anchor.reported_by,
        "/".join(steps) or None,
        anchor.inner_lr,
        None if anchor.outer_lr is None else number(anchor.outer_lr),
        *(None if n is None else str(n) for n in counts),
        anchor.batch_stats,
        None if anchor.n_episodes is None else str(anchor.n_episodes),
        "; ".join(remarks) or None,
    )
