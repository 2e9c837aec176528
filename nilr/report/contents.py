"""The contents of a report: every figure whose numbers the material has, and tables."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nilr.claims import DEMONSTRATION, claim_word, is_generated
from nilr.claims.over_seeds import mark, primary
from nilr.claims.runs import COUNTERPART, compare_with_counterpart
from nilr.report.figures import (
    forest,
    gradients,
    history,
    learned_rates,
    protocols,
    rate_effects,
    rate_grid,
    seeds,
)
from nilr.report.figures.figure import Drawing, Kind, Material, Table
from nilr.report.numbers import NOTHING, p_value, points
from nilr.report.reading import Source
from nilr.report.subjects import by_question
from nilr.report.verdicts import verdicts
from nilr.results.probe import ProbeMetrics
from nilr.results.question import DEFAULT
from nilr.results.reproduce import EqualLevel, OverSeeds, RunFigures, Sign
from nilr.results.result import Result
from nilr.sections import SECTIONS
from nilr.words import counted, slug

_TITLE = "Effect of the inner learning rates on the features"
SUMMARY = (
    "Nearest-neighbour accuracy before and after adaptation; differences are paired, with 95 % intervals over "
    "episodes, or over seeds for several of them. A verdict is undecided if the interval includes zero."
)
LEFT_OUT = "These figures need results that were not given"

KINDS: tuple[Kind, ...] = (
    forest.SIGNS_KIND,
    forest.CHOICES_KIND,
    protocols.KIND,
    seeds.KIND,
    rate_grid.KIND,
    history.TRAINING_KIND,
    history.KIND,
    learned_rates.KIND,
    rate_effects.KIND,
    gradients.CONSISTENCY_KIND,
    gradients.STEP_KIND,
    *(section.figure for section in SECTIONS if section.figure is not None),
)

# Notes with the findings that a table of the report has.
_VERDICT = re.compile(r"The paper's four signs|[\w.-]+,? (same|cross)-task: (the paper )?claim")


@dataclass(frozen=True)
class Part:
    """The results of one question, or those of other commands."""

    question: str | None  # of the probes; None if there are none
    summary: Table | None  # what adaptation changes, in one table with verdicts
    measured: Sequence[str]  # lines on the question and the ways of probing
    notes: Sequence[str]  # of the results, without repetitions
    figures: Sequence[tuple[Kind, Drawing]]  # in order
    suffix: str  # of the names of its figures

    @property
    def title(self) -> str:
        """Its heading in a report of several parts."""
        return f"Question: {self.question}" if self.question else "Rates and training"

    def name(self, kind: Kind) -> str:
        """Return the name of a figure's files, without extension."""
        return f"{kind.name}{self.suffix}"


@dataclass(frozen=True)
class Contents:
    """The parts of a report."""

    title: str  # of the report
    measured_on: str | None  # the first and the last day of the results
    several: str | None  # a warning, if the results answer several questions
    demonstration: str | None  # a warning, if images are generated
    verdict: Sequence[tuple[str, Table]]  # findings of experiments on the paper's signs: titles and tables
    parts: Sequence[Part]  # one for each question
    left_out: Sequence[Kind]  # figures that lack their numbers
    models: Table  # and how they were trained
    files: Table  # the results, with their digests

    @property
    def warnings(self) -> list[str]:
        """What a reader must know first."""
        return [warning for warning in (self.demonstration, self.several) if warning]

    @property
    def figures(self) -> list[tuple[Kind, Drawing]]:
        """The figures of all parts."""
        return [figure for part in self.parts for figure in part.figures]


def contents(material: Material) -> Contents:
    """Return the contents of a report on the material."""
    sources, questions = material.sources, by_question(material.sources)
    judged = bool(forest.signs(material))  # the experiment's findings are the summary
    if len(questions) > 1:
        parts = [
            _part(
                Material(of_question, [s for s in material.subjects if s.question == question]),
                question,
                n,
                judged=judged,
            )
            for n, (question, of_question) in enumerate(questions.items(), start=1)
        ]
        others = Material([s for s in sources if s.command != "probe"], (), material.histories)
        parts += [part for part in [_part(others, None)] if part.figures or part.notes]
    else:
        parts = [_part(material, next(iter(questions), None), judged=judged)]
    made = {kind.name for part in parts for kind, _ in part.figures}
    question = parts[0].question if len(questions) == 1 else None
    evaluated = [source.result.data_b or source.result.data for source in sources]
    return Contents(
        title=_TITLE if question in (None, DEFAULT) else f"{_TITLE}: {question}",
        measured_on=_days(sources),
        several=_several(list(questions)),
        demonstration=DEMONSTRATION if any(map(is_generated, evaluated)) else None,
        verdict=_verdict(sources),
        parts=parts,
        left_out=[kind for kind in KINDS if kind.name not in made],
        models=_models(sources),
        files=Table(
            ("file", "result", "question", "started at", "SHA-256"),
            [
                (s.name, s.result.schema_, s.result.question or NOTHING, s.result.started_at[:19], s.sha256[:16])
                for s in sources
            ],
        ),
    )


def _part(material: Material, question: str | None, number: int | None = None, *, judged: bool = False) -> Part:
    made = [(kind, kind.make(material)) for kind in KINDS]
    notes = [note for source in material.sources for note in source.result.notes]
    asked = [f"Question: {question}"] if question and number is None else []  # one of several is in a heading
    probes = [source.result for source in material.sources if source.command == "probe"]
    return Part(
        question=question,
        summary=None if judged else verdicts(material.subjects),
        measured=[*asked, *dict.fromkeys(_measured(result) for result in probes)],
        # the report says both elsewhere, once
        notes=[note for note in dict.fromkeys(notes) if note != DEMONSTRATION and not _VERDICT.match(note)],
        figures=[(kind, drawing) for kind, drawing in made if drawing is not None],
        suffix="" if number is None else f".{number}-{slug(question or '')}",
    )


def _days(sources: Sequence[Source[Any]]) -> str | None:
    days = sorted(source.result.started_at[:10] for source in sources)
    return None if not days else days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"


def _several(questions: Sequence[str]) -> str | None:
    if len(questions) < 2:
        return None
    return (
        f"The results answer {len(questions)} different questions, each with its own figures; do not average across "
        f"them: {'; '.join(questions)}."
    )


def _measured(result: Result[ProbeMetrics]) -> str:
    """Describe the episodes of a probe and how it classifies them."""
    config, data = result.config, result.data_b or result.data
    where = f"the {data.split} split of {data.name} ({data.image_size} px)" if data else "an unknown split"
    n_way, n_shot, n_query = (config.get(name) for name in ("n_way", "n_shot", "n_query"))
    episodes = "episodes of unknown size"
    if isinstance(n_query, int) and None not in (n_way, n_shot):
        episodes = f"{n_way}-way {n_shot}-shot episodes with {counted(n_query, 'query', 'queries')} per class"
    neighbours = config.get("neighbours")
    how = {
        "neighbours": neighbours[0] if isinstance(neighbours, list) and neighbours else neighbours,
        "distance": config.get("distance"),
        "task B": config.get("task_b"),
    }
    known = [f"{name}: {value}" for name, value in how.items() if value is not None]
    return "; ".join([f"{episodes} from {where}", *known])


def _verdict(sources: Sequence[Source[Any]]) -> list[tuple[str, Table]]:
    """Return the findings of experiments on the paper's signs."""
    start = ("run", "protocol", "claimed")
    tables = []
    for metrics in (source.result.metrics for source in sources if source.command == "reproduce"):
        deltas = ("delta, new seeds, points", "delta, new seeds and classes, points")
        header = (*start, *deltas, "seeds", "p (Holm)", "finding")
        if metrics.signs:
            tables.append(("The paper's four signs", Table(header, [_row(sign) for sign in metrics.signs])))
        compared = [_compared(name, run, p) for name, run in metrics.runs.items() for p in run.to_counterpart]
        if compared:
            columns = ("difference of runs, points", "protocol", *COUNTERPART)
            tables.append(("Runs that differ in one choice of training: exploratory", Table(columns, compared)))
    return tables


def _compared(run: str, figures: RunFigures, protocol: str) -> tuple[str, ...]:
    return f"{run} - {figures.counterpart}", protocol, *map(_points, compare_with_counterpart(figures, protocol))


def _row(sign: Sign) -> tuple[str, ...]:
    measured = sign.measured
    deltas = points(measured), points(measured.new_classes)
    start = sign.run, sign.protocol, claim_word(sign.claimed)
    return *start, *deltas, str(measured.n_seeds), p_value(measured.p_holm), sign.finding


def _points(measured: OverSeeds | EqualLevel | None) -> str:
    return NOTHING if measured is None else points(primary(measured)) + mark(measured)


def _models(sources: Sequence[Source[Any]]) -> Table:
    rows = [
        (
            model.name,
            model.checkpoint,
            model.algo,
            f"{model.outer_step:,}",
            NOTHING if model.seed is None else str(model.seed),
            model.digest[:12],
        )
        for source in sources
        for model in source.result.models
    ]
    return Table(("model", "checkpoint", "algorithm", "updates", "seed", "digest"), list(dict.fromkeys(rows)))
