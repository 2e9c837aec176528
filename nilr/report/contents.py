"""The contents of a report: every figure whose numbers the material has, and tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nilr.claims import COUNTERPART, claim_word
from nilr.report.figures import history, learned_rates, protocols, seeds
from nilr.report.figures.figure import Drawing, Kind, Material, Table
from nilr.report.numbers import NOTHING, points
from nilr.report.reading import Source
from nilr.results.probe import ProbeMetrics
from nilr.results.reproduce import RunFigures, Sign
from nilr.results.result import Result
from nilr.sections import SECTIONS
from nilr.words import counted

KINDS: tuple[Kind, ...] = (
    protocols.KIND,
    seeds.KIND,
    learned_rates.KIND,
    history.KIND,
    *(section.figure for section in SECTIONS if section.figure is not None),
)


@dataclass(frozen=True)
class Contents:
    """The parts of a report."""

    title: str  # of the report
    measured: Sequence[str]  # one line for each way of probing
    verdict: Sequence[tuple[str, Table]]  # findings of experiments on the paper's signs: titles and tables
    notes: Sequence[str]  # of the results, without repetitions
    figures: Sequence[tuple[Kind, Drawing]]  # in order
    left_out: Sequence[Kind]  # figures that lack their numbers
    models: Table  # and how they were trained
    files: Table  # the results, with their digests


def contents(material: Material) -> Contents:
    """Return the contents of a report on the material."""
    sources = material.sources
    made = [(kind, kind.make(material)) for kind in KINDS]
    probes = [source.result for source in sources if source.command == "probe"]
    files = [(s.name, s.result.schema_, s.result.started_at[:19], s.sha256[:16]) for s in sources]
    return Contents(
        title="Effect of the inner learning rates on the features",
        measured=list(dict.fromkeys(_measured(result) for result in probes)),
        verdict=_verdict(sources),
        notes=list(dict.fromkeys(note for source in sources for note in source.result.notes)),
        figures=[(kind, drawing) for kind, drawing in made if drawing is not None],
        left_out=[kind for kind, drawing in made if drawing is None],
        models=_models(sources),
        files=Table(("file", "result", "started at", "SHA-256"), files),
    )


def _measured(result: Result[ProbeMetrics]) -> str:
    """Describe the episodes of a probe and how it classifies them."""
    config, data = result.config, result.data_b or result.data
    rules = config.get("neighbours")
    rule = rules[0] if isinstance(rules, list) and rules else rules
    where = f"the {data.split} split of {data.name} ({data.image_size} px)" if data else "an unknown split"
    n_query = config.get("n_query")
    queries = counted(n_query, "query", "queries") if isinstance(n_query, int) else "an unknown number of queries"
    return (
        f"{config.get('n_way')}-way {config.get('n_shot')}-shot episodes with {queries} per class, "
        f"from {where}; neighbours: {rule}, distance: {config.get('distance')}, task B: {config.get('task_b')}"
    )


def _verdict(sources: Sequence[Source[Any]]) -> list[tuple[str, Table]]:
    """Return the findings of experiments on the paper's signs."""
    header = ("run", "protocol", "claimed", "measured delta to meta-init, points", "seeds", "finding")
    tables = []
    for metrics in (source.result.metrics for source in sources if source.command == "reproduce"):
        tables.append(("The paper's four signs", Table(header, [_row(sign) for sign in metrics.signs])))
        rows = [(choice, *_row(sign)) for choice, signs in metrics.choices.items() for sign in signs]
        if rows:
            tables.append(("The paper's four signs under other choices", Table(("choice", *header), rows)))
        compared = [_compared(name, run, p) for name, run in metrics.runs.items() for p in run.to_counterpart]
        if compared:
            header = ("difference of runs, points", "protocol", *COUNTERPART)
            tables.append(("Runs that differ in one choice of training", Table(header, compared)))
    return tables


def _compared(run: str, figures: RunFigures, protocol: str) -> tuple[str, ...]:
    levels = (figures.accuracy_to_counterpart.get(name) for name in ("meta-init", protocol))
    gains = (figures.to_counterpart[protocol], figures.at_equal_level.get(protocol))
    return f"{run} - {figures.counterpart}", protocol, *map(points, (*levels, *gains))


def _row(sign: Sign) -> tuple[str, ...]:
    measured = sign.measured
    return sign.run, sign.protocol, claim_word(sign.claimed), points(measured), str(measured.n_seeds), sign.finding


def _models(sources: Sequence[Source[Any]]) -> Table:
    rows = [
        (
            f"{model.name}@{model.checkpoint}",
            model.algo,
            f"{model.outer_step:,}",
            NOTHING if model.seed is None else str(model.seed),
            model.digest[:12],
        )
        for source in sources
        for model in source.result.models
    ]
    return Table(("model", "algorithm", "updates", "seed", "digest"), list(dict.fromkeys(rows)))
