"""What a report holds: every figure that the material allows, and a word on those that it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nilr.report.figures import curves, edits, history, learned_rates, protocols, seeds, similarity
from nilr.report.figures.figure import Drawing, Kind, Material, Table
from nilr.report.verdict import verdicts
from nilr.report.words import NOTHING

KINDS: tuple[Kind, ...] = (
    protocols.KIND,
    seeds.KIND,
    edits.KIND,
    learned_rates.KIND,
    history.KIND,
    *curves.KINDS,
    similarity.KIND,
)


@dataclass(frozen=True)
class Contents:
    """The parts of a report.

    Attributes:
        title: of all of it.
        measured: one line on what was judged, for each result.
        notes: what the results themselves say, each once.
        verdict: what experiments found of the paper's signs, tables with their titles.
        figures: drawn ones, in order.
        left_out: those that lack their numbers.
        models: the models, and how they were trained.
        files: the results, with their digests.
    """

    title: str
    measured: Sequence[str]
    notes: Sequence[str]
    verdict: Sequence[tuple[str, Table]]
    figures: Sequence[tuple[Kind, Drawing]]
    left_out: Sequence[Kind]
    models: Table
    files: Table


def contents(material: Material) -> Contents:
    """Return what a report of the material holds."""
    made = [(kind, kind.make(material)) for kind in KINDS]
    return Contents(
        title="What the inner rates do to the features",
        measured=list(dict.fromkeys(line for source in material.sources if (line := _measured(source.result)))),
        notes=list(dict.fromkeys(note for source in material.sources for note in source.result.get("notes", []))),
        verdict=list(verdicts(material.sources)),
        figures=[(kind, drawing) for kind, drawing in made if drawing is not None],
        left_out=[kind for kind, drawing in made if drawing is None],
        models=_models(material),
        files=Table(
            ("file", "result", "made at", "SHA-256"),
            [(s.name, s.result["schema"], s.result["started_at"][:19], s.sha256[:16]) for s in material.sources],
        ),
    )


def _measured(result: dict[str, object]) -> str | None:
    """Say on what a probe's episodes were drawn."""
    config, data = result.get("config"), result.get("data")
    if result.get("command") != "probe" or not isinstance(config, dict) or not isinstance(data, dict):
        return None
    task = f"{config.get('n_way')}-way {config.get('n_shot')}-shot, {config.get('n_query')} queries per class"
    rules = config.get("neighbours")
    rule = f"{rules[0] if isinstance(rules, list) and rules else rules} neighbour by {config.get('distance')}"
    where = f"the {data.get('split')} split of {data.get('name')} ({data.get('image_size')} px)"
    return f"{task}, on {where}; {rule}, tasks A and B {config.get('task_b')}"


def _models(material: Material) -> Table:
    rows = []
    for source in material.sources:
        for model in source.result.get("models", []):
            seed = model.get("seed")
            row = (
                f"{model['name']}@{model['checkpoint']}",
                str(model["algo"]),
                f"{model['outer_step']:,}",
                NOTHING if seed is None else str(seed),
                str(model["digest"])[:12],
            )
            if row not in rows:
                rows.append(row)
    return Table(("model", "algorithm", "updates", "seed", "digest"), rows)
